/*
 * See rows.h. A sum over a row is the sum over its chunks, added in index order in float64, so a row may be
 * split between chunks. Apart from such sums, each element of the result depends on one element of the row.
 */
#include "engine/rows.h"

#include <math.h>
#include <string.h>

#include "engine/partition.h"
#include "engine/pool.h"

/* ---- rows over the pool ---- */

typedef struct EachRow
{
	size_t rows, per_task;
	LlmRowTask f;
	void *context;
} EachRow;

static void
rows_task(void *context, int task, int worker)
{
	const EachRow *e = context;
	size_t row = (size_t) task * e->per_task, end = llm_min(row + e->per_task, e->rows);

	for (; row < end; row++)
		e->f(e->context, row, worker);
}

LlmCode
llm_each_row(size_t rows, size_t n, LlmRowTask f, void *context, LlmError *err)
{
	EachRow e = {.rows = rows, .f = f, .context = context};

	e.per_task = n < LLM_TASK_ROWS ? LLM_TASK_ROWS / (n ? n : 1) : 1;
	return llm_parallel((int) ((rows + e.per_task - 1) / e.per_task), rows_task, &e, err);
}

/* ---- one row ---- */

/* Elements of a piece, whole chunks; rows that are not longer are passed to the kernel as a whole. */
#define PIECE (16 * LLM_CHUNK)

/*
 * Pieces [at, at + len) of n elements; the first is shorter if the row begins at element `first` of a longer
 * one.
 */
#define EACH_PIECE(worker, first, n)                                                                         \
	size_t at = 0, len = PIECE - (first) % PIECE;                                                            \
	at < (n) && ((len = llm_min(len, (n) -at)), !llm_pool_stopping(worker));                                 \
	at += len, len = PIECE

void
llm_row_zero(int worker, size_t n, float *out)
{
	for (EACH_PIECE(worker, 0, n))
		memset(out + at, 0, len * sizeof(float));
}

/* ---- sums and maxima ---- */

/* total plus the sums of x's chunks, one by one; x[0] is element `first` of the row. */
static double
add_chunks(double total, size_t n, size_t first, const float *x)
{
	for (size_t at = 0, len; at < n; at += len)
	{
		size_t skip = (first + at) % LLM_CHUNK;

		len = llm_min(LLM_CHUNK - skip, n - at);
		if (skip == 0)
			total += llm_kernels->sum(len, x + at);
		else /* partial sums begin with +0: zeros in front change nothing but the lanes */
		{
			float chunk[LLM_CHUNK] = {0};

			memcpy(chunk + skip, x + at, len * sizeof(float));
			total += llm_kernels->sum(skip + len, chunk);
		}
	}
	return total;
}

double
llm_row_sum(int worker, size_t n, const float *x)
{
	double total = 0;

	for (EACH_PIECE(worker, 0, n))
		total = add_chunks(total, len, 0, x + at);
	return total;
}

double
llm_row_sum_squares(int worker, size_t n, const float *x, float shift)
{
	double total = 0;

	for (EACH_PIECE(worker, 0, n))
		for (size_t c = at; c < at + len; c += LLM_CHUNK)
			total += llm_kernels->sum_squares(llm_min(LLM_CHUNK, at + len - c), x + c, shift);
	return total;
}

float
llm_row_max(int worker, size_t n, const float *x, size_t *index)
{
	float best = x[0];
	size_t place = 0, i;

	for (EACH_PIECE(worker, 0, n))
	{
		float m = llm_kernels->max(len, x + at, &i);

		if (isnan(best) || !(m > best || isnan(m)))
			continue;
		best = m;
		place = at + i;
	}
	if (index)
		*index = place;
	return best;
}

/* out = exp(x - top); returns total plus out's sum */
static double
add_exponentials(double total, size_t n, size_t first, float top, const float *x, float *out)
{
	llm_kernels->binary(LLM_SUB, n, x, 1, &top, 0, out);
	llm_kernels->unary(LLM_EXP, n, out, out);
	return add_chunks(total, n, first, out);
}

float
llm_row_log_sum(int worker, size_t n, float top, const float *x)
{
	float all, chunk[LLM_CHUNK];
	double total = 0;

	for (LLM_EACH_CHUNK(worker, n))
		total = add_exponentials(total, len, 0, top, x + at, chunk);
	all = (float) total;
	llm_kernels->unary(LLM_LOG, 1, &all, &all);
	return all;
}

/* ---- row operations of the model ---- */

