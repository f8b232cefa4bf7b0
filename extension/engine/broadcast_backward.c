/*
 * See broadcast_backward.h.
 */
#include "engine/broadcast_backward.h"

#include "engine/broadcast.h"
#include "engine/partition.h"
#include "engine/gradients.h"
#include "engine/pool.h"

/* ---- sums over repeated axes ---- */

/* Axes of the terms, from the last to the first, with the terms' strides. */
typedef struct Axes
{
	int n;
	int64_t dims[LLM_MAX_DIMS], strides[LLM_MAX_DIMS];
} Axes;

typedef struct Sums
{
	Axes kept, summed;
	int64_t count, each; /* number of sums, and terms of each */
	int64_t per_task;
	const float *terms;
	float *to;
} Sums;

/* One element of `to`: its terms are added in order in float64, so that many terms do not lose precision. */
static double
sum_of(const Sums *s, int64_t at, int worker)
{
	int64_t index[LLM_MAX_DIMS] = {0}, length = s->summed.dims[0], stride = s->summed.strides[0];
	int64_t next_poll = LLM_TASK;
	double sum = 0;

	for (int64_t done = 0; done < s->each; done += length)
	{
		const float *x = s->terms + at;

		for (int i = 1; i < s->summed.n; i++)
			x += index[i] * s->summed.strides[i];
		for (int64_t from = 0, j = 0; j < length; from += LLM_TASK)
		{
			for (; j < length && j < from + LLM_TASK; j++)
				sum += x[j * stride];
			if (done + j < next_poll)
				continue;
			if (llm_pool_stopping(worker))
				return sum;
			next_poll = done + j + LLM_TASK;
		}
		for (int i = 1; i < s->summed.n && ++index[i] == s->summed.dims[i]; i++)
			index[i] = 0;
	}
	return sum;
}

static void
sums_task(void *context, int task, int worker)
{
	const Sums *s = context;
	int64_t from = task * s->per_task, to = from + s->per_task;

	for (int64_t k = from; k < to && k < s->count && !llm_pool_stopping(worker); k++)
	{
		int64_t rest = k, at = 0;

		for (int i = 0; i < s->kept.n; i++)
		{
			at += rest % s->kept.dims[i] * s->kept.strides[i];
			rest /= s->kept.dims[i];
		}
		s->to[k] += (float) sum_of(s, at, worker);
	}
}

static void
add_axis(Axes *axes, int64_t length, int64_t stride)
{
	axes->dims[axes->n] = length;
	axes->strides[axes->n++] = stride;
}

static LlmCode
sum_axes(int out_ndim, const int *out_dims, const float *terms, int ndim, const int *dims, float *to,
	LlmError *err)
{
	Sums s = {.count = 1, .each = 1, .terms = terms, .to = to};
	int64_t stride = 1;

	for (int i = 1; i <= out_ndim; i++)
	{
		int length = out_dims[out_ndim - i], own = i <= ndim ? dims[ndim - i] : 1;

		if (length != own)
		{
			add_axis(&s.summed, length, stride);
			s.each *= length;
		}
		else if (length != 1)
		{
			add_axis(&s.kept, length, stride);
			s.count *= length;
		}
		stride *= length;
	}
	if (s.count == 0 || s.each == 0)
		return LLM_OK;
	s.per_task = s.each < LLM_TASK ? LLM_TASK / s.each : 1;
	return llm_parallel((int) ((s.count + s.per_task - 1) / s.per_task), sums_task, &s, err);
}

LlmCode
llm_broadcast_sum_into(int out_ndim, const int *out_dims, const float *terms, int ndim, const int *dims,
	float *to, LlmError *err)
{
	size_t inner = 1, numel = 1, out_numel = 1;

	for (int i = 0; i < ndim; i++)
		numel *= dims[i];
	for (int i = 0; i < out_ndim; i++)
		out_numel *= out_dims[i];
	if (numel == out_numel)
		return llm_binary(LLM_ADD, 1, out_numel, to, true, true, terms, true, true, to, err);
	for (int i = ndim - 1; i >= 0 && dims[i] == out_dims[out_ndim - ndim + i]; i--)
		inner *= dims[i];
	if (inner == numel && inner > 1) /* a bias, or positions: whole rows repeat */
		return llm_sum_rows_into(out_numel / inner, inner, terms, to, err);
	return sum_axes(out_ndim, out_dims, terms, ndim, dims, to, err);
}

/* ---- matrix products ---- */

/* a @ b as computed in the forward pass: batches of products (M,K) @ (K,N). */
typedef struct Products
{
	int M, N, K;
	int ndim, dims[LLM_MAX_DIMS]; /* batch axes; none if one b serves all rows of a */
	size_t batches, a_matrices;
} Products;

