/*
 * The Unicode support that a tokenizer needs: decoding characters from bytes that may be invalid, classifying
 * characters as letters, numbers or spaces, and repairing invalid UTF-8.
 */
#ifndef LLM_FORMATS_UNICODE_H
#define LLM_FORMATS_UNICODE_H

#include "common/base.h"

/* The classes in GPT-2's pattern: \p{L}, \p{N}, \s and everything else. */
enum
{
	LLM_CHAR_OTHER,
	LLM_CHAR_LETTER,
	LLM_CHAR_NUMBER,
	LLM_CHAR_SPACE
};

/* The class of any code point; unassigned ones, surrogates and those above U+10FFFF are OTHER. */
extern int llm_unicode_class(uint32_t code_point);

/* One decoding step: a character, or an invalid subsequence. */
typedef struct LlmChar
{
	uint32_t code_point;
	int length;   /* bytes to advance, at least 1 */
	bool valid;   /* false: invalid UTF-8; length is that of the maximal subpart (Unicode 16, table 3-8) */
	bool partial; /* invalid only because the bytes end here: more bytes might complete the character */
} LlmChar;

/* Decodes the character that starts at text; size > 0 bytes may be read. */
extern LlmChar llm_utf8_read(const unsigned char *text, size_t size);

/* True if all bytes are UTF-8 without NULs, as SQL text must be. */
extern bool llm_utf8_is_text(const unsigned char *bytes, size_t size);

/*
 * Copies bytes to out as valid UTF-8 without NULs: each maximal invalid subpart, as in Python and Rust, and
 * each NUL, which SQL text cannot contain, becomes U+FFFD. If out is NULL, it only measures. Returns the
 * length.
 */
extern size_t llm_utf8_repair(const unsigned char *bytes, size_t size, char *out);

/* The number of bytes at the end that belong to an incomplete character (0 to 3): a stream keeps them for the
 * next token. */
extern size_t llm_utf8_unfinished(const unsigned char *bytes, size_t size);

/* The number of characters; an invalid subpart counts as one. */
extern size_t llm_utf8_count(const unsigned char *bytes, size_t size);

#endif
