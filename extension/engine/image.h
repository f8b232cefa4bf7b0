/*
 * Shared by the operations on images: sizes that a window or a factor changes, as named dimensions and in a
 * run, and the two movements of pixels that upsampling and average pooling consist of.
 */
#ifndef LLM_IMAGE_H
#define LLM_IMAGE_H

#include "engine/graph.h"

#define LLM_MAX_PADDING 65536

/* out = dim / n; false if n does not divide it. */
extern bool llm_dim_divide(const LlmGraph *graph, const LlmDim *dim, int n, LlmDim *out);
/* out = n * dim; false if that is too large. */
extern bool llm_dim_multiply(const LlmGraph *graph, const LlmDim *dim, int n, LlmDim *out);
/*
 * out = the places of a window of k that moves by `stride` over dim and its padding; false if it does not
 * fit, or if dim has only a name and the result is no multiple of it.
 */
extern bool llm_dim_window(
	const LlmGraph *graph, const LlmDim *dim, int64_t k, int64_t padding, int stride, LlmDim *out);

/* Images (planes,H,W) and the smaller ones (planes,h,w) of which each pixel stands for factor x factor. */
typedef struct LlmScaling
{
	size_t planes;
	int H, W, h, w, factor;
} LlmScaling;

/* large (planes,H,W) = scale * small, each pixel repeated; pixels beyond the last whole window are zero. */
extern LlmCode llm_repeat_pixels(
	const LlmScaling *s, float scale, const float *small, float *large, LlmError *err);
/* small (planes,h,w) = scale * the sum of each window, row by row. */
extern LlmCode llm_sum_windows(
	const LlmScaling *s, float scale, const float *large, float *small, LlmError *err);

#endif
