/*
 * The ops of double_graph.h that choose elements or treat each by an attribute.
 */
#ifndef DOUBLE_SELECT_H
#define DOUBLE_SELECT_H

#include "double_view.h"

static inline double
dbl_clamp(const LlmNode *node, double x)
{
	return fmin(fmax(x, (float) llm_attr_number(node, "min", -INFINITY)),
		(float) llm_attr_number(node, "max", INFINITY));
}

static inline double
dbl_cumsum(const LlmNode *node, const DblValue *x, size_t place)
{
	int axis = dbl_axis(node, x->ndim, -1), at[LLM_MAX_DIMS], last;
	double total = 0;

	dbl_index(x, place, at);
	last = at[axis];
	for (at[axis] = 0; at[axis] <= last; at[axis]++)
		total += x->x[dbl_place(x, at)];
	return total;
}

/* True if the node is of one of these ops; then out is filled. */
static inline bool
dbl_select(const LlmNode *node, const DblValue *const *in, DblValue *out)
{
	if (node->op < LLM_OP_GREATER || node->op > LLM_OP_CUMSUM)
		return false;
	for (size_t e = 0; e < out->numel; e++)
		switch (node->op)
		{
			case LLM_OP_GREATER:
				out->x[e] = dbl_broadcast(in[0], out, e) > dbl_broadcast(in[1], out, e);
				break;
			case LLM_OP_WHERE:
				out->x[e] = dbl_broadcast(in[dbl_broadcast(in[0], out, e) != 0 ? 1 : 2], out, e);
				break;
			case LLM_OP_STOP_GRADIENT:
				out->x[e] = in[0]->x[e];
				break;
			case LLM_OP_CLAMP:
				out->x[e] = dbl_clamp(node, in[0]->x[e]);
				break;
			case LLM_OP_ABS:
				out->x[e] = fabs(in[0]->x[e]);
				break;
			case LLM_OP_POW:
				out->x[e] = pow(in[0]->x[e], llm_attr_number(node, "exponent", 1));
				break;
			default:
				out->x[e] = dbl_cumsum(node, in[0], e);
		}
	return true;
}

#endif
