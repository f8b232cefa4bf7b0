/*
 * The same elements in the same order, in another shape.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/ops/op.h"

/* A product of dimensions: the sizes multiplied, and the names without a size listed. */
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

/* Removes from a the names that both have; false: b has one that a lacks. */
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

/* The dimensions of the attribute `shape`; *open is the index of its only -1, or -1. */
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
	const LlmNode *x = llm_input_of(graph, node, 0);
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

/* True if the dimensions before T are the same in the input and the result. */
bool
llm_rows_reshape(const LlmExec *exec, const LlmNode *node, int t)
{
	const LlmNode *x = &exec->model->graph.nodes[node->inputs[0]];
	int from = llm_t_axis_of(exec, node, 0);

	for (int i = 0; i < from && t == from; i++)
		if (x->shape[i].times != node->shape[i].times || strcmp(x->shape[i].name, node->shape[i].name) != 0)
			return false;
	return from == -1 || (from >= 0 && t == from);
}

LlmCode
llm_forward_reshape(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	LlmCode code = llm_run_result(exec, index, err);

	return code == LLM_OK ? llm_copy(x->numel, x->floats, llm_result_of(exec, index), err) : code;
}

LlmCode
llm_backward_reshape(Back *b, LlmError *err)
{
	return llm_back_add(b, 0, b->dy, err);
}
