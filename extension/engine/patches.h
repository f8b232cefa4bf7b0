/*
 * Where a convolution reads and writes: a patch element is x[pixel + tap], the place of an output pixel plus
 * that of an element of the weight. So that pixels side by side are side by side in memory whatever the
 * stride, the padded image is held as stride x stride planes, of every stride-th row and column. Included by
 * convolution*.c only.
 */
#ifndef LLM_PATCHES_H
#define LLM_PATCHES_H

#include "engine/convolution.h"

/* The places of the pixels of B images of height x width. */
typedef struct LlmPixels
{
	int height, width;
	size_t first, image, row, column; /* the first pixel, and the distances between pixels */
} LlmPixels;

/* Places of n pixels from number `from` on, counted over all images. */
extern void llm_pixel_places(const LlmPixels *pixels, int64_t from, int n, size_t *places);

/* Images as planes: (B,C,stride,stride,rows,columns). */
typedef struct LlmPlanes
{
	int stride, rows, columns;
	size_t channel, image; /* distances in floats */
	const float *x;
	float *copy; /* NULL: x is the image itself */
	size_t bytes;
} LlmPlanes;

/*
 * The planes of images (B,C,H,W) with zeros around them: `above` rows, `left` columns, and as many after as
 * make rows x columns of each plane. Without zeros and stride, the images themselves. llm_planes_close frees
 * the copy.
 */
extern LlmCode llm_planes_open(LlmPlanes *planes, int stride, int rows, int columns, int above, int left,
	int B, int C, int H, int W, const float *x, const LlmAllocator *memory, LlmError *err);
extern void llm_planes_close(LlmPlanes *planes, const LlmAllocator *memory);
/* What the forward pass and the weight's gradient read: x's planes, the places of taps and output pixels. */
typedef struct LlmPatches
{
	LlmPlanes planes;
	size_t *taps;     /* (C/groups,KH,KW) */
	size_t group;     /* the distance between two groups */
	LlmPixels pixels; /* of the output */
	size_t bytes;
} LlmPatches;

extern LlmCode llm_patches_open(
	LlmPatches *patches, const LlmConv *c, const float *x, const LlmAllocator *memory, LlmError *err);
/* To be called after an error, too. */
extern void llm_patches_close(LlmPatches *patches, const LlmAllocator *memory);

/* Rows that a task multiplies, at most and, as long as more tasks are useful, at least. */
#define LLM_CONV_ROWS 504
#define LLM_CONV_FEW_ROWS 42
/* The number of blocks of M rows that keeps the threads busy if each block makes `others` tasks. */
extern int llm_conv_row_blocks(int M, int64_t others);

#endif
