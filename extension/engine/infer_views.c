/*
 * Shape rules of the ops that reduce, move or join elements. A dimension stays a name where it can; what
 * would need algebra on names is refused.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/infer.h"

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

/* sum, mean, max, min, var, norm: the axis goes, or all of them. */
LlmCode
llm_infer_reduce(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_infer_input(graph, node, 0);
	int axis;

	node->ndim = 0;
	if (llm_attr(node, "axis") == NULL)
		return LLM_OK;
	if (llm_infer_axis(node, x, x->ndim, 0, &axis, err) != LLM_OK)
		return err->code;
	for (int i = 0; i < x->ndim; i++)
		if (i != axis)
			node->shape[node->ndim++] = x->shape[i];
	return LLM_OK;
}

/* A product of dimensions: numbers multiplied, names that have no number yet listed. */
typedef struct Size
{
	int64_t number;
	int n_names;
	const char *names[LLM_MAX_DIMS];
} Size;

static bool
times(const LlmGraph *graph, Size *size, const LlmDim *dim)
{
	int64_t value = llm_dim_value(dim, &graph->sizes);

	if (value < 0)
	{
		size->names[size->n_names++] = dim->name;
		value = dim->times;
	}
	return !__builtin_mul_overflow(size->number, value, &size->number);
}

/* Names that both have cancel out; false: b has one that a lacks. */
static bool
cancel_names(Size *a, const Size *b)
{
	for (int i = 0; i < b->n_names; i++)
	{
		int j = 0;

		while (j < a->n_names && strcmp(a->names[j], b->names[i]) != 0)
			j++;
		if (j == a->n_names)
			return false;
		a->names[j] = a->names[--a->n_names];
	}
	return true;
}

/* The dimensions of attribute shape; the place of its only -1 in *open, else -1. */
static LlmCode
wanted_shape(LlmNode *node, int *open, LlmError *err)
{
	static const char *const expected =
		"a list of at most 8 dimensions such as [\"B\", \"T\", 4, -1], one of which may be -1";
	const LlmAttr *shape = llm_attr(node, "shape");

	*open = -1;
	if (shape == NULL || shape->kind != LLM_ATTR_LIST || shape->count > LLM_MAX_DIMS)
		return llm_attr_refuse(node, "shape", expected, err);
	node->ndim = shape->count;
	for (int i = 0; i < shape->count; i++)
	{
		const LlmAttr *d = &shape->items[i];
		bool number = d->kind == LLM_ATTR_NUMBER && d->number <= INT32_MAX && d->number == floor(d->number);

		if (number && d->number >= 0)
			node->shape[i] = (LlmDim){.times = (int64_t) d->number};
		else if (number && d->number == -1 && *open < 0)
			*open = i;
		else if (d->kind != LLM_ATTR_TEXT || llm_dim_parse(d->text, &node->shape[i], err) != LLM_OK)
			return llm_attr_refuse(node, "shape", expected, err);
	}
	return LLM_OK;
}

LlmCode
llm_infer_reshape(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_infer_input(graph, node, 0);
	Size have = {.number = 1}, asked = {.number = 1};
	bool fits = true;
	char shape[160], why[240];
	int open;

	if (wanted_shape(node, &open, err) != LLM_OK)
		return err->code;
	for (int i = 0; i < x->ndim; i++)
		fits = fits && times(graph, &have, &x->shape[i]);
	for (int i = 0; i < node->ndim; i++)
		fits = fits && (i == open || times(graph, &asked, &node->shape[i]));
	fits = fits && cancel_names(&have, &asked);
	if (fits && open < 0 && have.n_names == 0 && have.number == asked.number)
		return LLM_OK;
	if (fits && open >= 0 && have.n_names <= 1 && asked.number > 0 && have.number % asked.number == 0)
	{
		node->shape[open] = (LlmDim){.times = have.number / asked.number};
		if (have.n_names == 1)
			strcpy(node->shape[open].name, have.names[0]);
		return LLM_OK;
	}
	if (open >= 0)
		node->shape[open] = (LlmDim){.times = -1};
	llm_shape_print(node->ndim, node->shape, shape, sizeof(shape));
	snprintf(why, sizeof(why), "it cannot become %s", shape);
	llm_infer_refuse(node, x, NULL, why, err);
	return llm_hint(err,
		"Both shapes must have as many elements; a dimension may be a number, a name, a multiple "
		"of a name, or -1 for what is left of them.");
}

LlmCode
llm_infer_transpose(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_infer_input(graph, node, 0);
	int axes[LLM_MAX_DIMS], n = llm_attr_integers(node, "axes", axes);
	unsigned used = 0;

	llm_infer_take(node, x);
	if (llm_attr(node, "axes") == NULL)
	{
		if (x->ndim >= 2)
		{
			node->shape[x->ndim - 1] = x->shape[x->ndim - 2];
			node->shape[x->ndim - 2] = x->shape[x->ndim - 1];
		}
		return LLM_OK;
	}
	for (int i = 0; i < n && n == x->ndim; i++)
	{
		int axis = axes[i] < 0 ? axes[i] + n : axes[i];

		if (axis < 0 || axis >= n)
			break;
		used |= 1u << axis;
		node->shape[i] = x->shape[axis];
	}
	if (n == x->ndim && used == (1u << n) - 1)
		return LLM_OK;
	return llm_infer_refuse(
		node, x, NULL, "the attribute axes must list each axis once, such as [0, 2, 1]", err);
}

