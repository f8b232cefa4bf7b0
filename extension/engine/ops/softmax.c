/*
 * y = exp(x - max x) / sum, run by run along an axis; dx = y (dy - sum(dy y)).
 */
#include "engine/ops/op.h"
#include "engine/gradients.h"

/* Over an axis that is not the last. */
static LlmCode
softmax_along(LlmExec *exec, const LlmValue *x, int axis, float *out, LlmError *err)
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

LlmCode
llm_forward_softmax(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	int axis = llm_axis_of(&exec->model->graph.nodes[index], x->ndim, -1), n = x->dims[axis];
	LlmCode code = llm_run_result_over(exec, index, 0, x, err);

	if (code != LLM_OK || n == 0)
		return code;
	if (axis != x->ndim - 1)
		return softmax_along(exec, x, axis, llm_result_of(exec, index), err);
	return llm_softmax(x->numel / n, n, 1, x->floats, llm_result_of(exec, index), err);
}

/* Softmax over another axis: y and dy are turned so that it is the last, dx is turned back. */
static LlmCode
softmax_dx_along(Back *b, int axis, float *dx, LlmError *err)
{
	const LlmValue *y = b->out;
	LlmValue swapped = *y;
	int n = y->dims[axis];
	Buffer *turned = llm_buffer_take(b->exec, 2 * y->numel, err);
	float *dy = turned ? turned->data + y->numel : NULL;
	LlmCode code;

	if (turned == NULL)
		return err->code;
	swapped.dims[axis] = y->dims[y->ndim - 1];
	swapped.dims[y->ndim - 1] = n;
	code = llm_swap_with_last(y, axis, y->floats, turned->data, err);
	if (code == LLM_OK)
		code = llm_swap_with_last(y, axis, b->dy, dy, err);
	if (code == LLM_OK)
		code = llm_softmax_backward(n ? y->numel / n : 0, n, 1, turned->data, dy, dy, err);
	if (code == LLM_OK)
		code = llm_swap_with_last(&swapped, axis, dy, dx, err);
	llm_buffer_drop(b->exec, turned);
	return code;
}

static LlmCode
softmax_dx(Back *b, float *dx, LlmError *err)
{
	int axis = llm_axis_of(b->node, b->out->ndim, -1), n = b->out->dims[axis];

	if (axis != b->out->ndim - 1)
		return softmax_dx_along(b, axis, dx, err);
	return llm_softmax_backward(n ? b->out->numel / n : 0, n, 1, b->out->floats, b->dy, dx, err);
}

LlmCode
llm_backward_softmax(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, softmax_dx, err);
}
