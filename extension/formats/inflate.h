/*
 * Decompression of DEFLATE data (RFC 1951), a piece at a time. This struct is all the memory it needs,
 * whatever the input: 32 KiB of history, as much output ahead, and one piece of input. Every length, code and
 * distance is checked before it is used.
 */
#ifndef LLM_FORMATS_INFLATE_H
#define LLM_FORMATS_INFLATE_H

#include "formats/huffman.h"

#define LLM_INFLATE_INPUT 65536
#define LLM_INFLATE_WINDOW 65536

typedef struct LlmInflate
{
	/* Provides the next bytes of compressed input: 1 to capacity of them, or *size = 0 at the end. */
	LlmCode (*fill)(void *context, void *buffer, size_t capacity, size_t *size, LlmError *err);
	void *context;
	const char *name; /* prefix of every message */

	uint64_t bits; /* read ahead, the next bit lowest */
	int bit_count;
	size_t input_at, input_size;
	bool input_ended;
	int state;
	bool last_block;
	uint32_t stored_left;
	uint64_t written, taken; /* bytes decoded, and bytes read by the caller */
	LlmHuffman literals, distances;
	unsigned char input[LLM_INFLATE_INPUT];
	unsigned char window[LLM_INFLATE_WINDOW]; /* byte n is at n % LLM_INFLATE_WINDOW */
} LlmInflate;

extern void llm_inflate_init(LlmInflate *inflate);
/* Decodes up to capacity bytes; *size < capacity only at the end of the data. */
extern LlmCode llm_inflate_read(LlmInflate *inflate, void *out, size_t capacity, size_t *size, LlmError *err);
/* After the end: the number of input bytes that were read but are not part of the data. */
extern size_t llm_inflate_unused(const LlmInflate *inflate);

#endif
