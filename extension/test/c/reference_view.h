/*
 * The plain executor's ops that reduce, move or join elements: every element of the result is looked up by
 * its index.
 */
#ifndef REFERENCE_VIEW_H
#define REFERENCE_VIEW_H

#include "reference_image.h"

static inline int
ref_axis(const LlmNode *node, int ndim, int otherwise)
{
	int axis = (int) llm_attr_number(node, "axis", otherwise);

	return axis < 0 ? axis + ndim : axis;
}

static inline float
ref_reduced(LlmOp op, size_t n, float *run)
{
	float mean = (float) (ref_sum(n, 0, run, 1, 0) / n);

	switch (op)
	{
		case LLM_OP_SUM:
			return (float) ref_sum(n, 0, run, 1, 0);
		case LLM_OP_MEAN:
			return mean;
		case LLM_OP_VAR:
			return (float) (ref_sum(n, 0, run, 2, mean) / n);
		case LLM_OP_NORM:
			return (float) sqrt(ref_sum(n, 0, run, 2, 0));
		case LLM_OP_MAX:
			return run[ref_argmax(n, run)];
		default:
			for (size_t i = 0; i < n; i++)
				run[i] = -run[i];
			return -run[ref_argmax(n, run)];
	}
}

static inline RefValue
ref_reduce(const LlmNode *node, const RefValue *x)
{
	int axis = llm_attr(node, "axis") ? ref_axis(node, x->ndim, 0) : -1, dims[LLM_MAX_DIMS], ndim = 0;
	int n = axis < 0 ? (int) x->numel : x->dims[axis];
	float *run = malloc(n * sizeof(float) + 1);
	RefValue out;

	for (int i = 0; axis >= 0 && i < x->ndim; i++)
		if (i != axis)
			dims[ndim++] = x->dims[i];
	out = ref_value(ndim, dims);
	for (size_t e = 0; e < out.numel; e++)
	{
		int at[LLM_MAX_DIMS], from[LLM_MAX_DIMS];

		ref_index(&out, e, at);
		for (int i = 0; i < n; i++)
		{
			for (int j = 0; j < x->ndim && axis >= 0; j++)
				from[j] = j == axis ? i : at[j - (j > axis)];
			run[i] = x->floats[axis < 0 ? (size_t) i : ref_place(x, from)];
		}
		out.floats[e] = ref_reduced(node->op, n, run);
	}
	free(run);
	return out;
}

static inline RefValue
ref_softmax_along(const LlmNode *node, const RefValue *x)
{
	int axis = ref_axis(node, x->ndim, -1), n = x->dims[axis], at[LLM_MAX_DIMS];
	float *run = malloc(2 * n * sizeof(float) + 1);
	RefValue out = ref_value(x->ndim, x->dims);

	for (size_t e = 0; e < x->numel; e++)
	{
		ref_index(x, e, at);
		if (at[axis] != 0)
			continue;
		for (at[axis] = 0; at[axis] < n; at[axis]++)
			run[at[axis]] = x->floats[ref_place(x, at)];
		if (node->op == LLM_OP_LOG_SOFTMAX)
			ref_log_softmax(n, run, run + n);
		else
			ref_softmax(n, 0, 1, run, run + n);
		for (at[axis] = 0; at[axis] < n; at[axis]++)
			out.floats[ref_place(x, at)] = run[n + at[axis]];
	}
	free(run);
	return out;
}

/* The inferred shape as sizes; -1 if only the values determine it. */
static inline RefValue
ref_reshape(const LlmNode *node, const RefValue *x, const LlmSizes *sizes)
{
	int dims[LLM_MAX_DIMS];
	RefValue out;

	for (int i = 0; i < node->ndim; i++)
		dims[i] = (int) llm_dim_value(&node->shape[i], sizes);
	out = ref_value(node->ndim, dims);
	CHECK(out.numel == x->numel);
	memcpy(out.floats, x->floats, x->numel * sizeof(float));
	return out;
}

static inline RefValue
ref_transpose(const LlmNode *node, const RefValue *x)
{
	const LlmAttr *axes = llm_attr(node, "axes");
	int dims[LLM_MAX_DIMS], order[LLM_MAX_DIMS], n = x->ndim;
	RefValue out;

	for (int i = 0; i < n; i++)
	{
		int axis = axes ? (int) axes->items[i].number : i < n - 2 || n < 2 ? i : 2 * n - 3 - i;

		order[i] = axis < 0 ? axis + n : axis;
		dims[i] = x->dims[order[i]];
	}
	out = ref_value(n, dims);
	for (size_t e = 0; e < out.numel; e++)
	{
		int at[LLM_MAX_DIMS], from[LLM_MAX_DIMS];

		ref_index(&out, e, at);
		for (int i = 0; i < n; i++)
			from[order[i]] = at[i];
		out.floats[e] = x->floats[ref_place(x, from)];
	}
	return out;
}

