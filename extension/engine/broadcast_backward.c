/*
 * See broadcast_backward.h.
 */
#include "engine/broadcast_backward.h"

#include <string.h>

#include "engine/broadcast.h"
#include "engine/gradients.h"

LlmCode
llm_broadcast_sum_into(int out_ndim, const int *out_dims, const float *terms, int ndim, const int *dims,
	float *to, LlmError *err)
{
	size_t run = 1, numel = 1, out_numel = 1, index[LLM_MAX_DIMS] = {0};
	int i;

	for (i = 0; i < ndim; i++)
		numel *= dims[i];
	for (i = 0; i < out_ndim; i++)
		out_numel *= out_dims[i];
	if (numel == out_numel)
		return llm_binary(LLM_ADD, 1, out_numel, to, true, true, terms, true, true, to, err);
	for (i = ndim - 1; i >= 0 && dims[i] == out_dims[out_ndim - ndim + i]; i--)
		run *= dims[i];
	if (run == numel && run > 0) /* a bias, or positions: whole rows repeat */
		return llm_sum_rows_into(out_numel / run, run, terms, to, err);
	for (size_t e = 0; e < out_numel; e++)
	{
		size_t at = 0;

		for (i = 0; i < ndim; i++)
			at = at * dims[i] + (dims[i] == 1 ? 0 : index[out_ndim - ndim + i]);
		llm_kernels->binary(LLM_ADD, 1, to + at, 0, terms + e, 0, to + at);
		for (i = out_ndim - 1; i >= 0 && ++index[i] == (size_t) out_dims[i]; i--)
			index[i] = 0;
	}
	return LLM_OK;
}

/* Which matrix of an operand batch `index` of the result reads: its leading axes, the repeated ones left out.
 */
static size_t
matrix_of(size_t index, int ndim, const int *dims, int own_ndim, const int *own)
{
	size_t at = 0, stride = 1;

	for (int i = 1; i <= ndim; i++)
	{
		if (i <= own_ndim && own[own_ndim - i] > 1)
			at += index % dims[ndim - i] * stride;
		if (i <= own_ndim)
			stride *= own[own_ndim - i];
		index /= dims[ndim - i];
	}
	return at;
}

LlmCode
llm_broadcast_matmul_backward(int a_ndim, const int *a_dims, const float *a, int b_ndim, const int *b_dims,
	const float *b, const float *dc, float *da, float *db, const LlmAllocator *memory, LlmError *err)
{
	int K = a_dims[a_ndim - 1], a_batch = a_ndim > 2 ? a_ndim - 2 : 0, b_batch = b_ndim > 2 ? b_ndim - 2 : 0;
	int M = a_ndim > 1 ? a_dims[a_ndim - 2] : 1, N = b_ndim > 1 ? b_dims[b_ndim - 1] : 1;
	int dims[LLM_MAX_DIMS], ndim, rows;
	size_t batches = 1, b_matrices = 1, bytes;
	float *part;
	LlmCode code = llm_broadcast_shape("matmul", "@", a_batch, a_dims, b_batch, b_dims, &ndim, dims, err);

	for (int i = 0; i < ndim; i++)
		batches *= dims[i];
	for (int i = 0; i < b_batch; i++)
		b_matrices *= b_dims[i];
	if (code != LLM_OK || batches == 0 || M == 0 || N == 0 || K == 0)
		return code;
	/* one b for every a: the forward made one product of all rows, and so does the way back */
	rows = b_matrices == 1 ? (int) (batches * M) : M;
	batches = b_matrices == 1 ? 1 : batches;
	bytes = (size_t) rows * K * sizeof(float);
	part = memory->alloc(memory->context, bytes);
	if (part == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "matmul: no memory for %zu MB of gradients", bytes >> 20);
	for (size_t i = 0; i < batches && code == LLM_OK; i++)
	{
		size_t a_at = matrix_of(i, ndim, dims, a_batch, a_dims) * rows * K;
		size_t b_at = matrix_of(i, ndim, dims, b_batch, b_dims) * K * N;
		const float *dc_i = dc + i * rows * N;

		code = llm_matmul_dw(rows, N, K, a + a_at, dc_i, false, db + b_at, memory, err);
		if (code == LLM_OK)
			code = llm_matmul_dx(rows, N, K, dc_i, b + b_at, false, part, memory, err);
		if (code == LLM_OK)
			code = llm_binary(
				LLM_ADD, 1, (size_t) rows * K, da + a_at, true, true, part, true, true, da + a_at, err);
	}
	memory->release(memory->context, part, bytes);
	return code;
}
