/*
 * Operations that SQL calls without a graph, implemented in the files of this folder: rows over the thread
 * pool.
 */
#ifndef LLM_OPS_DIRECT_H
#define LLM_OPS_DIRECT_H

#include "common/base.h"

/* The weight (C) must fit the last axis of x (…,C). */
extern LlmCode llm_rmsnorm_shape(int ndim, const int *x, int w_ndim, const int *w, LlmError *err);
/* out (rows,C) = x / sqrt(mean(x^2) + eps) * weight */
extern LlmCode llm_rmsnorm(
	size_t rows, int C, const float *x, const float *weight, float eps, float *out, LlmError *err);
/* dx (rows,C) written; dweight (C) added to. */
extern LlmCode llm_rmsnorm_backward(size_t rows, int C, const float *x, const float *weight, float eps,
	const float *dy, float *dx, float *dweight, const LlmAllocator *memory, LlmError *err);

/*
 * out (rows,n) = x - log(sum(exp(x))); llm_log_softmax_backward: dx = dy - exp(out) sum(dy), where dx may be
 * dy
 */
extern LlmCode llm_log_softmax(size_t rows, size_t n, const float *x, float *out, LlmError *err);
extern LlmCode llm_log_softmax_backward(
	size_t rows, size_t n, const float *y, const float *dy, float *dx, LlmError *err);

#endif
