/*
 * What every server-less layer (kernels/, engine/, formats/) shares: how an error is told to the caller and
 * how memory is asked for. Nothing here, and nothing that includes it, knows PostgreSQL: the same sources
 * build into the sanitized C tests, the fuzzers and the benchmark program.
 */
#ifndef LLM_BASE_H
#define LLM_BASE_H

#if defined(LLM_CORE) && defined(POSTGRES_H)
#error "kernels/, engine/ and formats/ must not include postgres.h; the glue in src/ may"
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LLM_MAX_DIMS 8

/* Kinds of error; src/base/errors.c maps each to its SQLSTATE. */
typedef enum LlmCode
{
	LLM_OK = 0,
	LLM_INVALID,   /* a value that no such argument may have: 22023 */
	LLM_SHAPE,     /* shapes that do not fit one another: 2202E */
	LLM_FORMAT,    /* a file or text that breaks its format: 22P03 */
	LLM_RANGE,     /* a number out of its range: 22003 */
	LLM_MISSING,   /* a named thing that is not there: 42704 */
	LLM_LIMIT,     /* a limit of the program: 54000 */
	LLM_NO_MEMORY, /* pg_llm.memory_limit, pg_llm.server_memory_limit or the machine's memory: 53200 */
	LLM_CANCELED   /* the caller's stop function said so: 57014 */
} LlmCode;

typedef struct LlmError
{
	LlmCode code;
	char message[512];
	char detail[512];
	char hint[512];
} LlmError;

/* Fills err (printf style) and returns code, so that a check reads: return llm_fail(err, LLM_SHAPE, "…"). */
extern LlmCode llm_fail(LlmError *err, LlmCode code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Adds a hint (printf style) to an error and returns its code: return llm_hint(err, "…"). */
extern LlmCode llm_hint(LlmError *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Memory. alloc returns NULL when the limit or the machine says no (never raises); release takes the size
 * that was asked for, so that the owner can account without headers. Blocks are 64-byte aligned.
 */
typedef struct LlmAllocator
{
	void *(*alloc)(void *context, size_t size);
	void (*release)(void *context, void *block, size_t size);
	void *context;
} LlmAllocator;

/* Polled at least every few milliseconds of work; true ends it with LLM_CANCELED. */
typedef struct LlmStop
{
	bool (*requested)(void *context);
	void *context;
} LlmStop;

#endif