/* The length of start … stop along a dimension, negative positions counted from its end; -1: it is not within
 * it, -2: its size must be known for that. */
static int64_t
slice_length(int64_t size, int start, int stop)
{
	bool same_side = (start < 0) == (stop < 0 || stop == LLM_TO_END);
	int64_t from = start, to = stop == LLM_TO_END ? 0 : stop;

	if (size < 0) /* what is known without it: both count from the same end */
		return !same_side ? -2 : to < from ? -1 : to - from;
	from += from < 0 ? size : 0;
	to = stop == LLM_TO_END ? size : to < 0 ? to + size : to;
	return from < 0 || to > size || to < from ? -1 : to - from;
}

LlmCode
llm_infer_slice(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_infer_input(graph, node, 0);
	int starts[LLM_MAX_DIMS], stops[LLM_MAX_DIMS];
	int n = llm_attr_integers(node, "starts", starts), m = llm_attr_integers(node, "stops", stops);

	if (n < 0 || m != n || n > x->ndim)
		return llm_infer_refuse(node, x, NULL,
			"the attributes starts and stops must list one position for each of the first axes", err);
	llm_infer_take(node, x);
	for (int i = 0; i < n; i++)
	{
		int64_t length;
		char why[160];

		if (starts[i] == LLM_TO_END)
			return llm_attr_refuse(node, "starts", "a list of whole numbers", err);
		if (starts[i] == 0 && stops[i] == LLM_TO_END)
			continue; /* all of it, whatever its size */
		length = slice_length(llm_dim_value(&x->shape[i], &graph->sizes), starts[i], stops[i]);
		node->shape[i] = (LlmDim){.times = length};
		if (length >= 0)
			continue;
		if (length == -2)
			snprintf(why, sizeof(why), "the length from %d along axis %d depends on the size of %s",
				starts[i], i, x->shape[i].name);
		else if (stops[i] == LLM_TO_END)
			snprintf(why, sizeof(why), "%d to the end is not within axis %d", starts[i], i);
		else
			snprintf(why, sizeof(why), "%d to %d is not within axis %d", starts[i], stops[i], i);
		llm_infer_refuse(node, x, NULL, why, err);
		return llm_hint(err,
			"Positions count from 0, negative ones from the end; the second is the first one left "
			"out, null for the end.");
	}
	return LLM_OK;
}

/* a += b, for equal names or known numbers. */
static bool
add_dim(const LlmGraph *graph, LlmDim *a, const LlmDim *b)
{
	int64_t x = llm_dim_value(a, &graph->sizes), y = llm_dim_value(b, &graph->sizes);

	if (strcmp(a->name, b->name) == 0)
		a->times += b->times;
	else if (x >= 0 && y >= 0)
		*a = (LlmDim){.times = x + y};
	else
		return false;
	return a->times <= INT32_MAX;
}

LlmCode
llm_infer_concat(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *first = llm_infer_input(graph, node, 0);
	int axis;

	if (llm_infer_axis(node, first, first->ndim, 0, &axis, err) != LLM_OK)
		return err->code;
	llm_infer_take(node, first);
	for (int k = 1; k < node->n_inputs; k++)
	{
		const LlmNode *next = llm_infer_input(graph, node, k);
		bool fits = next->ndim == first->ndim;

		for (int i = 0; i < first->ndim && fits; i++)
			fits = i == axis ? add_dim(graph, &node->shape[i], &next->shape[i])
							 : llm_dim_same(graph, &first->shape[i], &next->shape[i]);
		if (!fits)
			return llm_infer_refuse(
				node, first, next, "all dimensions but that of the joined axis must be equal", err);
	}
	return LLM_OK;
}

LlmCode
llm_infer_total(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *first = llm_infer_input(graph, node, 0);

	for (int k = 1; k < node->n_inputs; k++)
	{
		const LlmNode *next = llm_infer_input(graph, node, k);
		bool fits = next->ndim == first->ndim;

		for (int i = 0; i < first->ndim && fits; i++)
			fits = llm_dim_same(graph, &first->shape[i], &next->shape[i]);
		if (!fits)
			return llm_infer_refuse(node, first, next, "the shapes must be equal", err);
	}
	return llm_infer_same(graph, node, err);
}

LlmCode
llm_infer_stack(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *first = llm_infer_input(graph, node, 0);

	if (first->ndim == LLM_MAX_DIMS)
		return llm_infer_refuse(node, first, NULL, "there is no room for one more dimension", err);
	if (llm_infer_total(graph, node, err) != LLM_OK)
		return err->code;
	memmove(node->shape + 1, node->shape, sizeof(LlmDim) * node->ndim);
	node->shape[0] = (LlmDim){.times = node->n_inputs};
	node->ndim++;
	return LLM_OK;
}
