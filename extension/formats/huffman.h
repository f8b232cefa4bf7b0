/*
 * Tables of a canonical Huffman code, as DEFLATE uses them; inflate.c decodes with them.
 */
#ifndef LLM_FORMATS_HUFFMAN_H
#define LLM_FORMATS_HUFFMAN_H

#include "common/base.h"

#define LLM_HUFFMAN_MAX_BITS 15
#define LLM_HUFFMAN_FAST_BITS 10

/* A canonical Huffman code: codes of up to FAST_BITS bits are decoded by one table look-up, longer ones by
 * counting. */
typedef struct LlmHuffman
{
	uint16_t fast[1 << LLM_HUFFMAN_FAST_BITS]; /* symbol << 4 | length; 0: longer, or no such code */
	uint16_t count[LLM_HUFFMAN_MAX_BITS + 1];  /* codes of each length */
	uint16_t symbol[288];                      /* in code order */
} LlmHuffman;

/* Builds the code whose symbol s has lengths[s] bits (0: unused). False if these lengths form no code. */
extern bool llm_huffman_build(LlmHuffman *huffman, const uint8_t *lengths, int count);

#endif
