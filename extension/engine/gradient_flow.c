/*
 * See gradient_flow.h. Contributions of several readers are added in the order of the backward pass, that of
 * the last reader first.
 */
#include "engine/gradient_flow.h"

#include <string.h>

#include "engine/broadcast_backward.h"

LlmValue
llm_back_input(const Back *b, int i)
{
	return b->exec->slots[b->node->inputs[i]].value;
}

bool
llm_back_wants(const Back *b, int i)
{
	return b->exec->slots[b->node->inputs[i]].wanted;
}

/*
 * A parameter's gradient, to which contributions are added in place. The gradient of any other node is
 * written to grads once it is complete.
 */
static float *
own_gradient(const Back *b, int i)
{
	int input = b->node->inputs[i];

	return llm_is_trainable(&b->exec->model->graph.nodes[input]) ? b->grads[input] : NULL;
}

float *
llm_back_open(Back *b, int i, bool write, Buffer **buffer, LlmError *err)
{
	size_t numel = llm_back_input(b, i).numel;
	float *own = own_gradient(b, i);

	*buffer = NULL;
	if (own && !write)
		return own;
	*buffer = llm_buffer_take(b->exec, numel, err);
	if (*buffer && !write && llm_fill(numel, 0, (*buffer)->data, err) != LLM_OK)
	{
		llm_buffer_drop(b->exec, *buffer);
		*buffer = NULL;
	}
	return *buffer ? (*buffer)->data : NULL;
}

/*
 * Adds the buffer to the gradient of input i. The gradient of a parameter is summed in place; that of
 * another value becomes the buffer, or the buffer with the sum.
 */
LlmCode
llm_back_close(Back *b, int i, Buffer *buffer, LlmCode code, LlmError *err)
{
	Slot *slot = &b->exec->slots[b->node->inputs[i]];
	float *own = own_gradient(b, i);
	const float *old = own ? own : slot->grad ? slot->grad->data : NULL;
	size_t n = slot->value.numel;

	if (buffer == NULL)
		return code;
	if (code == LLM_OK && old)
		code = llm_binary(
			LLM_ADD, 1, n, old, true, true, buffer->data, true, true, own ? own : buffer->data, err);
	if (own || code != LLM_OK)
		llm_buffer_drop(b->exec, buffer);
	else
	{
		llm_buffer_drop(b->exec, slot->grad);
		slot->grad = buffer;
	}
	return code;
}

LlmCode
llm_back_open_all(Back *b, int n, float **to, Buffer **buffers, LlmError *err)
{
	LlmCode code = LLM_OK;

	memset(buffers, 0, n * sizeof(Buffer *));
	for (int i = 0; i < n && code == LLM_OK; i++)
	{
		to[i] = llm_back_open(b, i, i == 0, &buffers[i], err);
		code = to[i] ? LLM_OK : err->code;
	}
	return code;
}

LlmCode
llm_back_close_all(Back *b, int n, Buffer **buffers, LlmCode code, LlmError *err)
{
	for (int i = 0; i < n; i++)
		if (llm_back_wants(b, i))
			code = llm_back_close(b, i, buffers[i], code, err);
		else
			llm_buffer_drop(b->exec, buffers[i]);
	return code;
}

/*
 * The gradient of input i equals the node's own: as long as there is no other contribution, both share the
 * memory.
 */
static LlmCode
pass_gradient(Back *b, int i, LlmError *err)
{
	Slot *slot = &b->exec->slots[b->node->inputs[i]];
	Buffer *mine = b->exec->slots[b->index].grad;
	size_t n = slot->value.numel;
	Buffer *sum;
	LlmCode code;

	if (slot->grad == NULL)
	{
		slot->grad = mine;
		mine->refs++;
		return LLM_OK;
	}
	sum = slot->grad->refs == 1 ? slot->grad : llm_buffer_take(b->exec, n, err);
	if (sum == NULL)
		return err->code;
	code = llm_binary(LLM_ADD, 1, n, slot->grad->data, true, true, mine->data, true, true, sum->data, err);
	if (sum != slot->grad)
	{
		llm_buffer_drop(b->exec, slot->grad);
		slot->grad = sum;
	}
	return code;
}

LlmCode
llm_back_add(Back *b, int i, const float *terms, LlmError *err)
{
	LlmValue x = llm_back_input(b, i);
	Buffer *buffer;
	float *to;
	LlmCode code;

	if (!llm_back_wants(b, i))
		return LLM_OK;
	if (x.numel == b->out->numel && terms == b->exec->slots[b->index].grad->data &&
		own_gradient(b, i) == NULL)
		return pass_gradient(b, i, err);
	to = llm_back_open(b, i, false, &buffer, err);
	if (to == NULL)
		return err->code;
	code = llm_broadcast_sum_into(b->out->ndim, b->out->dims, terms, x.ndim, x.dims, to, err);
	return llm_back_close(b, i, buffer, code, err);
}

LlmCode
llm_back_write(Back *b, int i, LlmWrite write, LlmError *err)
{
	Buffer *buffer;
	float *dx;

	if (!llm_back_wants(b, i))
		return LLM_OK;
	dx = llm_back_open(b, i, true, &buffer, err);
	if (dx == NULL)
		return err->code;
	return llm_back_close(b, i, buffer, write(b, dx, err), err);
}
