/*
 * Shared by every server-less layer (kernels/, engine/, formats/, stories/, butterflies/): how an error is
 * reported to the caller and how memory is requested. Neither this file nor any file of those layers depends
 * on PostgreSQL: the same sources are built into the sanitized C tests and the fuzzers.
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
	LLM_INVALID,   /* a value that the argument does not accept: 22023 */
	LLM_SHAPE,     /* shapes that do not match: 2202E */
	LLM_FORMAT,    /* a file or text that breaks its format: 22P03 */
	LLM_RANGE,     /* a number out of range: 22003 */
	LLM_MISSING,   /* a named object that does not exist: 42704 */
	LLM_LIMIT,     /* a limit of the program: 54000 */
	LLM_NO_MEMORY, /* pg_llm.memory_limit, pg_llm.server_memory_limit or the machine's memory: 53200 */
	LLM_CANCELED   /* the caller's stop function returned true: 57014 */
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
/*
 * The shortest decimal form that reads back as x, or as the same float32 if x is one, and NaN and Infinity as
 * in SQL; written to out, which is returned. With %g, 1.0000001 is 1, which a message calls out of range.
 */
extern const char *llm_decimal(double x, char out[32]);
/* Adds a hint (printf style) to an error and returns its code: return llm_hint(err, "…"). */
extern LlmCode llm_hint(LlmError *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Memory. alloc never raises: it returns NULL if the limit or the machine has no room. release takes the size
 * that was requested, so that the owner can do its accounting without block headers. Blocks are 64-byte
 * aligned.
 */
typedef struct LlmAllocator
{
	void *(*alloc)(void *context, size_t size);
	void (*release)(void *context, void *block, size_t size);
	void *context;
} LlmAllocator;

/* Polled at least every few milliseconds of work; true ends the work with LLM_CANCELED. */
typedef struct LlmStop
{
	bool (*requested)(void *context);
	void *context;
} LlmStop;

#endif
