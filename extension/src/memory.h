/* The limits of memory; what is asked for and allocated within them is in pg_llm.h. */
#ifndef LLM_SRC_MEMORY_H
#define LLM_SRC_MEMORY_H

/* Defines the settings. */
extern void MemoryInit(void);

#endif
