/*
 * Iterates over two shapes that broadcast: the innermost axis, a contiguous row, is passed to a
 * kernel; the outer axes are counted.
 */
#include "engine/broadcast.h"

#include "engine/parallel.h"
#include "engine/pool.h"

/* One of the values that are broadcast. */
typedef struct Operand
{
	int64_t strides[LLM_MAX_DIMS]; /* along each axis of the common shape; 0: repeated */
	int step;                      /* along the innermost axis: 0 or 1 */
	const float *data;
} Operand;

typedef struct Work
{
	int count; /* operands: two of a binary operation, three of a selection */
	Operand in[3];
	LlmBinary op;
	int ndim; /* axes left after merging, without the innermost */
	int64_t dims[LLM_MAX_DIMS];
	int64_t inner;         /* length of the innermost axis */
	int64_t rows;          /* number of rows */
	int64_t pieces, piece; /* a row is split into `pieces` of this length */
	int64_t rows_per_task;
	float *out;
} Work;

/* Stride of each axis of the common shape in one operand, 0 where it is repeated. */
static void
strides_of(int ndim, int own_ndim, const int *own, int64_t *strides)
{
	int64_t stride = 1;

	for (int i = 0; i < ndim; i++)
	{
		int length = i < own_ndim ? own[own_ndim - 1 - i] : 1;

		strides[ndim - 1 - i] = length == 1 ? 0 : stride;
		stride *= length;
	}
}

/* True if every operand traverses axis i and merged axis n as if they were one. */
static bool
continues(const Work *w, int n, int i, int length)
{
	for (int k = 0; k < w->count; k++)
		if (w->in[k].strides[n] != w->in[k].strides[i] * length)
			return false;
	return true;
}

/*
 * Drops axes of length 1 and merges neighbours that all operands traverse alike: most shapes end with one or
 * two axes.
 */
static void
merge_axes(Work *w, int ndim, const int *dims)
{
	int n = 0;

	for (int i = 0; i < ndim; i++)
	{
		if (dims[i] == 1)
			continue;
		if (n > 0 && continues(w, n - 1, i, dims[i]))
		{
			n--;
			w->dims[n] *= dims[i];
		}
		else
			w->dims[n] = dims[i];
		for (int k = 0; k < w->count; k++)
			w->in[k].strides[n] = w->in[k].strides[i];
		n++;
	}
	w->ndim = n > 0 ? n - 1 : 0;
	w->inner = n > 0 ? w->dims[n - 1] : 1;
	for (int k = 0; k < w->count; k++)
		w->in[k].step = n > 0 && w->in[k].strides[n - 1] != 0;
	w->rows = 1;
	for (int i = 0; i < w->ndim; i++)
		w->rows *= w->dims[i];
}

static void
row_task(void *context, int task, int worker)
{
	const Work *w = context;
	const Operand *x = &w->in[0], *y = &w->in[1], *z = &w->in[2];
	int64_t from = task / w->pieces * w->rows_per_task, to = from + w->rows_per_task;
	int64_t at = task % w->pieces * w->piece;
	int64_t n = w->inner - at < w->piece ? w->inner - at : w->piece;

	(void) worker;
	for (int64_t row = from; row < to && row < w->rows; row++)
	{
		int64_t index = row, place[3];
		float *out = w->out + row * w->inner + at;

		for (int k = 0; k < w->count; k++)
			place[k] = at * w->in[k].step;
		for (int i = w->ndim - 1; i >= 0; i--)
		{
			for (int k = 0; k < w->count; k++)
				place[k] += index % w->dims[i] * w->in[k].strides[i];
			index /= w->dims[i];
		}
		if (w->count == 2)
			llm_kernels->binary(w->op, n, x->data + place[0], x->step, y->data + place[1], y->step, out);
		else
			llm_kernels->select(n, x->data + place[0], x->step, y->data + place[1], y->step,
				z->data + place[2], z->step, out);
	}
}

/* All rows of the common shape. */
static LlmCode
each_row(Work *w, const LlmOperand *in, int ndim, const int *dims, LlmError *err)
{
	for (int i = 0; i < ndim; i++)
		if (dims[i] == 0)
			return LLM_OK;
	for (int k = 0; k < w->count; k++)
	{
		w->in[k].data = in[k].data;
		strides_of(ndim, in[k].ndim, in[k].dims, w->in[k].strides);
	}
	merge_axes(w, ndim, dims);
	w->piece = w->inner < LLM_TASK ? w->inner : LLM_TASK;
	w->pieces = (w->inner + w->piece - 1) / w->piece;
	w->rows_per_task = w->inner < LLM_TASK ? LLM_TASK / w->inner : 1;
	return llm_parallel(
		(int) ((w->rows + w->rows_per_task - 1) / w->rows_per_task * w->pieces), row_task, w, err);
}

