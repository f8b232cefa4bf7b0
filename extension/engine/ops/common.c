/*
 * Rules that several operations share.
 */
#include "engine/ops/op.h"

LlmCode
llm_infer_same(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	(void) err;
	llm_infer_copy_shape(node, llm_input_of(graph, node, 0));
	return LLM_OK;
}

/* The operation treats the elements along one axis of its input together. */
LlmCode
llm_infer_along_axis(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	int axis;

	if (x->ndim == 0)
		return llm_infer_refuse(node, x, NULL, "a scalar has no axis", err);
	if (llm_infer_axis(node, x, x->ndim, -1, &axis, err) != LLM_OK)
		return err->code;
	return llm_infer_same(graph, node, err);
}

int
llm_t_axis_of(const LlmExec *exec, const LlmNode *node, int i)
{
	return exec->slots[node->inputs[i]].t_axis;
}

bool
llm_rows_always(const LlmExec *exec, const LlmNode *node, int t)
{
	return true;
}

bool
llm_rows_never(const LlmExec *exec, const LlmNode *node, int t)
{
	return false;
}

/* Broadcasting aligns elements of the same position: every input has as many axes after T as the node. */
bool
llm_rows_aligned(const LlmExec *exec, const LlmNode *node, int t)
{
	for (int i = 0; i < node->n_inputs; i++)
	{
		int from = llm_t_axis_of(exec, node, i);

		if (from != -1 &&
			(from < 0 || node->ndim - t != exec->model->graph.nodes[node->inputs[i]].ndim - from))
			return false;
	}
	return true;
}

/* The axis of the attribute must not be T. */
bool
llm_rows_along_axis(const LlmExec *exec, const LlmNode *node, int t)
{
	return t != llm_axis_of(node, node->ndim, -1);
}

bool
llm_rows_last_axis(const LlmExec *exec, const LlmNode *node, int t)
{
	return t < node->ndim - 1;
}

/*
 * Over an axis that is not the last: transposes x so that it becomes the last, and transposes the result
 * back.
 */
static LlmCode
apply_turned(LlmExec *exec, const LlmValue *x, int axis, LlmAlong f, float *out, LlmError *err)
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
		code = f(x->numel / n, n, turned->data, turned->data, err);
	if (code == LLM_OK)
		code = llm_swap_with_last(&swapped, axis, turned->data, out, err);
	llm_buffer_drop(exec, turned);
	return code;
}

LlmCode
llm_apply_along(LlmExec *exec, const LlmNode *node, const LlmValue *x, LlmAlong f, float *out, LlmError *err)
{
	int axis = llm_axis_of(node, x->ndim, -1), n = x->dims[axis];

	if (n == 0)
		return LLM_OK;
	if (axis != x->ndim - 1)
		return apply_turned(exec, x, axis, f, out, err);
	return f(x->numel / n, n, x->floats, out, err);
}

LlmCode
llm_forward_along(LlmExec *exec, int index, const LlmValue *x, LlmAlong f, LlmError *err)
{
	LlmCode code = llm_run_result_over(exec, index, 0, x, err);

	if (code != LLM_OK)
		return code;
	return llm_apply_along(exec, &exec->model->graph.nodes[index], x, f, llm_result_of(exec, index), err);
}

/* The value is that of the first input, in the same memory if that belongs to the run. */
LlmCode
llm_forward_passing(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	const Slot *from = &exec->slots[exec->model->graph.nodes[index].inputs[0]];
	Slot *slot = &exec->slots[index];
	LlmCode code;

	if (from->buffer && x->floats == from->buffer->data && x->numel == from->value.numel)
	{
		slot->value = *x;
		slot->buffer = from->buffer;
		slot->buffer->refs++;
		return LLM_OK;
	}
	code = llm_run_result(exec, index, err);
	return code == LLM_OK ? llm_copy(x->numel, x->floats, llm_result_of(exec, index), err) : code;
}

static LlmCode
back_turned(Back *b, int axis, LlmAlongBack f, float *dx, LlmError *err)
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
		code = f(n ? y->numel / n : 0, n, turned->data, dy, dy, err);
	if (code == LLM_OK)
		code = llm_swap_with_last(&swapped, axis, dy, dx, err);
	llm_buffer_drop(b->exec, turned);
	return code;
}

LlmCode
llm_back_along(Back *b, LlmAlongBack f, float *dx, LlmError *err)
{
	int axis = llm_axis_of(b->node, b->out->ndim, -1), n = b->out->dims[axis];

	if (axis != b->out->ndim - 1)
		return back_turned(b, axis, f, dx, err);
	return f(n ? b->out->numel / n : 0, n, b->out->floats, b->dy, dx, err);
}

/* An operation whose inputs get no gradient. */
LlmCode
llm_backward_none(Back *b, LlmError *err)
{
	return LLM_OK;
}

void
llm_cost_counted(const LlmNode *node, const LlmValue *x, size_t read, const LlmValue *value, int64_t *flops,
	int64_t *bytes)
{
	const LlmOpFacts *facts = &llm_op_facts[node->op];

	*flops = facts->per_value * (int64_t) value->numel + facts->per_input * (int64_t) x->numel;
	*bytes = (int64_t) ((read + value->numel) * sizeof(float));
}
