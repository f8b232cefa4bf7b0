/*
 * The plain executor's ops that choose elements or treat each by an attribute.
 */
#ifndef REFERENCE_SELECT_H
#define REFERENCE_SELECT_H

#include "reference_view.h"

/* The element of v that was broadcast to the element at `place` of a result of out's shape. */
static inline float
ref_element(const RefValue *v, const RefValue *out, size_t place)
{
	size_t at = 0, stride = 1;

	for (int i = 0; i < v->ndim; i++)
	{
		int length = v->dims[v->ndim - 1 - i];

		if (length != 1)
			at += place % out->dims[out->ndim - 1 - i] * stride;
		place /= out->dims[out->ndim - 1 - i];
		stride *= length;
	}
	return v->floats[at];
}

/* Uninitialised, of the shape to which n values broadcast. */
static inline RefValue
ref_common_shape(int n, const RefValue *const *in)
{
	int ndim = 0, dims[LLM_MAX_DIMS];

	for (int k = 0; k < n; k++)
		ndim = in[k]->ndim > ndim ? in[k]->ndim : ndim;
	for (int i = 0; i < ndim; i++)
	{
		dims[i] = 1;
		for (int k = 0; k < n; k++)
		{
			int own = i - (ndim - in[k]->ndim);

			if (own >= 0 && in[k]->dims[own] != 1)
				dims[i] = in[k]->dims[own];
		}
	}
	return ref_value(ndim, dims);
}

static inline RefValue
ref_where(const RefValue *const *in)
{
	RefValue out = ref_common_shape(3, in);

	for (size_t e = 0; e < out.numel; e++)
		out.floats[e] = ref_element(in[ref_element(in[0], &out, e) != 0 ? 1 : 2], &out, e);
	return out;
}

static inline float
ref_clamp(const LlmNode *node, float x)
{
	float low = (float) llm_attr_number(node, "min", -INFINITY);
	float high = (float) llm_attr_number(node, "max", INFINITY);

	return x < low ? low : x > high ? high : x;
}

static inline float
ref_pow(double exponent, float x)
{
	float square = x, y = 1;
	bool begun = false;

	if (exponent == 0.5)
		return sqrtf(x);
	if (exponent != floor(exponent) || fabs(exponent) > 64)
		return ref_exp(ref_log(x) * (float) exponent);
	for (int left = (int) fabs(exponent); left > 0; left /= 2, square *= square)
		if (left % 2)
		{
			y = begun ? y * square : square;
			begun = true;
		}
	return exponent < 0 ? 1 / y : y;
}

static inline void
ref_cumsum(const LlmNode *node, const RefValue *x, RefValue *out)
{
	int axis = ref_axis(node, x->ndim, -1);

	for (size_t e = 0; e < x->numel; e++)
	{
		int at[LLM_MAX_DIMS], last;
		double total = 0;

		ref_index(x, e, at);
		last = at[axis];
		for (at[axis] = 0; at[axis] <= last; at[axis]++)
			total += x->floats[ref_place(x, at)];
		out->floats[e] = (float) total;
	}
}

/* True if the node is of one of these ops; then *out is its value. */
static inline bool
ref_select(const LlmNode *node, const RefValue *const *in, RefValue *out)
{
	if (node->op < LLM_OP_GREATER || node->op > LLM_OP_CUMSUM)
		return false;
	*out = node->op == LLM_OP_GREATER ? ref_common_shape(2, in)
		   : node->op == LLM_OP_WHERE ? ref_where(in)
									  : ref_value(in[0]->ndim, in[0]->dims);
	if (node->op == LLM_OP_CUMSUM)
		ref_cumsum(node, in[0], out);
	for (size_t e = 0; e < out->numel; e++)
		switch (node->op)
		{
			case LLM_OP_GREATER:
				out->floats[e] = ref_element(in[0], out, e) > ref_element(in[1], out, e);
				break;
			case LLM_OP_STOP_GRADIENT:
				out->floats[e] = in[0]->floats[e];
				break;
			case LLM_OP_CLAMP:
				out->floats[e] = ref_clamp(node, in[0]->floats[e]);
				break;
			case LLM_OP_ABS:
				out->floats[e] = fabsf(in[0]->floats[e]);
				break;
			case LLM_OP_POW:
				out->floats[e] = ref_pow(llm_attr_number(node, "exponent", 1), in[0]->floats[e]);
				break;
			default:
				break;
		}
	return true;
}

#endif
