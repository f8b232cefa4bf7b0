/*
 * The backward functions of parallel.h: from the gradient with respect to a result to those with respect to
 * its inputs. Gradients of parameters are accumulated ((g + b0) + b1 …); those of activations are written.
 */
#ifndef LLM_GRADIENTS_H
#define LLM_GRADIENTS_H

#include "engine/parallel.h"

/* y (M,N) = x (M,K) @ w: dx (M,K) = dy @ w^T; w is (K,N), or (N,K) when transposed. */
extern LlmCode llm_matmul_dx(int M, int N, int K, const float *dy, const float *w, bool transposed, float *dx,
	const LlmAllocator *memory, LlmError *err);
/* The same from w's panels. */
extern LlmCode llm_matmul_dx_panels(int M, int N, int K, const float *dy, const float *panels, float *dx,
	const LlmAllocator *memory, LlmError *err);
/*
 * dw += x^T @ dy, (K,N); transposed: dw (N,K) += dy^T @ x. The M rows are summed in blocks of 128, in order.
 */
extern LlmCode llm_matmul_dw(int M, int N, int K, const float *x, const float *dy, bool transposed, float *dw,
	const LlmAllocator *memory, LlmError *err);
/* The same for dw in panels of the (K,N) matrix; their unused columns are not changed. */
extern LlmCode llm_matmul_dw_panels(int M, int N, int K, const float *x, const float *dy, float *panels,
	const LlmAllocator *memory, LlmError *err);

/* db (n) += sum over m rows of dy (m,n), blocks of 128 rows in order. */
extern LlmCode llm_sum_rows_into(size_t m, size_t n, const float *dy, float *db, LlmError *err);
extern LlmCode llm_unary_backward(
	LlmUnary f, size_t n, const float *x, const float *y, const float *dy, float *dx, LlmError *err);
extern LlmCode llm_softmax_backward(
	size_t rows, size_t n, float scale, const float *y, const float *dy, float *dx, LlmError *err);
/* dx (rows,C) written; dgamma, dbeta (C) added to. */
extern LlmCode llm_layernorm_backward(size_t rows, int C, const float *x, const float *gamma, float eps,
	const float *dy, float *dx, float *dgamma, float *dbeta, const LlmAllocator *memory, LlmError *err);
/*
 * dgamma, dbeta (C) += their sums over rows; stats (rows,2) are each row's mean and 1 / sqrt(variance + eps),
 * or another mean and factor that made the forward pass's (x - mean) * factor.
 */
extern LlmCode llm_layernorm_params(size_t rows, int C, const float *x, const float *stats, const float *dy,
	float *dgamma, float *dbeta, LlmError *err);
/* dlogits of the mean over rows with a target >= 0, times dloss; rows left out get 0. */
extern LlmCode llm_cross_entropy_backward(size_t rows, int V, const float *logits, const int32_t *targets,
	float dloss, float *dlogits, LlmError *err);
/* The factor of a row's (softmax - one at the target): dloss / the number of targets >= 0. */
extern LlmCode llm_cross_entropy_scale(
	size_t rows, const int32_t *targets, float dloss, float *scale, LlmError *err);
/* dtable (V,C) += dy rows by their ids, in ascending positions; the forward pass has checked the ids. */
extern LlmCode llm_embedding_backward(
	size_t rows, int C, const int32_t *ids, const float *dy, float *dtable, LlmError *err);
/* The same for dtable in panels of the transposed (C,V). */
extern LlmCode llm_embedding_backward_panels(
	size_t rows, int C, const int32_t *ids, const float *dy, float *panels, LlmError *err);

/* Where the gradients of attention's inputs go: rows as far apart as those of the inputs. */
typedef struct LlmQkvGradient
{
	float *q, *k, *v;
	float *scores; /* (B,NH,T,S) or NULL: the gradient with respect to the biased scores */
} LlmQkvGradient;

/* Side by side: dqkv (B,T,3*NH*HS). */
extern LlmQkvGradient llm_dqkv_of(const LlmAttention *a, float *dqkv);
/*
 * The gradients from dy (B,T,NH*HS) and the forward pass's inputs; T is all of the sequence. Probabilities
 * are recomputed for a chunk of queries at a time, so that no more rows per head than that are in memory.
 */
extern LlmCode llm_attention_backward(const LlmAttention *a, const LlmQkv *in, const float *dy,
	const LlmQkvGradient *to, const LlmAllocator *memory, LlmError *err);

/* One AdamW step of n elements. */
extern LlmCode llm_adamw(
	size_t n, float *w, const float *g, float *m, float *v, const LlmAdamW *h, LlmError *err);
/* The same, and sets g to zero. */
extern LlmCode llm_adamw_and_zero(
	size_t n, float *w, float *g, float *m, float *v, const LlmAdamW *h, LlmError *err);
/* The scalars of a step, from float64 hyper-parameters; step counts from 1. */
extern LlmAdamW llm_adamw_scalars(
	double lr, double beta1, double beta2, double eps, double weight_decay, int64_t step, double grad_scale);
/*
 * Steps count from 1: linear warmup to lr_max at step `warmup`, then cosine decay to lr_min at step `total`.
 */
extern double llm_lr_schedule(int64_t step, int64_t warmup, int64_t total, double lr_max, double lr_min);

#endif
