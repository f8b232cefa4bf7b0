/*
 * Gradients of the layers: embeddings, norms, softmax, attention, dropout and the loss.
 */
#include "engine/backprop.h"
#include "engine/gradients.h"
#include "engine/sql_layers.h"
#include "engine/views.h"

LlmCode
llm_back_embedding(Back *b, LlmError *err)
{
	Buffer *buffer;
	float *table;
	LlmCode code;

	if (!llm_back_wants(b, 1))
		return LLM_OK;
	if (b->in[1].floats == NULL &&
		b->exec->model->weights) /* a weight in panels only, and so is its gradient */
	{
		table = b->grads[b->node->inputs[1]];
		return table ? llm_embedding_backward_panels(
						   b->in[0].numel, b->in[1].dims[1], b->in[0].integers, b->dy, table, err)
					 : LLM_OK;
	}
	table = llm_back_open(b, 1, false, &buffer, err);
	if (table == NULL)
		return err->code;
	code = llm_embedding_backward(b->in[0].numel, b->in[1].dims[1], b->in[0].integers, b->dy, table, err);
	return llm_back_close(b, 1, buffer, code, err);
}

/* Softmax over another axis: y and dy are turned so that it is the last, dx is turned back. */
static LlmCode
softmax_dx_along(Back *b, int axis, float *dx, LlmError *err)
{
	const LlmValue *y = b->out;
	LlmValue swapped = *y;
	int n = y->dims[axis];
	Buffer *turned = llm_buffer_take(b->exec, 2 * y->numel, err);
	float *dy = turned ? turned->data + y->numel : NULL;
	LlmCode code;

	if (turned == NULL)
		return err->code;
	swapped.dims[axis] = y->dims[y->ndim - 1];
	swapped.dims[y->ndim - 1] = n;
	code = llm_swap_with_last(y, axis, y->floats, turned->data, err);
	if (code == LLM_OK)
		code = llm_swap_with_last(y, axis, b->dy, dy, err);
	if (code == LLM_OK)
		code = llm_softmax_backward(n ? y->numel / n : 0, n, 1, turned->data, dy, dy, err);
	if (code == LLM_OK)
		code = llm_swap_with_last(&swapped, axis, dy, dx, err);
	llm_buffer_drop(b->exec, turned);
	return code;
}

static LlmCode
softmax_dx(Back *b, float *dx, LlmError *err)
{
	int axis = llm_axis_of(b->node, b->out->ndim, -1), n = b->out->dims[axis];

	if (axis != b->out->ndim - 1)
		return softmax_dx_along(b, axis, dx, err);
	return llm_softmax_backward(n ? b->out->numel / n : 0, n, 1, b->out->floats, b->dy, dx, err);
}

LlmCode
llm_back_softmax(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, softmax_dx, err);
}

LlmCode
llm_back_layernorm(Back *b, LlmError *err)
{
	int C = b->in[0].dims[b->in[0].ndim - 1];
	Buffer *buffers[3] = {0};
	float *to[3];
	LlmCode code = LLM_OK;

	/* the kernel makes all three; one that nobody wants is forgotten */
	for (int i = 0; i < 3 && code == LLM_OK; i++)
	{
		to[i] = llm_back_open(b, i, i == 0, &buffers[i], err);
		code = to[i] ? LLM_OK : err->code;
	}
	if (code == LLM_OK && C > 0)
		code = llm_layernorm_backward(b->in[0].numel / C, C, b->in[0].floats, b->in[1].floats,
			(float) llm_attr_number(b->node, "eps", 1e-5), b->dy, to[0], to[1], to[2], b->exec->memory, err);
	for (int i = 0; i < 3; i++)
		if (llm_back_wants(b, i))
			code = llm_back_close(b, i, buffers[i], code, err);
		else
			llm_buffer_drop(b->exec, buffers[i]);
	return code;
}

static LlmCode
attention_dx(Back *b, float *dx, LlmError *err)
{
	float head_mask[LLM_MAX_HEADS];
	LlmAttention a;

	llm_attention_of(b->exec, b->index, &b->in[0], &a, head_mask);
	return llm_attention_backward(&a, b->in[0].floats, b->dy, dx, b->exec->memory, err);
}

LlmCode
llm_back_attention(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, attention_dx, err);
}

static LlmCode
dropout_dx(Back *b, float *dx, LlmError *err)
{
	LlmStream stream;
	float p = llm_dropout_of(b->exec, b->index, "p", &stream);

	return llm_dropout(&stream, p, true, b->in[0].numel, b->dy, dx, err);
}

LlmCode
llm_back_dropout(Back *b, LlmError *err)
{
	LlmStream stream;

	return llm_dropout_of(b->exec, b->index, "p", &stream) > 0 ? llm_back_write(b, 0, dropout_dx, err)
															   : llm_back_give(b, 0, b->dy, err);
}

static LlmCode
cross_entropy_dx(Back *b, float *dx, LlmError *err)
{
	return llm_cross_entropy_backward(b->in[1].numel, b->in[0].dims[b->in[0].ndim - 1], b->in[0].floats,
		b->in[1].integers, b->dy[0], dx, err);
}

LlmCode
llm_back_cross_entropy(Back *b, LlmError *err)
{
	if (b->exec->slots[b->node->inputs[0]].in_chunks) /* done with the loss (run_loss.c) */
		return LLM_OK;
	return llm_back_write(b, 0, cross_entropy_dx, err);
}
