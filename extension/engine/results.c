/*
 * The values that a node reads, and the memory of its result.
 */
#include "engine/plan.h"

LlmCode
llm_last_row(LlmExec *exec, int axis, LlmValue *value, LlmError *err)
{
	size_t outer = 1, inner = 1, T = value->dims[axis];
	const float *from = value->integers ? (const float *) value->integers : value->floats;
	Buffer *rows;

	for (int i = 0; i < axis; i++)
		outer *= value->dims[i];
	for (int i = axis + 1; i < value->ndim; i++)
		inner *= value->dims[i];
	value->dims[axis] = 1;
	value->numel = outer * inner;
	if (outer == 1)
	{
		if (value->floats)
			value->floats += (T - 1) * inner;
		if (value->integers)
			value->integers += (T - 1) * inner;
		return LLM_OK;
	}
	rows = llm_scratch_take(exec, outer * inner, err);
	if (rows == NULL ||
		llm_copy_rows(outer, inner, from + (T - 1) * inner, T * inner, rows->data, inner, err) != LLM_OK)
		return err->code;
	if (value->integers)
		value->integers = (const int32_t *) rows->data;
	else
		value->floats = rows->data;
	return LLM_OK;
}

LlmCode
llm_exec_input(LlmExec *exec, int node, int i, LlmValue *value, LlmError *err)
{
	const LlmNode *n = &exec->model->graph.nodes[node];
	const Slot *from = &exec->slots[n->inputs[i]];

	*value = from->value;
	if (exec->slots[node].rows == ROWS_LAST && from->rows == ROWS_ALL && from->t_axis >= 0 &&
		llm_op_facts[n->op].reach == LLM_OWN_ROW && value->dims[from->t_axis] != 1)
		return llm_last_row(exec, from->t_axis, value, err);
	return LLM_OK;
}

/* The result's dimensions, from the inferred shape; T is 1 if only the last row is needed. */
static LlmCode
make_result(LlmExec *exec, int index, bool allocate, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	Slot *slot = &exec->slots[index];
	LlmValue *value = &slot->value;

	*value = (LlmValue){.ndim = node->ndim, .numel = 1};
	for (int i = 0; i < node->ndim; i++)
	{
		int64_t size =
			i == slot->t_axis && slot->rows == ROWS_LAST ? 1 : llm_dim_value(&node->shape[i], &exec->sizes);

		if (size < 0 || size > INT32_MAX ||
			__builtin_mul_overflow(value->numel, (size_t) size, &value->numel) ||
			value->numel > SIZE_MAX / 16)
		{
			llm_fail(err, LLM_SHAPE, "node \"%s\": the size of dimension %d is not known or too large",
				node->name, i + 1);
			return llm_hint(err, "The size of a name is that of the given inputs in whose shape it is.");
		}
		value->dims[i] = (int) size;
	}
	if (!allocate)
		return LLM_OK;
	slot->buffer = index == exec->target && exec->place ? llm_buffer_place(exec, value, err)
														: llm_buffer_take(exec, value->numel, err);
	if (slot->buffer == NULL)
		return err->code;
	value->floats = slot->buffer->data;
	return LLM_OK;
}

LlmCode
llm_run_shape(LlmExec *exec, int index, LlmError *err)
{
	return make_result(exec, index, false, err);
}

LlmCode
llm_run_result(LlmExec *exec, int index, LlmError *err)
{
	return make_result(exec, index, true, err);
}

/*
 * True if the result may be written in place, over input i: nothing reads the old value again, not even
 * in the backward pass.
 */
static bool
may_overwrite(const LlmExec *exec, int index, int i, const LlmValue *input)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	const Slot *from = &exec->slots[node->inputs[i]];

	if (from->buffer == NULL || from->waiting != 1 || from->buffer->refs != 1 ||
		input->floats != from->buffer->data || input->numel != exec->slots[index].value.numel)
		return false;
	return !llm_is_held(exec, node->inputs[i]);
}

LlmCode
llm_run_result_over(LlmExec *exec, int index, int i, const LlmValue *input, LlmError *err)
{
	Slot *slot = &exec->slots[index], *from = &exec->slots[exec->model->graph.nodes[index].inputs[i]];
	LlmCode code = make_result(exec, index, false, err);

	if (code != LLM_OK)
		return code;
	if (!may_overwrite(exec, index, i, input) || (index == exec->target && exec->place))
		return make_result(exec, index, true, err);
	from->buffer->refs++;
	slot->buffer = from->buffer;
	slot->value.floats = from->buffer->data;
	return LLM_OK;
}

float *
llm_result_of(LlmExec *exec, int index)
{
	return exec->slots[index].buffer->data;
}
