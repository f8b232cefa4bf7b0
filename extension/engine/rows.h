/*
 * The kernels of rows.h and backward.h over a row of any length: a long row is passed to them in pieces,
 * with a poll for a stop between them (pool.h), and the bits are the same. Called from tasks; worker is the
 * index of the thread.
 */
#ifndef LLM_ENGINE_ROWS_H
#define LLM_ENGINE_ROWS_H

#include "engine/partition.h"
#include "engine/pool.h"

/* Chunks [at, at + len) of a row of n elements, whose sums are added in float64. Long rows poll for a stop.
 */
#define LLM_EACH_CHUNK(worker, n)                                                                            \
	size_t at = 0, len = llm_min(n, LLM_CHUNK);                                                              \
	at < (n) && (at == 0 || !llm_pool_stopping(worker));                                                     \
	at += len, len = llm_min((n) -at, LLM_CHUNK)

typedef void (*LlmRowTask)(void *context, size_t row, int worker);

/* Calls f for each of `rows` rows of n elements over the pool; a task is a long row, or several short ones.
 */
extern LlmCode llm_each_row(size_t rows, size_t n, LlmRowTask f, void *context, LlmError *err);

extern void llm_row_zero(int worker, size_t n, float *out);
extern double llm_row_sum(int worker, size_t n, const float *x);
extern double llm_row_sum_squares(int worker, size_t n, const float *x, float shift);
extern float llm_row_max(int worker, size_t n, const float *x, size_t *index);
/* The logarithm of the sum of exp(x - top). */
extern float llm_row_log_sum(int worker, size_t n, float top, const float *x);
extern void llm_row_softmax(int worker, size_t n, size_t first, float scale, const float *x, float *out);
extern float llm_row_cross_entropy(int worker, size_t V, const float *logits, size_t target);
extern void llm_row_layernorm(
	int worker, size_t C, const float *x, const float *gamma, const float *beta, float eps, float *out);
extern void llm_row_softmax_backward(
	int worker, size_t n, size_t first, float scale, const float *y, const float *dy, float *dx);
extern void llm_row_cross_entropy_backward(
	int worker, size_t V, const float *logits, size_t target, float scale, float *dlogits);
extern void llm_row_layernorm_backward(int worker, size_t C, const float *x, const float *gamma, float eps,
	const float *dy, float *dx, float stats[2]);

#endif
