/*
 * Operations that SQL calls without a graph, implemented in the files of this folder: rows over the thread
 * pool.
 */
#ifndef LLM_OPS_DIRECT_H
#define LLM_OPS_DIRECT_H

#include "engine/image.h"

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

/* gamma and beta (C) must fit x (B,C,...), and groups divide C. */
extern LlmCode llm_groupnorm_shape(int ndim, const int *x, int g_ndim, const int *gamma, int b_ndim,
	const int *beta, int groups, LlmError *err);
/* out (B,C,...) = (x - mean) / sqrt(var + eps) * gamma + beta, mean and variance of each group of channels */
extern LlmCode llm_groupnorm(int ndim, const int *dims, int groups, const float *x, const float *gamma,
	const float *beta, float eps, float *out, LlmError *err);
/* dx written; dgamma, dbeta (C) added to. */
extern LlmCode llm_groupnorm_backward(int ndim, const int *dims, int groups, const float *x,
	const float *gamma, float eps, const float *dy, float *dx, float *dgamma, float *dbeta,
	const LlmAllocator *memory, LlmError *err);

/* The scaling of images `dims` by a factor, up or down, and the dimensions of the result; op is named in
 * errors. */
extern LlmCode llm_scaling(
	const char *op, int ndim, const int *dims, int factor, bool up, LlmScaling *s, int *out, LlmError *err);
/* What a pixel contributes to its window's mean. */
extern float llm_window_share(const LlmScaling *s);

#endif
