/*
 * See infer.h. The error message names the node and both shapes.
 */
#include "engine/infer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const LlmNode *
llm_input_of(const LlmGraph *graph, const LlmNode *node, int i)
{
	return &graph->nodes[node->inputs[i]];
}

bool
llm_dim_same(const LlmGraph *graph, const LlmDim *a, const LlmDim *b)
{
	int64_t x = llm_dim_value(a, &graph->sizes), y = llm_dim_value(b, &graph->sizes);

	if (x >= 0 && y >= 0)
		return x == y;
	return a->times == b->times && strcmp(a->name, b->name) == 0;
}

static bool
is_one(const LlmDim *d)
{
	return d->name[0] == 0 && d->times == 1;
}

void
llm_infer_copy_shape(LlmNode *node, const LlmNode *from)
{
	node->ndim = from->ndim;
	memcpy(node->shape, from->shape, sizeof(node->shape));
}

bool
llm_infer_broadcast(
	const LlmGraph *graph, int a_ndim, const LlmDim *a, int b_ndim, const LlmDim *b, int *ndim, LlmDim *out)
{
	*ndim = a_ndim > b_ndim ? a_ndim : b_ndim;
	for (int i = 1; i <= *ndim; i++)
	{
		const LlmDim *x = i <= a_ndim ? &a[a_ndim - i] : NULL, *y = i <= b_ndim ? &b[b_ndim - i] : NULL;

		if (x && y && !is_one(x) && !is_one(y) && !llm_dim_same(graph, x, y))
			return false;
		out[*ndim - i] = x == NULL || (y && is_one(x)) ? *y : *x;
	}
	return true;
}

/* "mlp.fc: matmul of (B,T,C) and (V,C): why" */
LlmCode
llm_infer_refuse(const LlmNode *node, const LlmNode *a, const LlmNode *b, const char *why, LlmError *err)
{
	char x[160], y[160];

	llm_shape_print(a->ndim, a->shape, x, sizeof(x));
	if (b == NULL)
		return llm_fail(err, LLM_SHAPE, "node \"%s\": %s of %s %s: %s", node->name, llm_op_name(node->op),
			a->name, x, why);
	llm_shape_print(b->ndim, b->shape, y, sizeof(y));
	return llm_fail(err, LLM_SHAPE, "node \"%s\": %s of %s %s and %s %s: %s", node->name,
		llm_op_name(node->op), a->name, x, b->name, y, why);
}

LlmCode
llm_infer_axis(const LlmNode *node, const LlmNode *x, int ndim, int otherwise, int *axis, LlmError *err)
{
	double given = llm_attr_number(node, "axis", otherwise);
	char why[100];

	if (given != floor(given))
		return llm_attr_refuse(node, "axis", "a whole number", err);
	*axis = (int) (given < 0 ? given + ndim : given);
	if (*axis >= 0 && *axis < ndim)
		return LLM_OK;
	snprintf(why, sizeof(why), "there is no axis %d", (int) given);
	llm_infer_refuse(node, x, NULL, why, err);
	return ndim == 0 ? err->code : llm_hint(err, "Axes count from 0 to %d, or from -1 (the last).", ndim - 1);
}
