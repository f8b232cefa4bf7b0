/*
 * Cross-entropy with a distribution as each row's target: L = -1/N sum p log softmax(x), x and p (N,V).
 * dx = (softmax(x) sum(p) - p) dL / N, dp = -log softmax(x) dL / N.
 */
#include "engine/ops/direct.h"
#include "engine/parallel.h"
#include "engine/rows.h"

typedef struct Soft
{
	size_t n;
	const float *x, *p;
	float *losses; /* (rows) */
	float scale;   /* dL / N */
	float *dx, *dp;
} Soft;

/* out = x - top - all: logarithms of probabilities */
static void
log_probabilities(size_t n, const float *x, const float *top, const float *all, float *out)
{
	llm_kernels->binary(LLM_SUB, n, x, 1, top, 0, out);
	llm_kernels->binary(LLM_SUB, n, out, 1, all, 0, out);
}

static void
loss_task(void *context, size_t row, int worker)
{
	const Soft *s = context;
	const float *x = s->x + row * s->n, *p = s->p + row * s->n;
	float top = llm_row_max(worker, s->n, x, NULL), all = llm_row_log_sum(worker, s->n, top, x);
	float chunk[LLM_CHUNK];
	double total = 0;

	for (LLM_EACH_CHUNK(worker, s->n))
	{
		log_probabilities(len, x + at, &top, &all, chunk);
		total += llm_kernels->dot(len, 0, p + at, chunk);
	}
	s->losses[row] = -(float) total;
}

LlmCode
llm_soft_cross_entropy(
	size_t rows, size_t n, const float *x, const float *p, float *losses, float *mean, LlmError *err)
{
	Soft s = {.n = n, .x = x, .p = p, .losses = losses};
	double total = 0;

	if (n > 0 && llm_each_row(rows, n, loss_task, &s, err) != LLM_OK)
		return err->code;
	if (n > 0 && llm_sum(rows, losses, &total, err) != LLM_OK)
		return err->code;
	*mean = rows ? (float) (total / (double) rows) : 0;
	return LLM_OK;
}

static void
gradient_task(void *context, size_t row, int worker)
{
	const Soft *s = context;
	const float *x = s->x + row * s->n, *p = s->p + row * s->n;
	float top = llm_row_max(worker, s->n, x, NULL), all = llm_row_log_sum(worker, s->n, top, x);
	float chunk[LLM_CHUNK], weight = (float) llm_row_sum(worker, s->n, p), minus = -s->scale;

	for (LLM_EACH_CHUNK(worker, s->n))
	{
		log_probabilities(len, x + at, &top, &all, chunk);
		if (s->dp)
			llm_kernels->binary(LLM_MUL, len, chunk, 1, &minus, 0, s->dp + row * s->n + at);
		if (s->dx == NULL)
			continue;
		llm_kernels->unary(LLM_EXP, len, chunk, chunk);
		llm_kernels->binary(LLM_MUL, len, chunk, 1, &weight, 0, chunk);
		llm_kernels->binary(LLM_SUB, len, chunk, 1, p + at, 1, chunk);
		llm_kernels->binary(LLM_MUL, len, chunk, 1, &s->scale, 0, s->dx + row * s->n + at);
	}
}

LlmCode
llm_soft_cross_entropy_backward(
	size_t rows, size_t n, const float *x, const float *p, float dloss, float *dx, float *dp, LlmError *err)
{
	Soft s = {.n = n, .x = x, .p = p, .dx = dx, .dp = dp};

	if (rows == 0 || n == 0)
		return LLM_OK;
	s.scale = (float) ((double) dloss / (double) rows);
	return llm_each_row(rows, n, gradient_task, &s, err);
}