static inline RefValue
ref_slice(const LlmNode *node, const RefValue *x)
{
	const LlmAttr *starts = llm_attr(node, "starts"), *stops = llm_attr(node, "stops");
	const LlmAttr *steps = llm_attr(node, "steps");
	int dims[LLM_MAX_DIMS], first[LLM_MAX_DIMS] = {0}, step[LLM_MAX_DIMS];
	RefValue out;

	for (int i = 0; i < x->ndim; i++)
	{
		int stop = x->dims[i];

		step[i] = steps && i < steps->count ? (int) steps->items[i].number : 1;

		if (i < starts->count)
		{
			first[i] = (int) starts->items[i].number + (starts->items[i].number < 0 ? x->dims[i] : 0);
			if (stops->items[i].kind != LLM_ATTR_NULL)
				stop = (int) stops->items[i].number + (stops->items[i].number < 0 ? x->dims[i] : 0);
		}
		dims[i] = (stop - first[i] + step[i] - 1) / step[i];
		CHECK(first[i] >= 0 && dims[i] >= 0 && stop <= x->dims[i]);
	}
	out = ref_value(x->ndim, dims);
	for (size_t e = 0; e < out.numel; e++)
	{
		int at[LLM_MAX_DIMS];

		ref_index(&out, e, at);
		for (int i = 0; i < x->ndim; i++)
			at[i] = at[i] * step[i] + first[i];
		out.floats[e] = x->floats[ref_place(x, at)];
	}
	return out;
}

static inline RefValue
ref_join(const LlmNode *node, const RefValue *values)
{
	const RefValue *first = &values[node->inputs[0]];
	bool stack = node->op == LLM_OP_STACK, concat = node->op == LLM_OP_CONCAT;
	int axis = concat ? ref_axis(node, first->ndim, 0) : 0, dims[LLM_MAX_DIMS + 1];
	RefValue out;

	memcpy(dims + stack, first->dims, first->ndim * sizeof(int));
	if (stack)
		dims[0] = node->n_inputs;
	for (int k = 1; concat && k < node->n_inputs; k++)
		dims[axis] += values[node->inputs[k]].dims[axis];
	out = ref_value(first->ndim + stack, dims);
	for (size_t e = 0; e < out.numel; e++)
	{
		int at[LLM_MAX_DIMS], k = 0;

		if (node->op == LLM_OP_TOTAL)
		{
			out.floats[e] = first->floats[e];
			for (k = 1; k < node->n_inputs; k++)
				out.floats[e] += values[node->inputs[k]].floats[e];
			continue;
		}
		ref_index(&out, e, at);
		if (stack)
			out.floats[e] = values[node->inputs[at[0]]].floats[e % first->numel];
		for (; concat && at[axis] >= values[node->inputs[k]].dims[axis]; k++)
			at[axis] -= values[node->inputs[k]].dims[axis];
		if (concat)
			out.floats[e] = values[node->inputs[k]].floats[ref_place(&values[node->inputs[k]], at)];
	}
	return out;
}

static inline RefValue
ref_view(const LlmNode *node, const RefValue *values, const LlmSizes *sizes)
{
	const RefValue *x = &values[node->inputs[0]];
	RefValue out;

	switch (node->op)
	{
		case LLM_OP_RESHAPE:
			return ref_reshape(node, x, sizes);
		case LLM_OP_TRANSPOSE:
			return ref_transpose(node, x);
		case LLM_OP_SLICE:
			return ref_slice(node, x);
		case LLM_OP_CONCAT:
		case LLM_OP_STACK:
		case LLM_OP_TOTAL:
			return ref_join(node, values);
		case LLM_OP_CONV2D:
			return ref_conv2d(
				node, x, &values[node->inputs[1]], node->n_inputs > 2 ? &values[node->inputs[2]] : NULL);
		case LLM_OP_GROUPNORM:
			return ref_groupnorm(node, x, &values[node->inputs[1]], &values[node->inputs[2]]);
		case LLM_OP_UPSAMPLE:
		case LLM_OP_AVGPOOL:
			return ref_scaled(node, x, node->op == LLM_OP_AVGPOOL);
		case LLM_OP_ONES_LIKE:
		case LLM_OP_ZEROS_LIKE:
			out = ref_value(x->ndim, x->dims);
			for (size_t e = 0; e < out.numel; e++)
				out.floats[e] = node->op == LLM_OP_ONES_LIKE;
			return out;
		default:
			return ref_reduce(node, x);
	}
}

#endif
