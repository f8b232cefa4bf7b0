/* The limits of memory; what is asked for and allocated within them is in pg_llm.h. */
#ifndef LLM_SRC_BASE_MEMORY_H
#define LLM_SRC_BASE_MEMORY_H

#include "common/base.h"

/* Defines the settings. */
extern void MemoryInit(void);
/* Raises an error of code LLM_NO_MEMORY, with the limit that was in the way. */
extern void MemoryRaise(const LlmError *err) __attribute__((noreturn));

#endif
