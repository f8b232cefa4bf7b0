/* Memory of a session within its limits: reserving, allocating, copying and evicting. */
#ifndef LLM_SRC_BASE_MEMORY_H
#define LLM_SRC_BASE_MEMORY_H

#include "postgres.h"

#include "common/base.h"

extern int pg_llm_memory_limit_mb; /* limit of one session */

/* Defines the settings. */
extern void MemoryInit(void);
/* Raises an error of code LLM_NO_MEMORY that names the limit that was exceeded. */
extern void MemoryRaise(const LlmError *err) __attribute__((noreturn));

/*
 * Registers a callback for memory pressure: it frees something that is kept only for reuse, and returns false
 * when nothing is left to free.
 */
typedef bool (*MemoryEvict)(void);
extern void MemoryOnPressure(MemoryEvict callback);

/* memcpy for large sizes, which a cancel request can interrupt. */
extern void CopyMemory(void *to, const void *from, Size size);

/*
 * ERROR 53200 if the memory of this session (PostgreSQL's and the engine's), or that of all sessions, plus
 * size would exceed its limit. Call it before every allocation that grows with the user's data; small
 * requests are cheap and are added up.
 */
extern void ReserveMemory(Size size);
/*
 * later: memory that PostgreSQL will use for a result after the extension's code has returned: the copy that
 * it keeps in a variable or a row, the text that it displays. It counts only towards the limit of all
 * sessions.
 */
extern void ReserveResult(Size size, Size later);
#define LLM_BYTES_SHOWN 4 /* per byte of a bytea or text: hexadecimal, in a row */
/* per element of an array: its text in a chunk of its own, then in a row */
#define LLM_ELEMENT_SHOWN 64
/* A value with a full header (the value itself, or a copy of a stored one), and a copy of a slice of its
 * bytes. Both are reserved. */
extern struct varlena *DetoastWhole(Datum datum);
extern struct varlena *DetoastSlice(Datum datum, Size first, Size size);
/* The engine's allocator: malloc'd and counted; its blocks outlive statements. */
extern LlmAllocator *SessionAllocator(void);
/* The same, but bound to the current memory context: blocks are freed with it, on error too. */
extern LlmAllocator *ContextAllocator(void);

#endif
