/*
 * y = x^e for a constant e, by the rule of the SQL operator ^: products for a whole number from -64 to 64, a
 * square root for 0.5, else exp(e log(x)). dx = dy e x^(e - 1). A tensor as exponent is exp(mul(log(x), e)).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/ops/op.h"
#include "engine/partition.h"
#include "engine/pool.h"
#include "engine/rows.h"

#define MOST_PRODUCTS 64

/* out = x^e by repeated squaring, n <= LLM_CHUNK; out may be x */
static void
whole_power(int exponent, size_t n, const float *x, float *out)
{
	float square[LLM_CHUNK], one = 1;
	bool begun = false;

	memcpy(square, x, n * sizeof(float));
	for (int left = abs(exponent); left > 0; left /= 2)
	{
		if (left % 2 == 1 && begun)
			llm_kernels->binary(LLM_MUL, n, out, 1, square, 1, out);
		else if (left % 2 == 1)
			memcpy(out, square, n * sizeof(float));
		begun |= left % 2 == 1;
		if (left > 1)
			llm_kernels->binary(LLM_MUL, n, square, 1, square, 1, square);
	}
	if (!begun)
		llm_kernels->binary(LLM_SUB, n, &one, 0, &(float){0}, 0, out);
	if (exponent < 0)
		llm_kernels->binary(LLM_DIV, n, &one, 0, out, 1, out);
}

/* out = x^e, n <= LLM_CHUNK; out may be x */
static void
power(double exponent, size_t n, const float *x, float *out)
{
	float e = (float) exponent;

	if (exponent == 0.5)
		llm_kernels->unary(LLM_SQRT, n, x, out);
	else if (exponent == floor(exponent) && fabs(exponent) <= MOST_PRODUCTS)
		whole_power((int) exponent, n, x, out);
	else
	{
		llm_kernels->unary(LLM_LOG, n, x, out);
		llm_kernels->binary(LLM_MUL, n, out, 1, &e, 0, out);
		llm_kernels->unary(LLM_EXP, n, out, out);
	}
}

typedef struct Power
{
	double exponent;
	size_t n;
	const float *x, *dy; /* dy NULL: the forward pass */
	float *out;
} Power;

static void
power_task(void *context, size_t chunk, int worker)
{
	const Power *p = context;
	size_t at = chunk * LLM_CHUNK, n = llm_min(p->n - at, LLM_CHUNK);
	float *out = p->out + at, e = (float) p->exponent;

	(void) worker;
	if (p->dy == NULL)
	{
		power(p->exponent, n, p->x + at, out);
		return;
	}
	power(p->exponent - 1, n, p->x + at, out);
	llm_kernels->binary(LLM_MUL, n, out, 1, &e, 0, out);
	llm_kernels->binary(LLM_MUL, n, p->dy + at, 1, out, 1, out);
}

static LlmCode
run(Power *p, LlmError *err)
{
	return llm_each_row((p->n + LLM_CHUNK - 1) / LLM_CHUNK, LLM_CHUNK, power_task, p, err);
}

LlmCode
llm_infer_pow(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	if (llm_attr(node, "exponent") == NULL)
		return llm_attr_refuse(node, "exponent", "a number", err);
	return llm_infer_same(graph, node, err);
}

LlmCode
llm_forward_pow(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	Power p = {.exponent = llm_attr_number(node, "exponent", 1), .n = x->numel, .x = x->floats};
	LlmCode code = llm_run_result_over(exec, index, 0, x, err);

	if (code != LLM_OK)
		return code;
	p.out = llm_result_of(exec, index);
	return run(&p, err);
}

static LlmCode
pow_dx(Back *b, float *dx, LlmError *err)
{
	Power p = {.exponent = llm_attr_number(b->node, "exponent", 1),
		.n = b->in[0].numel,
		.x = b->in[0].floats,
		.dy = b->dy,
		.out = dx};

	return p.exponent == 0 ? llm_fill(p.n, 0, dx, err) : run(&p, err);
}

LlmCode
llm_backward_pow(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, pow_dx, err);
}