void
llm_row_softmax(int worker, size_t n, size_t first, float scale, const float *x, float *out)
{
	double total = 0;
	float top, all;

	if (n <= PIECE)
	{
		llm_kernels->softmax(n, first, scale, x, out);
		return;
	}
	for (EACH_PIECE(worker, first, n))
		llm_kernels->binary(LLM_MUL, len, x + at, 1, &scale, 0, out + at);
	top = llm_row_max(worker, n, out, NULL);
	for (EACH_PIECE(worker, first, n))
		total = add_exponentials(total, len, first + at, top, out + at, out + at);
	all = (float) total;
	for (EACH_PIECE(worker, first, n))
		llm_kernels->binary(LLM_DIV, len, out + at, 1, &all, 0, out + at);
}

float
llm_row_cross_entropy(int worker, size_t V, const float *logits, size_t target)
{
	float top;

	if (V <= PIECE)
		return llm_kernels->cross_entropy(V, logits, target);
	top = llm_row_max(worker, V, logits, NULL);
	return llm_row_log_sum(worker, V, top, logits) - (logits[target] - top);
}

/* Mean and 1 / sqrt(var + eps). */
static void
statistics(int worker, size_t C, const float *x, float eps, float stats[2])
{
	float var;

	stats[0] = (float) (llm_row_sum(worker, C, x) / C);
	var = (float) (llm_row_sum_squares(worker, C, x, stats[0]) / C);
	stats[1] = 1.0f / sqrtf(var + eps);
}

void
llm_row_layernorm(
	int worker, size_t C, const float *x, const float *gamma, const float *beta, float eps, float *out)
{
	float stats[2];

	if (C <= PIECE)
	{
		llm_kernels->layernorm((int) C, x, gamma, beta, eps, out);
		return;
	}
	statistics(worker, C, x, eps, stats);
	for (EACH_PIECE(worker, 0, C))
		llm_kernels->normalize(len, stats[0], stats[1], x + at, gamma + at, beta + at, out + at);
}

/* ---- their gradients ---- */

void
llm_row_softmax_backward(
	int worker, size_t n, size_t first, float scale, const float *y, const float *dy, float *dx)
{
	double total = 0;
	float mean;

	if (n <= PIECE)
	{
		llm_kernels->softmax_backward(n, first, scale, y, dy, dx);
		return;
	}
	for (EACH_PIECE(worker, first, n))
		for (size_t c = at, chunk; c < at + len; c += chunk)
		{
			chunk = llm_min(LLM_CHUNK - (first + c) % LLM_CHUNK, at + len - c);
			total += llm_kernels->dot(chunk, first + c, y + c, dy + c);
		}
	mean = (float) total;
	for (EACH_PIECE(worker, first, n))
	{
		llm_kernels->binary(LLM_SUB, len, dy + at, 1, &mean, 0, dx + at);
		llm_kernels->binary(LLM_MUL, len, y + at, 1, dx + at, 1, dx + at);
		llm_kernels->binary(LLM_MUL, len, dx + at, 1, &scale, 0, dx + at);
	}
}

void
llm_row_cross_entropy_backward(
	int worker, size_t V, const float *logits, size_t target, float scale, float *dlogits)
{
	double total = 0;
	float top, all, t;

	if (V <= PIECE)
	{
		llm_kernels->cross_entropy_backward(V, logits, target, scale, dlogits);
		return;
	}
	top = llm_row_max(worker, V, logits, NULL);
	for (EACH_PIECE(worker, 0, V))
		total = add_exponentials(total, len, 0, top, logits + at, dlogits + at);
	all = (float) total;
	t = dlogits[target] / all - 1.0f;
	for (EACH_PIECE(worker, 0, V))
	{
		llm_kernels->binary(LLM_DIV, len, dlogits + at, 1, &all, 0, dlogits + at);
		llm_kernels->binary(LLM_MUL, len, dlogits + at, 1, &scale, 0, dlogits + at);
	}
	dlogits[target] = t * scale;
}

void
llm_row_layernorm_backward(int worker, size_t C, const float *x, const float *gamma, float eps,
	const float *dy, float *dx, float stats[2])
{
	double sums[2] = {0, 0};

	if (C <= PIECE)
	{
		llm_kernels->layernorm_backward((int) C, x, gamma, eps, dy, dx, stats);
		return;
	}
	statistics(worker, C, x, eps, stats);
	for (EACH_PIECE(worker, 0, C))
		llm_kernels->layernorm_sums(len, stats[0], stats[1], x + at, gamma + at, dy + at, sums);
	for (EACH_PIECE(worker, 0, C))
		llm_kernels->layernorm_dx(len, stats[0], stats[1], (float) (sums[0] / C), (float) (sums[1] / C),
			x + at, gamma + at, dy + at, dx + at);
}