static LlmCode
products_of(Products *p, int a_ndim, const int *a, int b_ndim, const int *b, bool transpose_b, LlmError *err)
{
	int a_batch = a_ndim > 2 ? a_ndim - 2 : 0, b_batch = b_ndim > 2 ? b_ndim - 2 : 0;
	size_t b_matrices = 1;

	*p = (Products){.K = a[a_ndim - 1], .batches = 1, .a_matrices = 1};
	p->M = a_ndim > 1 ? a[a_ndim - 2] : 1;
	p->N = b_ndim > 1 ? b[b_ndim - 1 - transpose_b] : 1;
	if (llm_broadcast_shape("matmul", "@", a_batch, a, b_batch, b, &p->ndim, p->dims, err) != LLM_OK)
		return err->code;
	for (int i = 0; i < p->ndim; i++)
		p->batches *= p->dims[i];
	for (int i = 0; i < a_batch; i++)
		p->a_matrices *= a[i];
	for (int i = 0; i < b_batch; i++)
		b_matrices *= b[i];
	if (b_matrices == 1) /* all rows form one product, as in the forward pass */
	{
		p->M *= (int) p->batches;
		p->batches = p->a_matrices = 1;
		p->ndim = 0;
	}
	return LLM_OK;
}

/* The matrix of an operand that batch `index` reads: its leading axes without the repeated ones. */
static size_t
matrix_of(const Products *p, size_t index, int own_ndim, const int *own)
{
	size_t at = 0, stride = 1;

	for (int i = 1; i <= p->ndim && i <= own_ndim - 2; i++)
	{
		if (own[own_ndim - 2 - i] > 1)
			at += index % p->dims[p->ndim - i] * stride;
		stride *= own[own_ndim - 2 - i];
		index /= p->dims[p->ndim - i];
	}
	return at;
}

LlmCode
llm_broadcast_matmul_da(int a_ndim, const int *a_dims, int b_ndim, const int *b_dims, const float *b,
	bool transpose_b, const float *dc, float *da, const LlmAllocator *memory, LlmError *err)
{
	Products p;
	LlmCode code = products_of(&p, a_ndim, a_dims, b_ndim, b_dims, transpose_b, err);
	size_t size = (size_t) p.M * p.K, bytes = size * sizeof(float);
	bool repeated = p.a_matrices != p.batches; /* several products add to one matrix of da */
	float *partial = NULL;

	if (code != LLM_OK || size == 0)
		return code;
	if ((repeated || p.N == 0) && llm_fill(p.a_matrices * size, 0, da, err) != LLM_OK)
		return err->code;
	if (repeated && (partial = memory->alloc(memory->context, bytes)) == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "matmul: no memory for %zu MB of gradients", bytes >> 20);
	for (size_t i = 0; code == LLM_OK && i < p.batches && p.N > 0; i++)
	{
		float *to = da + matrix_of(&p, i, a_ndim, a_dims) * size;

		code =
			llm_matmul_dx(p.M, p.N, p.K, dc + i * p.M * p.N, b + matrix_of(&p, i, b_ndim, b_dims) * p.K * p.N,
				transpose_b, repeated ? partial : to, memory, err);
		if (code == LLM_OK && repeated)
			code = llm_binary(LLM_ADD, 1, size, to, true, true, partial, true, true, to, err);
	}
	if (partial)
		memory->release(memory->context, partial, bytes);
	return code;
}

LlmCode
llm_broadcast_matmul_db(int a_ndim, const int *a_dims, const float *a, int b_ndim, const int *b_dims,
	bool transpose_b, const float *dc, float *db, const LlmAllocator *memory, LlmError *err)
{
	Products p;
	LlmCode code = products_of(&p, a_ndim, a_dims, b_ndim, b_dims, transpose_b, err);

	for (size_t i = 0; code == LLM_OK && i < p.batches; i++)
		code = llm_matmul_dw(p.M, p.N, p.K, a + matrix_of(&p, i, a_ndim, a_dims) * p.M * p.K,
			dc + i * p.M * p.N, transpose_b, db + matrix_of(&p, i, b_ndim, b_dims) * p.K * p.N, memory, err);
	return code;
}

LlmCode
llm_broadcast_matmul_backward(int a_ndim, const int *a_dims, const float *a, int b_ndim, const int *b_dims,
	const float *b, const float *dc, float *da, float *db, const LlmAllocator *memory, LlmError *err)
{
	LlmCode code = llm_broadcast_matmul_da(a_ndim, a_dims, b_ndim, b_dims, b, false, dc, da, memory, err);

	return code == LLM_OK
			   ? llm_broadcast_matmul_db(a_ndim, a_dims, a, b_ndim, b_dims, false, dc, db, memory, err)
			   : code;
}
