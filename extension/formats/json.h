/*
 * A pull parser for JSON (RFC 8259) over a byte buffer: each call of llm_json_next gives one token. It reads
 * nothing past the buffer, nests at most LLM_JSON_DEPTH deep without recursion, checks that text is UTF-8,
 * and keeps integers exact up to 64 bits. For
 *
 *   {"a": [1, 2.5]}
 *
 * the tokens are OBJECT, KEY "a", ARRAY, INTEGER 1, NUMBER 2.5, ARRAY_END, OBJECT_END, END.
 */
#ifndef LLM_FORMATS_JSON_H
#define LLM_FORMATS_JSON_H

#include "common/base.h"

#define LLM_JSON_DEPTH 64

typedef enum LlmJsonToken
{
	LLM_JSON_END, /* the value is complete and nothing follows */
	LLM_JSON_OBJECT,
	LLM_JSON_OBJECT_END,
	LLM_JSON_ARRAY,
	LLM_JSON_ARRAY_END,
	LLM_JSON_KEY,
	LLM_JSON_STRING,
	LLM_JSON_INTEGER,
	LLM_JSON_NUMBER, /* has a fraction or an exponent, or is an integer beyond 64 bits */
	LLM_JSON_TRUE,
	LLM_JSON_FALSE,
	LLM_JSON_NULL
} LlmJsonToken;

typedef struct LlmJson
{
	/* The last token. */
	LlmJsonToken token;
	size_t start;     /* its first byte in the buffer */
	const char *text; /* KEY, STRING: UTF-8, unescaped, valid until the next call; may contain NULs */
	size_t length;
	int64_t integer; /* INTEGER */
	double number;   /* INTEGER, NUMBER */

	const LlmStop *stop; /* set by callers that parse a long text; NULL by default */

	/* Private to the parser. */
	const char *name; /* name of the input, for messages */
	const char *data;
	size_t size;
	size_t at;
	int expect;
	int depth;
	uint64_t objects; /* bit i: level i is an object, not an array */
	const LlmAllocator *allocator;
	size_t polled; /* position of the last poll */
	bool stopped;
	char *scratch; /* text with escapes resolved */
	size_t scratch_size;
} LlmJson;

/*
 * name (for example "vocab.json") is the prefix of every message; data and allocator must outlive the parser.
 */
extern void llm_json_open(
	LlmJson *json, const char *name, const void *data, size_t size, const LlmAllocator *allocator);
extern void llm_json_close(LlmJson *json);

/* Reads the next token into json. Errors: LLM_FORMAT with the byte's position, LLM_LIMIT for the depth,
 * LLM_CANCELED. */
extern LlmCode llm_json_next(LlmJson *json, LlmError *err);

/* Reads the next token, which must be this one. */
extern LlmCode llm_json_expect(LlmJson *json, LlmJsonToken token, LlmError *err);

/* Skips one whole value: the one that follows a KEY, or the next element. */
extern LlmCode llm_json_skip(LlmJson *json, LlmError *err);

/* Fails at the last token: "vocab.json: byte 17: ", followed by the message. */
extern LlmCode llm_json_fail(LlmJson *json, LlmError *err, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* "an object", "a string", … for messages. */
extern const char *llm_json_token_name(LlmJsonToken token);

#endif
