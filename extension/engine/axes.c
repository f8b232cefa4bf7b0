/*
 * See axes.h.
 */
#include "engine/axes.h"

#include "engine/layout.h"

LlmAround
llm_around(const LlmValue *x, int axis)
{
	LlmAround around = {1, axis < 0 ? (int64_t) x->numel : x->dims[axis], 1};

	for (int i = 0; i < x->ndim && axis >= 0; i++)
		if (i != axis)
			*(i < axis ? &around.outer : &around.inner) *= x->dims[i];
	return around;
}

int
llm_axis_of(const LlmNode *node, int ndim, int otherwise)
{
	int axis = (int) llm_attr_number(node, "axis", otherwise);

	return axis < 0 ? axis + ndim : axis;
}

LlmCode
llm_swap_with_last(const LlmValue *x, int axis, const float *from, float *to, LlmError *err)
{
	int order[LLM_MAX_DIMS];

	for (int i = 0; i < x->ndim; i++)
		order[i] = i == axis ? x->ndim - 1 : i == x->ndim - 1 ? axis : i;
	return llm_permute(x->ndim, x->dims, order, from, to, err);
}
