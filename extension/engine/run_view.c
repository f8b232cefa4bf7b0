/*
 * The ops that reduce, move or join elements, one node each; and softmax over an axis that is not the last.
 */
#include "engine/plan.h"
#include "engine/views.h"

static float *
result_of(LlmExec *exec, int index)
{
	return exec->slots[index].buffer->data;
}

static LlmCode
run_reduce(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	LlmAround r = llm_reduced_of(node, x);

	return llm_reduce(
		llm_reduction_of(node), r.outer, r.n, r.inner, x->floats, result_of(exec, index), exec->memory, err);
}

static LlmCode
run_transpose(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	int order[LLM_MAX_DIMS];
	LlmCode code = llm_order_of(&exec->model->graph.nodes[index], x, order, err);

	return code == LLM_OK ? llm_permute(x->ndim, x->dims, order, x->floats, result_of(exec, index), err)
						  : code;
}

static LlmCode
run_slice(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	int n, starts[LLM_MAX_DIMS], stops[LLM_MAX_DIMS];
	LlmCode code = llm_ranges_of(&exec->model->graph.nodes[index], x, &n, starts, stops, err);

	return code == LLM_OK
			   ? llm_slice(x->ndim, x->dims, n, starts, stops, x->floats, result_of(exec, index), err)
			   : code;
}

/* concat, stack, total: inputs one after the other, any number of them. */
static LlmCode
run_join(LlmExec *exec, int index, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	const LlmValue *out = &exec->slots[index].value;
	int axis = node->op == LLM_OP_CONCAT ? llm_axis_of(node, out->ndim, 0) : 0;
	LlmAround to = node->op == LLM_OP_TOTAL ? (LlmAround){1, 0, 1} : llm_around(out, axis);
	float *data = result_of(exec, index);
	int64_t at = 0;

	for (int i = 0; i < node->n_inputs; i++)
	{
		LlmValue x;
		LlmCode code = llm_exec_input(exec, index, i, &x, err);
		int64_t n = node->op == LLM_OP_CONCAT ? x.dims[axis] : 1;

		if (code != LLM_OK)
			return code;
		if (node->op != LLM_OP_TOTAL)
			code = llm_concat_copy(to.outer, to.n, to.inner, at, n, x.floats, data, err);
		else if (i == 0)
			code = llm_copy(x.numel, x.floats, data, err);
		else
			code = llm_binary(LLM_ADD, 1, x.numel, data, true, true, x.floats, true, true, data, err);
		if (code != LLM_OK)
			return code;
		at += n;
		llm_exec_drop_scratch(exec);
	}
	return LLM_OK;
}

LlmCode
llm_run_view(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	LlmValue *out = &exec->slots[index].value;

	switch (node->op)
	{
		case LLM_OP_RESHAPE:
			return llm_copy(x->numel, x->floats, result_of(exec, index), err);
		case LLM_OP_TRANSPOSE:
			return run_transpose(exec, index, x, err);
		case LLM_OP_SLICE:
			return run_slice(exec, index, x, err);
		case LLM_OP_CONCAT:
		case LLM_OP_STACK:
		case LLM_OP_TOTAL:
			return run_join(exec, index, err);
		case LLM_OP_ONES_LIKE:
		case LLM_OP_ZEROS_LIKE:
			return llm_fill(out->numel, node->op == LLM_OP_ONES_LIKE, result_of(exec, index), err);
		default:
			return run_reduce(exec, index, x, err);
	}
}

LlmCode
llm_swap_with_last(const LlmValue *x, int axis, const float *from, float *to, LlmError *err)
{
	int order[LLM_MAX_DIMS];

	for (int i = 0; i < x->ndim; i++)
		order[i] = i == axis ? x->ndim - 1 : i == x->ndim - 1 ? axis : i;
	return llm_permute(x->ndim, x->dims, order, from, to, err);
}

LlmCode
llm_softmax_along(LlmExec *exec, const LlmValue *x, int axis, float *out, LlmError *err)
{
	int n = x->dims[axis];
	Buffer *turned = llm_buffer_take(exec, x->numel, err);
	LlmValue swapped = *x;
	LlmCode code;

	if (turned == NULL)
		return err->code;
	swapped.dims[axis] = x->dims[x->ndim - 1];
	swapped.dims[x->ndim - 1] = n;
	code = llm_swap_with_last(x, axis, x->floats, turned->data, err);
	if (code == LLM_OK)
		code = llm_softmax(x->numel / n, n, 1, turned->data, turned->data, err);
	if (code == LLM_OK)
		code = llm_swap_with_last(&swapped, axis, turned->data, out, err);
	llm_buffer_drop(exec, turned);
	return code;
}
