/*
 * Two-dimensional convolution of images (B,C,H,W), channels first as in PyTorch, as a matrix product: out
 * (OC,pixels) = weight (OC,k) @ patches (k,pixels) with k = (channel, row, column of the weight) in PyTorch's
 * order, so that a weight (OC,C/groups,KH,KW) is read in place. The patches are never stored: a task gathers
 * LLM_PANEL pixels of LLM_BLOCK rows at a time. The sum over k follows the matmul rule; zeros of the padding
 * are elements like any other.
 */
#ifndef LLM_CONVOLUTION_H
#define LLM_CONVOLUTION_H

#include "common/base.h"

/* The attributes of a convolution; pad: zeros above, below, left and right of the image. */
typedef struct LlmConvHow
{
	int stride, groups;
	int pad[4];
} LlmConvHow;

typedef struct LlmConv
{
	int B, C, H, W;
	int OC, KH, KW;
	int OH, OW;
	LlmConvHow how;
} LlmConv;

/* The length of n elements after a window of k moves by `stride` over them and their padding; negative: none.
 */
extern int64_t llm_conv_length(int64_t n, int k, int64_t padding, int stride);
/* Checks that weight (OC,C/groups,KH,KW) and, unless NULL, bias (OC) fit x (B,C,H,W); fills c. */
extern LlmCode llm_conv_shape(int x_ndim, const int *x, int w_ndim, const int *w, int b_ndim, const int *b,
	const LlmConvHow *how, LlmConv *c, LlmError *err);

/* out (B,OC,OH,OW) = x * weight + bias; bias may be NULL. */
extern LlmCode llm_conv(const LlmConv *c, const float *x, const float *weight, const float *bias, float *out,
	const LlmAllocator *memory, LlmError *err);
/* dx (B,C,H,W) written, from dy (B,OC,OH,OW). */
extern LlmCode llm_conv_dx(const LlmConv *c, const float *weight, const float *dy, float *dx,
	const LlmAllocator *memory, LlmError *err);
/* dweight += the sums over the pixels of all images, in blocks of 128, in order. */
extern LlmCode llm_conv_dw(const LlmConv *c, const float *x, const float *dy, float *dweight,
	const LlmAllocator *memory, LlmError *err);
/* dbias (OC) += the sums over the pixels. */
extern LlmCode llm_conv_db(const LlmConv *c, const float *dy, float *dbias, LlmError *err);

#endif
