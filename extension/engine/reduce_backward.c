/*
 * See reduce_backward.h. x (outer,n,inner): y and dy have one element for each column of n.
 */
#include "engine/reduce_backward.h"

#include <math.h>

#include "engine/partition.h"
#include "engine/parallel.h"
#include "engine/pool.h"

typedef struct Reduce
{
	LlmReduction kind;
	int64_t outer, n, inner, per_task; /* rows of `inner` elements, or columns, per task */
	int64_t pieces;                    /* pieces of a row, more than one if it is long */
	const float *x, *y, *dy, *mean;
	float *dx;
} Reduce;

/* Elements [from, to) of one row, which belong to neighbouring columns. */
static void
row_dx(const Reduce *r, int64_t row, int64_t from, int64_t to)
{
	int64_t at = row * r->inner, first = row / r->n * r->inner;
	const float *x = r->x + at, *y = r->y + first, *dy = r->dy + first;
	float *dx = r->dx + at, n = (float) r->n;

	for (int64_t j = from; j < to; j++)
		switch (r->kind)
		{
			case LLM_REDUCE_MEAN:
				dx[j] = dy[j] / n;
				break;
			case LLM_REDUCE_VAR: /* of the mean of (x - mean)^2; the contribution through the mean cancels out
								  */
				dx[j] = (x[j] - r->mean[first + j]) * (2 * dy[j]) / n;
				break;
			case LLM_REDUCE_NORM:
				dx[j] = y[j] == 0 ? 0 : dy[j] * (x[j] / y[j]);
				break;
			default:
				dx[j] = dy[j];
		}
}

static void
rows_task(void *context, int task, int worker)
{
	const Reduce *r = context;
	int64_t from = task / r->pieces * r->per_task, to = llm_min(from + r->per_task, r->outer * r->n);
	int64_t column = task % r->pieces * LLM_TASK;

	(void) worker;
	for (int64_t row = from; row < to; row++)
		row_dx(r, row, column, llm_min(column + LLM_TASK, r->inner));
}

/* Of a maximum or minimum: sets the element of each column that was selected; dx is zero on entry. */
static void
chosen_task(void *context, int task, int worker)
{
	const Reduce *r = context;
	int64_t from = task * r->per_task, to = from + r->per_task;

	for (int64_t column = from; column < to && column < r->outer * r->inner && !llm_pool_stopping(worker);
		 column++)
	{
		int64_t at = column / r->inner * r->n * r->inner + column % r->inner, i = 0;
		float y = r->y[column];

		while (i < r->n - 1 && !(r->x[at] == y || (isnan(y) && isnan(r->x[at]))))
		{
			at += r->inner;
			if (++i % LLM_TASK == 0 && llm_pool_stopping(worker))
				return;
		}
		r->dx[at] = r->dy[column];
	}
}

/* Runs the task over `count` rows or columns of `each` elements, which are split into `pieces`. */
static LlmCode
all_tasks(Reduce *r, int64_t count, int64_t each, int64_t pieces, LlmTask task, LlmError *err)
{
	r->per_task = each < LLM_TASK ? LLM_TASK / each : 1;
	r->pieces = pieces;
	return llm_parallel((int) ((count + r->per_task - 1) / r->per_task * pieces), task, r, err);
}

LlmCode
llm_reduce_backward(LlmReduction kind, int64_t outer, int64_t n, int64_t inner, const float *x,
	const float *y, const float *dy, float *dx, const LlmAllocator *memory, LlmError *err)
{
	Reduce r = {.kind = kind, .outer = outer, .n = n, .inner = inner, .x = x, .y = y, .dy = dy, .dx = dx};
	size_t bytes = (size_t) (outer * inner) * sizeof(float);
	float *mean = NULL;
	LlmCode code = LLM_OK;

	if (outer * n * inner == 0)
		return LLM_OK;
	if (kind == LLM_REDUCE_MAX || kind == LLM_REDUCE_MIN)
	{
		code = llm_fill(outer * n * inner, 0, dx, err);
		return code == LLM_OK ? all_tasks(&r, outer * inner, n, 1, chosen_task, err) : code;
	}
	if (kind == LLM_REDUCE_VAR)
	{
		mean = memory->alloc(memory->context, bytes);
		if (mean == NULL)
			return llm_fail(err, LLM_NO_MEMORY, "var: no memory for %lld means", (long long) (outer * inner));
		r.mean = mean;
		code = llm_reduce(LLM_REDUCE_MEAN, outer, n, inner, x, mean, memory, err);
	}
	if (code == LLM_OK)
		code = all_tasks(&r, outer * n, inner, (inner + LLM_TASK - 1) / LLM_TASK, rows_task, err);
	if (mean)
		memory->release(memory->context, mean, bytes);
	return code;
}
