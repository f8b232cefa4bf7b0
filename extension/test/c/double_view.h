/*
 * Values in float64 with elements addressed by index; and the ops of double_graph.h that reduce, move or
 * join them.
 */
#ifndef DOUBLE_VIEW_H
#define DOUBLE_VIEW_H

#include <math.h>

#include "engine/graph.h"
#include "test.h"

typedef struct DblValue
{
	int ndim, dims[LLM_MAX_DIMS];
	size_t numel;
	double *x;
	const int32_t *ids;
	bool integers; /* an input of integers, the ids */
} DblValue;

/* Zeros of a node's shape. */
static inline DblValue
dbl_new(const LlmGraph *g, const LlmNode *node)
{
	DblValue v = {.ndim = node->ndim, .numel = 1, .integers = node->integers};

	for (int i = 0; i < node->ndim; i++)
		v.numel *= v.dims[i] = (int) llm_dim_value(&node->shape[i], &g->sizes);
	v.x = calloc(v.numel + 1, sizeof(double));
	return v;
}

/* The index of the element at `place`, and the inverse. */
static inline void
dbl_index(const DblValue *v, size_t place, int *index)
{
	for (int i = v->ndim - 1; i >= 0; i--)
	{
		index[i] = place % v->dims[i];
		place /= v->dims[i];
	}
}

static inline size_t
dbl_place(const DblValue *v, const int *index)
{
	size_t place = 0;

	for (int i = 0; i < v->ndim; i++)
		place = place * v->dims[i] + index[i];
	return place;
}

/* The element of v that was broadcast to the element at `place` of a result. */
static inline double
dbl_broadcast(const DblValue *v, const DblValue *out, size_t place)
{
	int at[LLM_MAX_DIMS], own[LLM_MAX_DIMS];

	dbl_index(out, place, at);
	for (int i = 0; i < v->ndim; i++)
		own[i] = v->dims[i] == 1 ? 0 : at[out->ndim - v->ndim + i];
	return v->x[dbl_place(v, own)];
}

static inline int
dbl_axis(const LlmNode *node, int ndim, int otherwise)
{
	int axis = (int) llm_attr_number(node, "axis", otherwise);

	return axis < 0 ? axis + ndim : axis;
}

/* Reduces x, along axis or (-1) over all elements, to the element at `place` of the result. */
static inline double
dbl_reduce_run(LlmOp op, const DblValue *x, int axis, const DblValue *out, size_t place)
{
	int at[LLM_MAX_DIMS], from[LLM_MAX_DIMS], n = axis < 0 ? (int) x->numel : x->dims[axis];
	double *run = malloc(n * sizeof(double) + 1), sum = 0, squares = 0, top = 0, low = 0, var = 0;

	dbl_index(out, place, at);
	for (int i = 0; i < n; i++)
	{
		for (int j = 0; j < x->ndim && axis >= 0; j++)
			from[j] = j == axis ? i : at[j - (j > axis)];
		run[i] = x->x[axis < 0 ? (size_t) i : dbl_place(x, from)];
		sum += run[i];
		squares += run[i] * run[i];
		top = i == 0 || run[i] > top ? run[i] : top;
		low = i == 0 || run[i] < low ? run[i] : low;
	}
	for (int i = 0; i < n; i++)
		var += (run[i] - sum / n) * (run[i] - sum / n) / n;
	free(run);
	switch (op)
	{
		case LLM_OP_MEAN:
			return sum / n;
		case LLM_OP_MAX:
			return top;
		case LLM_OP_MIN:
			return low;
		case LLM_OP_VAR:
			return var;
		case LLM_OP_NORM:
			return sqrt(squares);
		default:
			return sum;
	}
}

static inline double
dbl_sliced(const LlmNode *node, const DblValue *x, const DblValue *out, size_t place)
{
	const LlmAttr *starts = llm_attr(node, "starts"), *steps = llm_attr(node, "steps");
	int at[LLM_MAX_DIMS];

	dbl_index(out, place, at);
	for (int i = 0; i < starts->count; i++)
		at[i] = at[i] * (steps ? (int) steps->items[i].number : 1) + (int) starts->items[i].number +
				(starts->items[i].number < 0 ? x->dims[i] : 0);
	return x->x[dbl_place(x, at)];
}

static inline double
dbl_transposed(const LlmNode *node, const DblValue *x, const DblValue *out, size_t place)
{
	const LlmAttr *axes = llm_attr(node, "axes");
	int at[LLM_MAX_DIMS], from[LLM_MAX_DIMS], n = x->ndim;

	dbl_index(out, place, at);
	for (int i = 0; i < n; i++)
	{
		int axis = axes ? (int) axes->items[i].number : i < n - 2 ? i : n < 2 ? i : 2 * n - 3 - i;

		from[axis < 0 ? axis + n : axis] = at[i];
	}
	return x->x[dbl_place(x, from)];
}

static inline double
dbl_joined(const LlmNode *node, const DblValue *values, const DblValue *out, size_t place)
{
	int at[LLM_MAX_DIMS], axis = dbl_axis(node, out->ndim, 0), k = 0;
	double sum = 0;

	dbl_index(out, place, at);
	if (node->op == LLM_OP_TOTAL)
	{
		for (k = 0; k < node->n_inputs; k++)
			sum += values[node->inputs[k]].x[place];
		return sum;
	}
	if (node->op == LLM_OP_STACK)
		return values[node->inputs[at[0]]].x[place % values[node->inputs[at[0]]].numel];
	for (; at[axis] >= values[node->inputs[k]].dims[axis]; k++)
		at[axis] -= values[node->inputs[k]].dims[axis];
	return values[node->inputs[k]].x[dbl_place(&values[node->inputs[k]], at)];
}

static inline void
dbl_view(const LlmNode *node, const DblValue *values, DblValue *out)
{
	const DblValue *x = &values[node->inputs[0]];

	for (size_t e = 0; e < out->numel; e++)
		switch (node->op)
		{
			case LLM_OP_RESHAPE:
				out->x[e] = x->x[e];
				break;
			case LLM_OP_TRANSPOSE:
				out->x[e] = dbl_transposed(node, x, out, e);
				break;
			case LLM_OP_SLICE:
				out->x[e] = dbl_sliced(node, x, out, e);
				break;
			case LLM_OP_CONCAT:
			case LLM_OP_STACK:
			case LLM_OP_TOTAL:
				out->x[e] = dbl_joined(node, values, out, e);
				break;
			case LLM_OP_ONES_LIKE:
			case LLM_OP_ZEROS_LIKE:
				out->x[e] = node->op == LLM_OP_ONES_LIKE;
				break;
			default:
				out->x[e] = dbl_reduce_run(
					node->op, x, llm_attr(node, "axis") ? dbl_axis(node, x->ndim, 0) : -1, out, e);
		}
}

#endif
