/*
 * See views.h.
 */
#include "engine/views.h"

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

LlmReduction
llm_reduction_of(const LlmNode *node)
{
	switch (node->op)
	{
		case LLM_OP_MEAN:
			return LLM_REDUCE_MEAN;
		case LLM_OP_MAX:
			return LLM_REDUCE_MAX;
		case LLM_OP_MIN:
			return LLM_REDUCE_MIN;
		case LLM_OP_VAR:
			return LLM_REDUCE_VAR;
		case LLM_OP_NORM:
			return LLM_REDUCE_NORM;
		default:
			return LLM_REDUCE_SUM;
	}
}

LlmAround
llm_reduced_of(const LlmNode *node, const LlmValue *x)
{
	return llm_around(x, llm_attr(node, "axis") ? llm_axis_of(node, x->ndim, 0) : -1);
}

LlmCode
llm_order_of(const LlmNode *node, const LlmValue *x, int *order, LlmError *err)
{
	int axes[LLM_MAX_DIMS], dims[LLM_MAX_DIMS], n = llm_attr_integers(node, "axes", axes);

	return llm_permute_shape(x->ndim, x->dims, n, n < 0 ? NULL : axes, order, dims, err);
}

LlmCode
llm_ranges_of(const LlmNode *node, const LlmValue *x, int *n, int *starts, int *stops, LlmError *err)
{
	int dims[LLM_MAX_DIMS];

	*n = llm_attr_integers(node, "starts", starts);
	llm_attr_integers(node, "stops", stops);
	for (int i = 0; i < *n; i++)
		if (stops[i] == LLM_TO_END)
			stops[i] = x->dims[i];
	return llm_slice_shape(x->ndim, x->dims, *n, starts, stops, dims, err);
}
