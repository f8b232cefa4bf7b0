/*
 * Operations that SQL calls without a graph, implemented in the files of this folder: rows over the thread
 * pool.
 */
#ifndef LLM_OPS_DIRECT_H
#define LLM_OPS_DIRECT_H

#include "engine/broadcast.h"
#include "engine/execute.h"
#include "engine/image.h"
#include "kernels/random.h"

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

/* out (n) = x, but not less than low and not more than high */
extern LlmCode llm_clamp(size_t n, float low, float high, const float *x, float *out, LlmError *err);
/* out (rows,n): the sum of each element and those before it in its row; out may be x */
extern LlmCode llm_cumsum(size_t rows, size_t n, const float *x, float *out, LlmError *err);

/*
 * Ids that choose one of `size` rows: out = whole numbers of integers or of floats. `what` names them in the
 * error.
 */
extern LlmCode llm_row_ids(const char *what, const LlmValue *ids, int size, int32_t *out, LlmError *err);
/* to (n,width) = the rows of `from` with these ids */
extern LlmCode llm_gather_rows(
	size_t n, const int32_t *ids, size_t width, const float *from, float *to, LlmError *err);
/* Adds the rows of `from` (n,width) to those of `to` with these ids, in ascending order. */
extern LlmCode llm_add_rows(
	size_t n, const int32_t *ids, size_t width, const float *from, float *to, LlmError *err);
/* out (n,size), zeros on entry, gets a one in each row, at its id. */
extern LlmCode llm_mark_ids(size_t n, const int32_t *ids, int size, float *out, LlmError *err);

typedef enum LlmTopk
{
	LLM_TOPK_VALUES,
	LLM_TOPK_INDICES,
	LLM_TOPK_MASK,
	LLM_TOPK_KINDS
} LlmTopk;

/* What a text asks for: "values", "indices" or "mask"; otherwise LLM_TOPK_KINDS. */
extern LlmTopk llm_topk_kind(const char *text);
/* Can k of n elements be chosen? `what` names the operation in the error. */
extern LlmCode llm_topk_check(const char *what, int64_t n, double k, LlmTopk kind, LlmError *err);
/*
 * chosen (rows,k) = the indices of each row's k largest elements of n, in descending order; the lowest index
 * first among equals, a NaN before all numbers.
 */
extern LlmCode llm_topk(size_t rows, int n, int k, const float *x, int32_t *chosen, LlmError *err);
/* out (rows,k): the values or the indices chosen; or (rows,n): 1 where chosen, else 0. */
extern LlmCode llm_topk_output(LlmTopk kind, size_t rows, int n, int k, const float *x, const int32_t *chosen,
	float *out, LlmError *err);

/* Pairs of a row and an expert, per_row for each row of x: x (pairs/per_row,K), w (E,K,N). */
typedef struct LlmExperts
{
	int E, K, N;
	int per_row;
	size_t pairs;
} LlmExperts;

/* The sizes of expert_matmul(x, ids, w), if the shapes fit. */
extern LlmCode llm_experts_of(const LlmOperand in[3], LlmExperts *e, LlmError *err);
/* out (pairs,N): each pair's row of x times the matrix of its expert; ids (pairs) were checked. */
extern LlmCode llm_expert_matmul(const LlmExperts *e, const float *x, const int32_t *ids, const float *w,
	float *out, const LlmAllocator *memory, LlmError *err);

/*
 * mean = the mean over rows of -sum(p log softmax(x)), x and p (rows,n); losses (rows) gets each row's own.
 */
extern LlmCode llm_soft_cross_entropy(
	size_t rows, size_t n, const float *x, const float *p, float *losses, float *mean, LlmError *err);
/* Its gradients times dloss, written; dx or dp may be NULL. */
extern LlmCode llm_soft_cross_entropy_backward(
	size_t rows, size_t n, const float *x, const float *p, float dloss, float *dx, float *dp, LlmError *err);
/* out = the mean of (x - y)^2 over n elements */
extern LlmCode llm_mse(
	size_t n, const float *x, const float *y, float *out, const LlmAllocator *memory, LlmError *err);

/* out (n): the stream's numbers from low up to, not including, high */
extern LlmCode llm_uniform_fill(
	const LlmStream *stream, float low, float high, size_t n, float *out, LlmError *err);
/* The same of whole numbers, whose bounds llm_randint_check accepts. */
extern LlmCode llm_randint_fill(
	const LlmStream *stream, int low, int high, size_t n, float *out, LlmError *err);
extern LlmCode llm_randint_check(const char *what, double low, double high, LlmError *err);

#endif
