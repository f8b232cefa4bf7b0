/*
 * y = x - max x - log(sum(exp(x - max x))) over each row of elements along an axis; dx = dy - exp(y)
 * sum(dy).
 */
#include "engine/ops/op.h"
#include "engine/ops/direct.h"
#include "engine/rows.h"

typedef struct Runs
{
	size_t n;
	const float *x, *y, *dy;
	float *out;
} Runs;

static void
forward_task(void *context, size_t row, int worker)
{
	const Runs *w = context;
	const float *x = w->x + row * w->n;
	float *out = w->out + row * w->n, top = llm_row_max(worker, w->n, x, NULL), all, chunk[LLM_CHUNK];
	double total = 0;

	for (LLM_EACH_CHUNK(worker, w->n))
	{
		llm_kernels->binary(LLM_SUB, len, x + at, 1, &top, 0, out + at);
		llm_kernels->unary(LLM_EXP, len, out + at, chunk);
		total += llm_kernels->sum(len, chunk);
	}
	all = (float) total;
	llm_kernels->unary(LLM_LOG, 1, &all, &all);
	for (LLM_EACH_CHUNK(worker, w->n))
		llm_kernels->binary(LLM_SUB, len, out + at, 1, &all, 0, out + at);
}

LlmCode
llm_log_softmax(size_t rows, size_t n, const float *x, float *out, LlmError *err)
{
	Runs w = {.n = n, .x = x, .out = out};

	return n == 0 ? LLM_OK : llm_each_row(rows, n, forward_task, &w, err);
}

static void
backward_task(void *context, size_t row, int worker)
{
	const Runs *w = context;
	const float *y = w->y + row * w->n, *dy = w->dy + row * w->n;
	float all = (float) llm_row_sum(worker, w->n, dy), chunk[LLM_CHUNK];

	for (LLM_EACH_CHUNK(worker, w->n))
	{
		llm_kernels->unary(LLM_EXP, len, y + at, chunk);
		llm_kernels->binary(LLM_MUL, len, chunk, 1, &all, 0, chunk);
		llm_kernels->binary(LLM_SUB, len, dy + at, 1, chunk, 1, w->out + row * w->n + at);
	}
}

LlmCode
llm_log_softmax_backward(size_t rows, size_t n, const float *y, const float *dy, float *dx, LlmError *err)
{
	Runs w = {.n = n, .y = y, .dy = dy, .out = dx};

	return n == 0 ? LLM_OK : llm_each_row(rows, n, backward_task, &w, err);
}

LlmCode
llm_forward_log_softmax(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	return llm_forward_along(exec, index, x, llm_log_softmax, err);
}

static LlmCode
log_softmax_dx(Back *b, float *dx, LlmError *err)
{
	return llm_back_along(b, llm_log_softmax_backward, dx, err);
}

LlmCode
llm_backward_log_softmax(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, log_softmax_dx, err);
}
