/* COPY TO writes tensors in full, whatever pg_llm.display_limit is. */
#ifndef LLM_SRC_BASE_COPY_H
#define LLM_SRC_BASE_COPY_H

#include "postgres.h"

extern bool pg_llm_copying; /* true while a COPY TO is running */

/* Installs the hooks into COPY; part of _PG_init. */
extern void CopySettings(void);

#endif
