/*
 * y = x within [min, max]; an absent bound is open. The gradient flows where x is within them.
 */
#include <math.h>

#include "engine/ops/direct.h"
#include "engine/ops/op.h"
#include "engine/pool.h"

typedef struct Clamp
{
	size_t n;
	float low, high;
	const float *x, *dy; /* dy NULL: the forward pass */
	float *out;
} Clamp;

static void
clamp_task(void *context, int task, int worker)
{
	const Clamp *c = context;
	size_t at = (size_t) task * LLM_TASK, n = c->n - at < LLM_TASK ? c->n - at : LLM_TASK;

	(void) worker;
	if (c->dy)
		llm_kernels->clamp_backward(n, c->low, c->high, c->x + at, c->dy + at, c->out + at);
	else
		llm_kernels->clamp(n, c->low, c->high, c->x + at, c->out + at);
}

static LlmCode
run(Clamp *c, LlmError *err)
{
	return llm_parallel((int) ((c->n + LLM_TASK - 1) / LLM_TASK), clamp_task, c, err);
}

LlmCode
llm_clamp(size_t n, float low, float high, const float *x, float *out, LlmError *err)
{
	return run(&(Clamp){.n = n, .low = low, .high = high, .x = x, .out = out}, err);
}

static float
low_of(const LlmNode *node)
{
	return (float) llm_attr_number(node, "min", -INFINITY);
}

static float
high_of(const LlmNode *node)
{
	return (float) llm_attr_number(node, "max", INFINITY);
}

LlmCode
llm_infer_clamp(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	if (low_of(node) > high_of(node))
		return llm_attr_refuse(node, "min", "at most max", err);
	return llm_infer_same(graph, node, err);
}

LlmCode
llm_forward_clamp(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	LlmCode code = llm_run_result_over(exec, index, 0, x, err);

	if (code != LLM_OK)
		return code;
	return llm_clamp(x->numel, low_of(node), high_of(node), x->floats, llm_result_of(exec, index), err);
}

static LlmCode
clamp_dx(Back *b, float *dx, LlmError *err)
{
	return run(&(Clamp){.n = b->in[0].numel,
				   .low = low_of(b->node),
				   .high = high_of(b->node),
				   .x = b->in[0].floats,
				   .dy = b->dy,
				   .out = dx},
		err);
}

LlmCode
llm_backward_clamp(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, clamp_dx, err);
}
