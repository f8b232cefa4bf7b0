/*
 * Gradients of what reduces, moves or joins elements: each goes back to where its element came from.
 */
#include <string.h>

#include "engine/backprop.h"
#include "engine/reduce_backward.h"
#include "engine/views.h"

static LlmCode
reduce_dx(Back *b, float *dx, LlmError *err)
{
	LlmAround r = llm_reduced_of(b->node, &b->in[0]);

	return llm_reduce_backward(llm_reduction_of(b->node), r.outer, r.n, r.inner, b->in[0].floats,
		b->out->floats, b->dy, dx, b->exec->memory, err);
}

LlmCode
llm_back_reduce(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, reduce_dx, err);
}

/* The same elements in the same order. */
LlmCode
llm_back_reshape(Back *b, LlmError *err)
{
	return llm_back_give(b, 0, b->dy, err);
}

/* The axes go back by the inverse order. */
static LlmCode
transpose_dx(Back *b, float *dx, LlmError *err)
{
	int order[LLM_MAX_DIMS], inverse[LLM_MAX_DIMS];
	LlmCode code = llm_order_of(b->node, &b->in[0], order, err);

	for (int i = 0; code == LLM_OK && i < b->out->ndim; i++)
		inverse[order[i]] = i;
	return code == LLM_OK ? llm_permute(b->out->ndim, b->out->dims, inverse, b->dy, dx, err) : code;
}

LlmCode
llm_back_transpose(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, transpose_dx, err);
}

/* Rows shorter than this are copied so many between two looks for a stop. */
#define FEW 1024

/* Elements that were left out get 0. */
static LlmCode
slice_dx(Back *b, float *dx, LlmError *err)
{
	const LlmValue *x = &b->in[0];
	int n, starts[LLM_MAX_DIMS] = {0}, stops[LLM_MAX_DIMS];
	LlmCode code = llm_ranges_of(b->node, x, &n, starts, stops, err);
	int last = x->ndim - 1;
	size_t run = x->ndim ? b->out->dims[last] : 1;

	if (code == LLM_OK)
		code = llm_fill(x->numel, 0, dx, err);
	for (size_t at = 0; code == LLM_OK && run > 0 && at < b->out->numel; at += run)
	{
		size_t row = at / run, to = x->ndim ? starts[last] : 0, stride = x->ndim ? x->dims[last] : 1;
		bool few = run < FEW && row % FEW != 0;

		for (int i = last - 1; i >= 0; i--)
		{
			to += (row % b->out->dims[i] + starts[i]) * stride;
			stride *= x->dims[i];
			row /= b->out->dims[i];
		}
		if (few)
			memcpy(dx + to, b->dy + at, run * sizeof(float));
		else
			code = llm_copy(run, b->dy + at, dx + to, err);
	}
	return code;
}

LlmCode
llm_back_slice(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, slice_dx, err);
}

/* concat and stack: each input gets its own part of dy. */
LlmCode
llm_back_concat(Back *b, LlmError *err)
{
	bool stack = b->node->op == LLM_OP_STACK;
	int axis = stack ? 0 : llm_axis_of(b->node, b->out->ndim, 0);
	LlmAround all = llm_around(b->out, axis);
	int64_t at = 0;

	for (int i = 0; i < b->node->n_inputs; i++)
	{
		LlmValue x = llm_back_input(b, i);
		size_t row = (stack ? 1 : x.dims[axis]) * all.inner;
		Buffer *buffer;
		float *dx;
		LlmCode code;

		if (llm_back_wants(b, i))
		{
			dx = llm_back_open(b, i, true, &buffer, err);
			if (dx == NULL)
				return err->code;
			code = llm_copy_rows(all.outer, row, b->dy + at, all.n * all.inner, dx, row, err);
			code = llm_back_close(b, i, buffer, code, err);
			if (code != LLM_OK)
				return code;
		}
		at += row;
	}
	return LLM_OK;
}

LlmCode
llm_back_total(Back *b, LlmError *err)
{
	LlmCode code = LLM_OK;

	for (int i = 0; code == LLM_OK && i < b->node->n_inputs; i++)
		code = llm_back_give(b, i, b->dy, err);
	return code;
}
