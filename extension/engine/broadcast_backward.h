/*
 * The gradients of broadcast.h: an axis that was repeated in the forward pass is summed in the backward
 * pass.
 */
#ifndef LLM_BROADCAST_BACKWARD_H
#define LLM_BROADCAST_BACKWARD_H

#include "common/base.h"

/* to (shape dims) += terms (shape out_dims), summed over the axes along which to was repeated. */
extern LlmCode llm_broadcast_sum_into(int out_ndim, const int *out_dims, const float *terms, int ndim,
	const int *dims, float *to, LlmError *err);
/*
 * The gradients of a @ b from dc, whose shape is that of llm_matmul_shape: da = dc @ b^T is written, db +=
 * a^T @ dc, over the batches in order. A 1-D a is a row, a 1-D b a column; b is (…,N,K) if transpose_b.
 */
extern LlmCode llm_broadcast_matmul_da(int a_ndim, const int *a_dims, int b_ndim, const int *b_dims,
	const float *b, bool transpose_b, const float *dc, float *da, const LlmAllocator *memory, LlmError *err);
extern LlmCode llm_broadcast_matmul_db(int a_ndim, const int *a_dims, const float *a, int b_ndim,
	const int *b_dims, bool transpose_b, const float *dc, float *db, const LlmAllocator *memory,
	LlmError *err);
/* Both, b (…,K,N). */
extern LlmCode llm_broadcast_matmul_backward(int a_ndim, const int *a_dims, const float *a, int b_ndim,
	const int *b_dims, const float *b, const float *dc, float *da, float *db, const LlmAllocator *memory,
	LlmError *err);

#endif
