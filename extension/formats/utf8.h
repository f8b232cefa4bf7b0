/*
 * UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF.
 */
#ifndef LLM_FORMATS_UTF8_H
#define LLM_FORMATS_UTF8_H

#include "common/base.h"

/* The length of the valid character that starts at text, of which size > 0 bytes may be read; 0 if it is
 * invalid. */
extern size_t llm_utf8_length(const char *text, size_t size);
/* Writes a code point (not a surrogate, at most 0x10FFFF); returns its length, 1 to 4 bytes. */
extern size_t llm_utf8_encode(uint32_t code_point, char *out);

#endif
