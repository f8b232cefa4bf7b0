/*
 * What a tokenizer needs to know of Unicode: reading characters out of bytes that may be broken, whether a
 * character is a letter, a number or a space, and repairing bytes that are no UTF-8.
 */
#ifndef LLM_FORMATS_UNICODE_H
#define LLM_FORMATS_UNICODE_H

#include "common/base.h"

/* The classes GPT-2's pattern speaks of: \p{L}, \p{N}, \s and everything else. */
enum
{
	LLM_CHAR_OTHER,
	LLM_CHAR_LETTER,
	LLM_CHAR_NUMBER,
	LLM_CHAR_SPACE
};

/* The class of any code point; those that are unassigned, surrogates or past U+10FFFF are OTHER. */
extern int llm_unicode_class(uint32_t code_point);

/* One step through bytes: a character, or a broken piece of one. */
typedef struct LlmChar
{
	uint32_t code_point;
	int length;   /* bytes to move on by, at least 1 */
	bool valid;   /* false: no UTF-8; length is that of the maximal broken subpart (Unicode 16, table 3-8) */
	bool partial; /* not valid, and the bytes ended before that could be known: more might make it so */
} LlmChar;

/* Reads the character that starts at text; size > 0 bytes may be read. */
extern LlmChar llm_utf8_read(const unsigned char *text, size_t size);

/* Whether all of it is UTF-8 without NULs, as SQL text must be. */
extern bool llm_utf8_is_text(const unsigned char *bytes, size_t size);

/*
 * Copies bytes to out as valid UTF-8 without NULs: each maximal broken subpart, as Python and Rust have it,
 * and each NUL, which SQL text cannot hold, becomes U+FFFD. out NULL only measures. Returns the length.
 */
extern size_t llm_utf8_repair(const unsigned char *bytes, size_t size, char *out);

/* How many bytes at the end are an unfinished character (0 to 3): a stream keeps them for the next token. */
extern size_t llm_utf8_unfinished(const unsigned char *bytes, size_t size);

/* The number of characters; a broken subpart counts as one. */
extern size_t llm_utf8_count(const unsigned char *bytes, size_t size);

#endif
