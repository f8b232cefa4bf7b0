/* Raises errors of the engine as PostgreSQL errors, and lets long loops notice a cancel request. */
#ifndef LLM_SRC_BASE_ERRORS_H
#define LLM_SRC_BASE_ERRORS_H

#include "postgres.h"

#include "miscadmin.h"

#include "common/base.h"
#include "engine/pool.h"

/* Raises err as an ERROR with its SQLSTATE, detail and hint. */
extern void RaiseError(const LlmError *err) __attribute__((noreturn));
/* if (llm_thing(..., &err) != LLM_OK) RaiseError(&err) */
#define LLM_CHECK(call, err)                                                                                 \
	do                                                                                                       \
	{                                                                                                        \
		if ((call) != LLM_OK)                                                                                \
			RaiseError(err);                                                                                 \
	} while (0)

/* Stop callback for the loops in formats/: true when a cancel or a shutdown is pending, which RaiseError then
 * raises. */
extern const LlmStop CancelStop;
/* The same as a function, for the thread pool, which polls it between tiles. */
extern bool StopWanted(void);
/* Bytes copied, or elements visited, between two checks for a cancel request. */
#define LLM_POLL_BYTES ((Size) 1 << 20)
#define LLM_POLL(i)                                                                                          \
	do                                                                                                       \
	{                                                                                                        \
		if ((i) % LLM_POLL_ELEMENTS == 0)                                                                    \
			CHECK_FOR_INTERRUPTS();                                                                          \
	} while (0)

#endif
