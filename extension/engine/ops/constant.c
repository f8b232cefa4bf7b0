/*
 * A value stored in the graph itself: the attribute `value`, a number or a nested list of numbers. It is
 * built anew in each run and never trained.
 */
#include "engine/ops/op.h"

#include <float.h>
#include <math.h>

#define MAX_ELEMENTS 4096

static LlmCode
refuse(const LlmNode *node, LlmError *err)
{
	return llm_attr_refuse(node, "value",
		"a number, or a list of numbers or of equally long lists, such as [[1, 0], [0, 1]], with at most 8 "
		"levels and 4096 numbers",
		err);
}

/* True if the list is nested as dims says and contains only numbers that float32 can hold. */
static bool
has_shape(const LlmAttr *value, int ndim, const LlmDim *dims)
{
	if (ndim == 0)
		return value->kind == LLM_ATTR_NUMBER && fabs(value->number) <= FLT_MAX;
	if (value->kind != LLM_ATTR_LIST || value->count != dims[0].times)
		return false;
	for (int i = 0; i < value->count; i++)
		if (!has_shape(&value->items[i], ndim - 1, dims + 1))
			return false;
	return true;
}

LlmCode
llm_infer_constant(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmAttr *value = llm_attr(node, "value"), *first = value;
	int64_t numel = 1;

	node->ndim = 0;
	for (; first && first->kind == LLM_ATTR_LIST; first = first->count ? first->items : NULL)
	{
		if (node->ndim == LLM_MAX_DIMS)
			return refuse(node, err);
		node->shape[node->ndim++] = (LlmDim){.times = first->count};
		numel *= first->count;
		if (numel > MAX_ELEMENTS)
		{
			refuse(node, err);
			return llm_hint(err, "A larger one is a param with \"trainable\": false, or an input.");
		}
	}
	return value && has_shape(value, node->ndim, node->shape) ? LLM_OK : refuse(node, err);
}

static float *
write_numbers(const LlmAttr *value, float *to)
{
	if (value->kind == LLM_ATTR_NUMBER)
		*to++ = (float) value->number;
	for (int i = 0; i < value->count; i++)
		to = write_numbers(&value->items[i], to);
	return to;
}

LlmCode
llm_forward_constant(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	LlmCode code = llm_run_result(exec, index, err);

	if (code == LLM_OK)
		write_numbers(llm_attr(&exec->model->graph.nodes[index], "value"), llm_result_of(exec, index));
	return code;
}
