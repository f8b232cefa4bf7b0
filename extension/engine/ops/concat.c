/*
 * concat, stack, total: any number of inputs, concatenated along an axis, stacked along a new first axis, or
 * summed in order.
 */
#include <string.h>

#include "engine/ops/op.h"
#include "engine/layout.h"

/* a += b, for dimensions with the same name or known sizes. */
static bool
add_dim(const LlmGraph *graph, LlmDim *a, const LlmDim *b)
{
	int64_t x = llm_dim_value(a, &graph->sizes), y = llm_dim_value(b, &graph->sizes);

	if (strcmp(a->name, b->name) == 0)
		a->times += b->times;
	else if (x >= 0 && y >= 0)
		*a = (LlmDim){.times = x + y};
	else
		return false;
	return a->times <= INT32_MAX;
}

LlmCode
llm_infer_concat(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *first = llm_input_of(graph, node, 0);
	int axis;

	if (llm_infer_axis(node, first, first->ndim, 0, &axis, err) != LLM_OK)
		return err->code;
	llm_infer_copy_shape(node, first);
	for (int k = 1; k < node->n_inputs; k++)
	{
		const LlmNode *next = llm_input_of(graph, node, k);
		bool fits = next->ndim == first->ndim;

		for (int i = 0; i < first->ndim && fits; i++)
			fits = i == axis ? add_dim(graph, &node->shape[i], &next->shape[i])
							 : llm_dim_same(graph, &first->shape[i], &next->shape[i]);
		if (!fits)
			return llm_infer_refuse(
				node, first, next, "all dimensions but that of the joined axis must be equal", err);
	}
	return LLM_OK;
}

LlmCode
llm_infer_total(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *first = llm_input_of(graph, node, 0);

	for (int k = 1; k < node->n_inputs; k++)
	{
		const LlmNode *next = llm_input_of(graph, node, k);
		bool fits = next->ndim == first->ndim;

		for (int i = 0; i < first->ndim && fits; i++)
			fits = llm_dim_same(graph, &first->shape[i], &next->shape[i]);
		if (!fits)
			return llm_infer_refuse(node, first, next, "the shapes must be equal", err);
	}
	return llm_infer_same(graph, node, err);
}

LlmCode
llm_infer_stack(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *first = llm_input_of(graph, node, 0);

	if (first->ndim == LLM_MAX_DIMS)
		return llm_infer_refuse(node, first, NULL, "there is no room for one more dimension", err);
	if (llm_infer_total(graph, node, err) != LLM_OK)
		return err->code;
	memmove(node->shape + 1, node->shape, sizeof(LlmDim) * node->ndim);
	node->shape[0] = (LlmDim){.times = node->n_inputs};
	node->ndim++;
	return LLM_OK;
}

/* Reads the inputs one after the other: there may be any number of them. */
LlmCode
llm_forward_concat(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	const LlmValue *out = &exec->slots[index].value;
	bool stack = node->op == LLM_OP_STACK;
	LlmCode code = llm_run_result(exec, index, err);
	int axis = stack ? 0 : llm_axis_of(node, out->ndim, 0);
	int64_t at = 0;

	for (int i = 0; code == LLM_OK && i < node->n_inputs; i++)
	{
		LlmAround to = llm_around(out, axis);
		int64_t n = 1;
		LlmValue x;

		code = llm_exec_input(exec, index, i, &x, err);
		if (code == LLM_OK && !stack)
			n = x.dims[axis];
		if (code == LLM_OK)
			code =
				llm_concat_copy(to.outer, to.n, to.inner, at, n, x.floats, llm_result_of(exec, index), err);
		at += n;
		llm_exec_drop_scratch(exec);
	}
	return code;
}

LlmCode
llm_forward_total(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	LlmCode code = llm_run_result(exec, index, err);

	for (int i = 0; code == LLM_OK && i < node->n_inputs; i++)
	{
		float *data = llm_result_of(exec, index);
		LlmValue x;

		code = llm_exec_input(exec, index, i, &x, err);
		if (code == LLM_OK && i == 0)
			code = llm_copy(x.numel, x.floats, data, err);
		else if (code == LLM_OK)
			code = llm_binary(LLM_ADD, 1, x.numel, data, true, true, x.floats, true, true, data, err);
		llm_exec_drop_scratch(exec);
	}
	return code;
}

/* concat and stack: the gradient of each input is its own slice of dy. */
LlmCode
llm_backward_concat(Back *b, LlmError *err)
{
	bool stack = b->node->op == LLM_OP_STACK;
	int axis = stack ? 0 : llm_axis_of(b->node, b->out->ndim, 0);
	LlmAround all = llm_around(b->out, axis);
	int64_t at = 0;

	for (int i = 0; i < b->node->n_inputs; i++)
	{
		LlmValue x = llm_back_input(b, i);
		size_t row = (stack ? 1 : x.dims[axis]) * all.inner;
		Buffer *buffer;
		float *dx;
		LlmCode code;

		if (llm_back_wants(b, i))
		{
			dx = llm_back_open(b, i, true, &buffer, err);
			if (dx == NULL)
				return err->code;
			code = llm_copy_rows(all.outer, row, b->dy + at, all.n * all.inner, dx, row, err);
			code = llm_back_close(b, i, buffer, code, err);
			if (code != LLM_OK)
				return code;
		}
		at += row;
	}
	return LLM_OK;
}

LlmCode
llm_backward_total(Back *b, LlmError *err)
{
	LlmCode code = LLM_OK;

	for (int i = 0; code == LLM_OK && i < b->node->n_inputs; i++)
		code = llm_back_add(b, i, b->dy, err);
	return code;
}

void
llm_cost_total(const LlmNode *node, const LlmValue *x, size_t read, const LlmValue *value, int64_t *flops,
	int64_t *bytes)
{
	*flops = (int64_t) (read - value->numel);
	*bytes = (int64_t) ((read + value->numel) * sizeof(float));
}