LlmCode
llm_broadcast_binary(LlmBinary op, int a_ndim, const int *a_dims, const float *a, int b_ndim,
	const int *b_dims, const float *b, float *out, LlmError *err)
{
	const LlmOperand in[2] = {{a_ndim, a_dims, a}, {b_ndim, b_dims, b}};
	Work w = {.count = 2, .op = op, .out = out};
	int dims[LLM_MAX_DIMS], ndim;
	LlmCode code = llm_broadcast_shape("broadcast", "and", a_ndim, a_dims, b_ndim, b_dims, &ndim, dims, err);

	return code == LLM_OK ? each_row(&w, in, ndim, dims, err) : code;
}

LlmCode
llm_select_shape(const LlmOperand in[3], int *ndim, int *dims, LlmError *err)
{
	int both[LLM_MAX_DIMS], n;
	LlmCode code =
		llm_broadcast_shape("where", "and", in[1].ndim, in[1].dims, in[2].ndim, in[2].dims, &n, both, err);

	if (code != LLM_OK)
		return code;
	return llm_broadcast_shape("where", "and", in[0].ndim, in[0].dims, n, both, ndim, dims, err);
}

LlmCode
llm_broadcast_select(const LlmOperand in[3], float *out, LlmError *err)
{
	Work w = {.count = 3, .out = out};
	int dims[LLM_MAX_DIMS], ndim;
	LlmCode code = llm_select_shape(in, &ndim, dims, err);

	return code == LLM_OK ? each_row(&w, in, ndim, dims, err) : code;
}

LlmCode
llm_broadcast_matmul(int a_ndim, const int *a_dims, const float *a, int b_ndim, const int *b_dims,
	const float *b, float *out, const LlmAllocator *memory, LlmError *err)
{
	return llm_batched_matmul(a_ndim, a_dims, a, b_ndim, b_dims, b, false, out, memory, err);
}

LlmCode
llm_batched_matmul(int a_ndim, const int *a_dims, const float *a, int b_ndim, const int *b_dims,
	const float *b, bool transpose_b, float *out, const LlmAllocator *memory, LlmError *err)
{
	int K = a_dims[a_ndim - 1];
	int M = a_ndim > 1 ? a_dims[a_ndim - 2] : 1, N = b_ndim > 1 ? b_dims[b_ndim - 1 - transpose_b] : 1;
	int a_batch = a_ndim > 2 ? a_ndim - 2 : 0, b_batch = b_ndim > 2 ? b_ndim - 2 : 0;
	int dims[LLM_MAX_DIMS], ndim;
	int64_t a_strides[LLM_MAX_DIMS], b_strides[LLM_MAX_DIMS], batches = 1, b_matrices = 1;
	LlmCode code = llm_broadcast_shape("matmul", "@", a_batch, a_dims, b_batch, b_dims, &ndim, dims, err);

	for (int i = 0; i < ndim; i++)
		batches *= dims[i];
	for (int i = 0; i < b_batch; i++)
		b_matrices *= b_dims[i];
	if (code != LLM_OK || batches == 0 || M == 0 || N == 0)
		return code;
	/* one b for every a: all rows of a form one product. The rows' results are independent of one another. */
	if (b_matrices == 1)
		return llm_matmul((int) (batches * M), N, K, a, b, transpose_b, out, memory, err);
	strides_of(ndim, a_batch, a_dims, a_strides);
	strides_of(ndim, b_batch, b_dims, b_strides);
	for (int64_t batch = 0; batch < batches && code == LLM_OK; batch++)
	{
		int64_t index = batch, a_at = 0, b_at = 0;

		for (int i = ndim - 1; i >= 0; i--)
		{
			a_at += index % dims[i] * a_strides[i];
			b_at += index % dims[i] * b_strides[i];
			index /= dims[i];
		}
		code = llm_matmul(
			M, N, K, a + a_at * M * K, b + b_at * K * N, transpose_b, out + batch * M * N, memory, err);
	}
	return code;
}
