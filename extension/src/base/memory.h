/* Memory of a session within its limits: what is asked for, allocated, copied and given up. */
#ifndef LLM_SRC_BASE_MEMORY_H
#define LLM_SRC_BASE_MEMORY_H

#include "postgres.h"

#include "common/base.h"

extern int pg_llm_memory_limit_mb; /* what one session may hold */

/* Defines the settings. */
extern void MemoryInit(void);
/* Raises an error of code LLM_NO_MEMORY, with the limit that was in the way. */
extern void MemoryRaise(const LlmError *err) __attribute__((noreturn));

/*
 * The callback is called while memory is short: it frees something that is kept only to be used again, and
 * returns false when there is nothing left.
 */
typedef bool (*MemoryEvict)(void);
extern void MemoryOnPressure(MemoryEvict callback);

/* memcpy of what may be long: it can be canceled. */
extern void LlmCopy(void *to, const void *from, Size size);

/*
 * ERROR 53200 when the memory of this session (PostgreSQL's and the engine's) or of all of them, plus size,
 * would pass its limit. Call it for all that grows with the user's data; small sizes cost nothing and add up.
 */
extern void LlmReserve(Size size);
/* later: what PostgreSQL is going to make of a result, where no code of the extension runs: the copy that it
 * keeps in a variable or a row, text that it shows. Only the limit of all sessions counts that. */
extern void LlmReserveResult(Size size, Size later);
#define LLM_BYTES_SHOWN 4 /* of each byte of a bytea or text: hexadecimal, in a row */
/* of each element of an array: its text in a chunk of its own, then in a row */
#define LLM_ELEMENT_SHOWN 64
/* A value with a full header: itself, or a copy of what is stored; and a copy of some of its bytes. Both are
 * reserved. */
extern struct varlena *LlmDetoast(Datum datum);
extern struct varlena *LlmDetoastSlice(Datum datum, Size first, Size size);
/* The engine's allocator: malloc'd, counted, outlives statements. */
extern LlmAllocator *LlmSessionAllocator(void);
/* The same memory bound to the current memory context: freed with it, on error too. */
extern LlmAllocator *LlmContextAllocator(void);

#endif
