/*
 * The way back: nodes in reverse order, each by its op's rule from the gradient of its value to those of its
 * inputs. Contributions of several readers are added in the order in which they come, the last reader's
 * first.
 */
#include "engine/backprop.h"
#include "engine/broadcast_backward.h"

/* ---- where gradients go ---- */

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

/* A parameter's gradient, which contributions are added to in place; other nodes have none before it is
 * complete. */
static float *
own_gradient(const Back *b, int i)
{
	int input = b->node->inputs[i];

	return b->exec->model->graph.nodes[input].op == LLM_OP_PARAM ? b->grads[input] : NULL;
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

/* The buffer joins the gradient of input i: that of a parameter, or of a value, which it becomes or replaces
 * by the sum. */
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

/* Input i's gradient is the node's own, number for number: while it is the only one they share the memory. */
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
llm_back_give(Back *b, int i, const float *terms, LlmError *err)
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

/* ---- the rules ---- */

/* An op without one hands no gradient on: what it reads is a leaf to the walk. */
static const LlmRule rules[LLM_OP_COUNT] = {
	[LLM_OP_EMBEDDING] = llm_back_embedding,
	[LLM_OP_MATMUL] = llm_back_matmul,
	[LLM_OP_ADD] = llm_back_add,
	[LLM_OP_SUB] = llm_back_sub,
	[LLM_OP_MUL] = llm_back_mul,
	[LLM_OP_DIV] = llm_back_div,
	[LLM_OP_NEG] = llm_back_unary,
	[LLM_OP_EXP] = llm_back_unary,
	[LLM_OP_LOG] = llm_back_unary,
	[LLM_OP_SQRT] = llm_back_unary,
	[LLM_OP_TANH] = llm_back_unary,
	[LLM_OP_RELU] = llm_back_unary,
	[LLM_OP_GELU] = llm_back_unary,
	[LLM_OP_SOFTMAX] = llm_back_softmax,
	[LLM_OP_LAYERNORM] = llm_back_layernorm,
	[LLM_OP_ATTENTION] = llm_back_attention,
	[LLM_OP_DROPOUT] = llm_back_dropout,
	[LLM_OP_CROSS_ENTROPY] = llm_back_cross_entropy,
	[LLM_OP_SUM] = llm_back_reduce,
	[LLM_OP_MEAN] = llm_back_reduce,
	[LLM_OP_MAX] = llm_back_reduce,
	[LLM_OP_MIN] = llm_back_reduce,
	[LLM_OP_VAR] = llm_back_reduce,
	[LLM_OP_NORM] = llm_back_reduce,
	[LLM_OP_RESHAPE] = llm_back_reshape,
	[LLM_OP_TRANSPOSE] = llm_back_transpose,
	[LLM_OP_SLICE] = llm_back_slice,
	[LLM_OP_CONCAT] = llm_back_concat,
	[LLM_OP_STACK] = llm_back_concat,
	[LLM_OP_TOTAL] = llm_back_total,
};

bool
llm_rule_reads_inputs(LlmOp op)
{
	return op != LLM_OP_ADD && op != LLM_OP_SUB && op != LLM_OP_NEG && op != LLM_OP_DROPOUT;
}

bool
llm_rule_reads_result(LlmOp op)
{
	return op != LLM_OP_EMBEDDING && op != LLM_OP_MATMUL && op != LLM_OP_ADD && op != LLM_OP_SUB &&
		   op != LLM_OP_MUL && op != LLM_OP_NEG && op != LLM_OP_LAYERNORM && op != LLM_OP_ATTENTION &&
		   op != LLM_OP_DROPOUT;
}

/* ---- the walk ---- */

/* Logits that their loss took in chunks: what is left to do is to hand on the gradient that it made. */
static LlmCode
back_chunks(Back *b, Slot *slot, LlmError *err)
{
	Buffer *dx = slot->dx;

	slot->dx = NULL;
	return dx ? llm_back_close(b, 0, dx, LLM_OK, err) : LLM_OK;
}

static LlmCode
back_node(LlmExec *exec, float *const *grads, int index, LlmError *err)
{
	Back b = {.exec = exec, .grads = grads, .node = &exec->model->graph.nodes[index], .index = index};
	Slot *slot = &exec->slots[index];
	LlmCode code = LLM_OK;

	if (slot->in_chunks)
		return back_chunks(&b, slot, err);
	if (slot->grad == NULL)
		return LLM_OK;
	if (grads[index]) /* every reader has been: it is complete */
		code = llm_copy(slot->value.numel, slot->grad->data, grads[index], err);
	for (int i = 0; i < b.node->n_inputs && i < 3; i++)
		b.in[i] = exec->slots[b.node->inputs[i]].value;
	b.out = &slot->value;
	b.dy = slot->grad->data;
	if (code == LLM_OK && rules[b.node->op])
		code = rules[b.node->op](&b, err);
	llm_buffer_drop(exec, slot->grad);
	slot->grad = NULL;
	return code;
}

/* Gradients flow to what leads to a parameter. */
void
llm_mark_wanted(LlmExec *exec)
{
	const LlmGraph *graph = &exec->model->graph;

	for (int i = 0; i < graph->count; i++)
	{
		const LlmNode *node = &graph->nodes[graph->order[i]];
		Slot *slot = &exec->slots[graph->order[i]];

		slot->wanted = node->op == LLM_OP_PARAM;
		for (int j = 0; j < node->n_inputs; j++)
			slot->wanted |= exec->slots[node->inputs[j]].wanted && rules[node->op];
	}
}

LlmCode
llm_walk_back(LlmExec *exec, float *const *grads, LlmError *err)
{
	const LlmGraph *graph = &exec->model->graph;
	Slot *target = &exec->slots[exec->target];
	LlmCode code = LLM_OK;

	if (target->value.numel != 1)
	{
		llm_fail(err, LLM_INVALID, "gradients are those of one number: node \"%s\" has %zu",
			graph->nodes[exec->target].name, target->value.numel);
		return llm_hint(err, "A loss such as cross_entropy is one number.");
	}
	llm_mark_wanted(exec);
	if (!target->wanted)
		return LLM_OK;
	target->grad = llm_buffer_take(exec, 1, err);
	if (target->grad == NULL)
		return err->code;
	target->grad->data[0] = 1;
	for (int i = graph->count - 1; code == LLM_OK && i >= 0; i--)
	{
		Slot *slot = &exec->slots[graph->order[i]];

		if (slot->rows == ROWS_NONE)
			continue;
		code = back_node(exec, grads, graph->order[i], err);
		if (!exec->tracing) /* its readers' rules and its own have been */
		{
			llm_buffer_drop(exec, slot->buffer);
			slot->buffer = NULL;
		}
	}
	for (int i = 0; i < graph->count; i++) /* left over after an error */
	{
		llm_buffer_drop(exec, exec->slots[i].grad);
		exec->slots[i].grad = NULL;
	}
	return code;
}

LlmCode
llm_exec_backward(LlmExec *exec, float *const *grads, LlmError *err)
{
	if (!exec->keep || exec->slots[exec->target].buffer == NULL)
		return llm_fail(err, LLM_INVALID, "node \"%s\": no run that kept its values is there to walk back",
			exec->model->graph.nodes[exec->target].name);
	if (exec->grads && exec->grads != grads)
		return llm_fail(err, LLM_INVALID, "node \"%s\": its gradients were to go to other arrays",
			exec->model->graph.nodes[exec->target].name);
	return llm_walk_back(exec, grads, err);
}
