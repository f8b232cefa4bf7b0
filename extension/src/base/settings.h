/* The settings of a session. */
#ifndef LLM_SRC_BASE_SETTINGS_H
#define LLM_SRC_BASE_SETTINGS_H

#include "postgres.h"

extern int pg_llm_display_limit;  /* elements shown in full; 0 = all */
extern int pg_llm_threads;        /* 0 = as many as this process may use */
extern int pg_llm_isa;            /* LlmIsa; -1 = the best one */
extern bool pg_llm_share_weights; /* one copy of a model for all sessions */

/* Defines them; part of _PG_init. */
extern void SettingsInit(void);

#endif
