/*
 * Writes a PNG file, 8 bits per value, row by row. The pixels are stored without compression: nothing to
 * link, and small pictures.
 */
#ifndef LLM_FORMATS_PNG_H
#define LLM_FORMATS_PNG_H

#include "formats/crc32.h"

typedef struct LlmPng
{
	uint8_t *out;      /* the next byte of the file */
	uint64_t left;     /* bytes of pixels, with a filter byte in each row, that are not written yet */
	uint32_t in_block; /* of them, those that belong to the block begun */
	uint32_t row_bytes;
	uint32_t adler[2];
	LlmCrc32 crc; /* of the chunk begun */
} LlmPng;

/* The size of the file; channels is 1 (grey) or 3 (red, green, blue). */
extern uint64_t llm_png_size(uint32_t width, uint32_t height, int channels);
/* out has room for llm_png_size bytes, at most 2 GiB; then height rows and the end follow. */
extern void llm_png_begin(LlmPng *png, uint8_t *out, uint32_t width, uint32_t height, int channels);
extern void llm_png_row(LlmPng *png, const uint8_t *row);
extern void llm_png_end(LlmPng *png);

#endif
