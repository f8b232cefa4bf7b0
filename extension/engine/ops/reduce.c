/*
 * sum, mean, max, min, var, norm: over one axis, which the result does not have, or over all elements.
 */
#include "engine/ops/op.h"
#include "engine/reduce.h"
#include "engine/reduce_backward.h"

LlmCode
llm_infer_reduce(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	int axis;

	node->ndim = 0;
	if (llm_attr(node, "axis") == NULL)
		return LLM_OK;
	if (llm_infer_axis(node, x, x->ndim, 0, &axis, err) != LLM_OK)
		return err->code;
	for (int i = 0; i < x->ndim; i++)
		if (i != axis)
			node->shape[node->ndim++] = x->shape[i];
	return LLM_OK;
}

bool
llm_rows_reduce(const LlmExec *exec, const LlmNode *node, int t)
{
	int from = llm_t_axis_of(exec, node, 0);

	return from == -1 || (from >= 0 && llm_attr(node, "axis") &&
							 llm_axis_of(node, exec->model->graph.nodes[node->inputs[0]].ndim, 0) != from);
}

/* The input as (outer,n,inner) around the reduced axis. */
static LlmAround
reduced_of(const LlmNode *node, const LlmValue *x)
{
	return llm_around(x, llm_attr(node, "axis") ? llm_axis_of(node, x->ndim, 0) : -1);
}

LlmCode
llm_forward_reduce(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	LlmAround r = reduced_of(node, x);
	LlmCode code = llm_run_result(exec, index, err);

	if (code != LLM_OK)
		return code;
	return llm_reduce(llm_op_facts[node->op].kernel, r.outer, r.n, r.inner, x->floats,
		llm_result_of(exec, index), exec->memory, err);
}

static LlmCode
reduce_dx(Back *b, float *dx, LlmError *err)
{
	LlmAround r = reduced_of(b->node, &b->in[0]);

	return llm_reduce_backward(llm_op_facts[b->node->op].kernel, r.outer, r.n, r.inner, b->in[0].floats,
		b->out->floats, b->dy, dx, b->exec->memory, err);
}

LlmCode
llm_backward_reduce(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, reduce_dx, err);
}
