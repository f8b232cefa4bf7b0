/*
 * y_i = x_0 + … + x_i along an axis; dx_i = dy_i + … + dy_n. The running sum is in float64 and each value is
 * rounded once.
 */
#include "engine/ops/direct.h"
#include "engine/ops/op.h"
#include "engine/partition.h"
#include "engine/pool.h"
#include "engine/rows.h"

typedef struct Sums
{
	size_t n;
	const float *x;
	float *out;
	bool backwards; /* from the last element to the first */
} Sums;

static void
sums_task(void *context, size_t row, int worker)
{
	const Sums *s = context;
	const float *x = s->x + row * s->n;
	float *out = s->out + row * s->n;
	double total = 0;

	for (size_t i = 0; i < s->n; i++)
	{
		size_t at = s->backwards ? s->n - 1 - i : i;

		if (i % LLM_POLL_ELEMENTS == LLM_POLL_ELEMENTS - 1 && llm_pool_stopping(worker))
			return;
		total += x[at];
		out[at] = (float) total;
	}
}

LlmCode
llm_cumsum(size_t rows, size_t n, const float *x, float *out, LlmError *err)
{
	Sums s = {.n = n, .x = x, .out = out};

	return llm_each_row(rows, n, sums_task, &s, err);
}

static LlmCode
sums_from_the_end(size_t rows, size_t n, const float *dy, float *dx, LlmError *err)
{
	Sums s = {.n = n, .x = dy, .out = dx, .backwards = true};

	return llm_each_row(rows, n, sums_task, &s, err);
}

LlmCode
llm_forward_cumsum(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	return llm_forward_along(exec, index, x, llm_cumsum, err);
}

static LlmCode
cumsum_dx(Back *b, float *dx, LlmError *err)
{
	LlmValue dy = *b->out;

	dy.floats = b->dy;
	return llm_apply_along(b->exec, b->node, &dy, sums_from_the_end, dx, err);
}

LlmCode
llm_backward_cumsum(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, cumsum_dx, err);
}
