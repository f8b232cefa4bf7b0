/*
 * Elements from starts up to, not including, stops along the first axes, or every step-th of them; the others
 * get no gradient.
 */
#include <stdio.h>
#include <string.h>

#include "engine/ops/op.h"
#include "engine/image.h"
#include "engine/layout.h"

/*
 * The length of start … stop along a dimension, where negative positions count from its end; -1: outside of
 * it, -2: the dimension's size must be known.
 */
static int64_t
slice_length(int64_t size, int start, int stop)
{
	bool same_side = (start < 0) == (stop < 0 || stop == LLM_TO_END);
	int64_t from = start, to = stop == LLM_TO_END ? 0 : stop;

	if (size < 0) /* known without the size if both count from the same end */
		return !same_side ? -2 : to < from ? -1 : to - from;
	from += from < 0 ? size : 0;
	to = stop == LLM_TO_END ? size : to < 0 ? to + size : to;
	return from < 0 || to > size || to < from ? -1 : to - from;
}

/* The attribute steps, or ones; false unless there are n, each at least 1. */
static bool
steps_of(const LlmNode *node, int n, int *steps)
{
	bool given = llm_attr(node, "steps") != NULL;

	for (int i = 0; i < n; i++)
		steps[i] = 1;
	if (given && llm_attr_integers(node, "steps", steps) != n)
		return false;
	for (int i = 0; i < n; i++)
		if (steps[i] < 1 || steps[i] == LLM_TO_END)
			return false;
	return true;
}

LlmCode
llm_infer_slice(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	int starts[LLM_MAX_DIMS], stops[LLM_MAX_DIMS], steps[LLM_MAX_DIMS];
	int n = llm_attr_integers(node, "starts", starts), m = llm_attr_integers(node, "stops", stops);

	if (n < 0 || m != n || n > x->ndim)
		return llm_infer_refuse(node, x, NULL,
			"the attributes starts and stops must list one position for each of the first axes", err);
	if (!steps_of(node, n, steps))
		return llm_attr_refuse(node, "steps", "a list of whole numbers from 1 up, one for each start", err);
	llm_infer_copy_shape(node, x);
	for (int i = 0; i < n; i++)
	{
		int64_t length;
		char why[160];

		if (starts[i] == LLM_TO_END)
			return llm_attr_refuse(node, "starts", "a list of whole numbers", err);
		if (starts[i] == 0 && stops[i] == LLM_TO_END &&
			(steps[i] == 1 || llm_dim_divide(graph, &x->shape[i], steps[i], &node->shape[i])))
			continue; /* the whole axis, whatever its size */
		length = slice_length(llm_dim_value(&x->shape[i], &graph->sizes), starts[i], stops[i]);
		node->shape[i] = (LlmDim){.times = length < 0 ? length : (length + steps[i] - 1) / steps[i]};
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

bool
llm_rows_slice(const LlmExec *exec, const LlmNode *node, int t)
{
	int from = llm_t_axis_of(exec, node, 0);

	return from == -1 || (from >= 0 && t == from);
}

/* Starts and stops along the first *n axes, counted from 0, and steps. */
static LlmCode
ranges_of(const LlmNode *node, const LlmValue *x, int *n, int *starts, int *stops, int *steps, LlmError *err)
{
	int dims[LLM_MAX_DIMS];

	*n = llm_attr_integers(node, "starts", starts);
	llm_attr_integers(node, "stops", stops);
	for (int i = 0; i < *n; i++)
		if (stops[i] == LLM_TO_END)
			stops[i] = x->dims[i];
	steps_of(node, *n, steps);
	return llm_slice_shape(x->ndim, x->dims, *n, starts, stops, steps, dims, err);
}

LlmCode
llm_forward_slice(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	int n, starts[LLM_MAX_DIMS], stops[LLM_MAX_DIMS], steps[LLM_MAX_DIMS];
	LlmCode code = llm_run_result(exec, index, err);

	if (code == LLM_OK)
		code = ranges_of(&exec->model->graph.nodes[index], x, &n, starts, stops, steps, err);
	return code == LLM_OK ? llm_slice(x->ndim, x->dims, n, starts, stops, steps, x->floats,
								llm_result_of(exec, index), err)
						  : code;
}

/* Rows shorter than this are copied in groups of this many between two polls of the stop function. */
#define FEW 1024

/* Elements outside the slice get 0. */
static LlmCode
slice_dx(Back *b, float *dx, LlmError *err)
{
	const LlmValue *x = &b->in[0];
	int n, starts[LLM_MAX_DIMS] = {0}, stops[LLM_MAX_DIMS], steps[LLM_MAX_DIMS];
	LlmCode code = ranges_of(b->node, x, &n, starts, stops, steps, err);
	int last = x->ndim - 1, step;
	size_t length = x->ndim ? b->out->dims[last] : 1;

	for (int i = code == LLM_OK ? n : x->ndim; i < x->ndim; i++)
		steps[i] = 1;
	step = last < 0 || code != LLM_OK ? 1 : steps[last];
	if (code == LLM_OK)
		code = llm_fill(x->numel, 0, dx, err);
	for (size_t at = 0; code == LLM_OK && length > 0 && at < b->out->numel; at += length)
	{
		size_t row = at / length, to = x->ndim ? starts[last] : 0, stride = x->ndim ? x->dims[last] : 1;
		bool few = length < FEW && row % FEW != 0;

		for (int i = last - 1; i >= 0; i--)
		{
			to += (row % b->out->dims[i] * steps[i] + starts[i]) * stride;
			stride *= x->dims[i];
			row /= b->out->dims[i];
		}
		if (step > 1)
			code = llm_copy_rows(length, 1, b->dy + at, 1, dx + to, step, err);
		else if (few)
			memcpy(dx + to, b->dy + at, length * sizeof(float));
		else
			code = llm_copy(length, b->dy + at, dx + to, err);
	}
	return code;
}

LlmCode
llm_backward_slice(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, slice_dx, err);
}
