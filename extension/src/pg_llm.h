/*
 * What the glue files share: settings, memory and errors.
 */
#ifndef LLM_SRC_PG_LLM_H
#define LLM_SRC_PG_LLM_H

#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "engine/pool.h"

extern int pg_llm_display_limit;   /* elements shown in full; 0 = all */
extern bool pg_llm_copying;        /* a COPY TO runs: tensors are written in full */
extern int pg_llm_memory_limit_mb; /* what one session may hold */
extern int pg_llm_threads;         /* 0 = as many as this process may use */
extern int pg_llm_isa;             /* LlmIsa */
extern bool pg_llm_share_weights;  /* one copy of a model for all sessions */

/* Raises err as an ERROR with its SQLSTATE, detail and hint. */
extern void LlmRaise(const LlmError *err) __attribute__((noreturn));
/* if (llm_thing(..., &err) != LLM_OK) LlmRaise(&err) */
#define LLM_CHECK(call, err)                                                                                 \
	do                                                                                                       \
	{                                                                                                        \
		if ((call) != LLM_OK)                                                                                \
			LlmRaise(err);                                                                                   \
	} while (0)

/* For the formats' loops: true when a cancel or a shutdown waits. LlmRaise then tells it. */
extern const LlmStop LlmCancel;
/* Bytes that are moved, or elements that are looked at, between two looks for a cancel request. */
#define LLM_POLL_BYTES ((Size) 1 << 20)
#define LLM_POLL(i)                                                                                          \
	do                                                                                                       \
	{                                                                                                        \
		if ((i) % LLM_POLL_ELEMENTS == 0)                                                                    \
			CHECK_FOR_INTERRUPTS();                                                                          \
	} while (0)
/* memcpy of what may be long. */
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
/* Hooks into COPY; part of _PG_init. */
extern void CopySettings(void);
/* The engine's allocator: malloc'd, counted, outlives statements. */
extern LlmAllocator *LlmSessionAllocator(void);
/* The same memory bound to the current memory context: freed with it, on error too. */
extern LlmAllocator *LlmContextAllocator(void);

/* OID of a type or relation of this extension, by the extension's own schema (never by search_path). */
extern Oid LlmNamespace(void);
extern Oid LlmTensorType(void);
/* The extension's schema, quoted, for SPI text. */
extern const char *LlmSchema(void);

#endif
