/*
 * The way back: nodes in reverse order, each by its op's rule from the gradient of its value to those of its
 * inputs. Contributions of several readers are added in the order in which they come, the last reader's
 * first.
 */
#include <math.h>
#include <string.h>

#include "engine/broadcast.h"
#include "engine/gradients.h"
#include "engine/layers.h"
#include "engine/plan.h"

/* A node's way back: its inputs' values, its own value and gradient. */
typedef struct Back
{
	LlmExec *exec;
	float *const *grads;
	const LlmNode *node;
	int index;
	LlmValue in[3];
	const float *dy;
} Back;

typedef LlmCode (*Rule)(Back *b, LlmError *err);

/* ---- where gradients go ---- */

static bool
wants_gradient(const Back *b, int i)
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

/*
 * Memory for a contribution to input i: a parameter's own gradient, which the rule adds to, or (always where
 * `write`, because the rule overwrites) a buffer, zeroed unless written.
 */
static float *
open_gradient(Back *b, int i, bool write, Buffer **buffer, LlmError *err)
{
	size_t numel = b->in[i].numel;
	float *own = own_gradient(b, i);

	*buffer = NULL;
	if (own && !write)
		return own;
	*buffer = llm_buffer_take(b->exec, numel, err);
	if (*buffer && !write)
		memset((*buffer)->data, 0, numel * sizeof(float));
	return *buffer ? (*buffer)->data : NULL;
}

/* The buffer joins the gradient of input i: that of a parameter, or of a value, which it becomes or replaces
 * by the sum. */
static LlmCode
close_gradient(Back *b, int i, Buffer *buffer, LlmError *err)
{
	Slot *slot = &b->exec->slots[b->node->inputs[i]];
	float *own = own_gradient(b, i);
	const float *old = own ? own : slot->grad ? slot->grad->data : NULL;
	size_t n = b->in[i].numel;
	LlmCode code = LLM_OK;

	if (buffer == NULL)
		return LLM_OK;
	if (old)
		code = llm_binary(
			LLM_ADD, 1, n, old, true, true, buffer->data, true, true, own ? own : buffer->data, err);
	llm_buffer_drop(b->exec, own ? buffer : slot->grad);
	if (own == NULL)
		slot->grad = buffer;
	return code;
}

/* Input i's gradient is the node's own, number for number: while it is the only one they share the memory. */
static LlmCode
pass_gradient(Back *b, int i, LlmError *err)
{
	Slot *slot = &b->exec->slots[b->node->inputs[i]];
	Buffer *mine = b->exec->slots[b->index].grad;
	size_t n = b->in[i].numel;
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

/* ---- rules ---- */

static LlmCode
back_matmul(Back *b, LlmError *err)
{
	const LlmValue *x = &b->in[0], *w = &b->in[1];
	bool transposed = llm_attr_number(b->node, "transpose_b", 0) != 0;
	int K = x->dims[x->ndim - 1], N = w->dims[w->ndim - 1 - transposed], batches = 1;
	int M = K ? (int) (x->numel / K) : 0;
	LlmCode code = LLM_OK;
	Buffer *buffer;
	float *to;

	for (int i = 0; i < w->ndim - 2; i++)
		batches *= w->dims[i];
	M /= batches ? batches : 1;
	if (wants_gradient(b, 1))
	{
		to = open_gradient(b, 1, false, &buffer, err);
		if (to == NULL)
			return err->code;
		for (int i = 0; code == LLM_OK && i < batches; i++)
			code = llm_matmul_dw(M, N, K, x->floats + (size_t) i * M * K, b->dy + (size_t) i * M * N,
				transposed, to + (size_t) i * K * N, b->exec->memory, err);
		if (code == LLM_OK)
			code = close_gradient(b, 1, buffer, err);
	}
	if (code != LLM_OK || !wants_gradient(b, 0))
		return code;
	to = open_gradient(b, 0, true, &buffer, err);
	if (to == NULL)
		return err->code;
	for (int i = 0; code == LLM_OK && i < batches; i++)
		code = llm_matmul_dx(M, N, K, b->dy + (size_t) i * M * N, w->floats + (size_t) i * K * N, transposed,
			to + (size_t) i * M * K, b->exec->memory, err);
	return code == LLM_OK ? close_gradient(b, 0, buffer, err) : code;
}

/* to (the shape of `in`) += terms of the shape of `out`, summed over the axes that were broadcast */
static LlmCode
reduce_into(const LlmValue *out, const float *terms, const LlmValue *in, float *to, LlmError *err)
{
	size_t run = 1, index[LLM_MAX_DIMS] = {0};
	int i = in->ndim - 1;

	if (in->numel == out->numel)
		return llm_binary(LLM_ADD, 1, out->numel, to, true, true, terms, true, true, to, err);
	for (; i >= 0 && in->dims[i] == out->dims[out->ndim - in->ndim + i]; i--)
		run *= in->dims[i];
	if (run == in->numel && run > 0) /* a bias, or positions: whole rows repeat */
		return llm_sum_rows_into(out->numel / run, run, terms, to, err);
	for (size_t e = 0; e < out->numel; e++)
	{
		size_t at = 0;

		for (i = 0; i < in->ndim; i++)
			at = at * in->dims[i] + (in->dims[i] == 1 ? 0 : index[out->ndim - in->ndim + i]);
		llm_kernels->binary(LLM_ADD, 1, to + at, 0, terms + e, 0, to + at);
		for (i = out->ndim - 1; i >= 0 && ++index[i] == (size_t) out->dims[i]; i--)
			index[i] = 0;
	}
	return LLM_OK;
}

/* Adds terms (the shape of the node's value) to input i's gradient. */
static LlmCode
give(Back *b, int i, const float *terms, LlmError *err)
{
	Buffer *buffer;
	float *to;
	LlmCode code;

	if (!wants_gradient(b, i))
		return LLM_OK;
	if (b->in[i].numel == b->exec->slots[b->index].value.numel &&
		terms == b->exec->slots[b->index].grad->data && own_gradient(b, i) == NULL)
		return pass_gradient(b, i, err);
	to = open_gradient(b, i, false, &buffer, err);
	if (to == NULL)
		return err->code;
	code = reduce_into(&b->exec->slots[b->index].value, terms, &b->in[i], to, err);
	return code == LLM_OK ? close_gradient(b, i, buffer, err) : code;
}

static LlmCode
back_add(Back *b, LlmError *err)
{
	LlmCode code = give(b, 0, b->dy, err);

	return code == LLM_OK ? give(b, 1, b->dy, err) : code;
}

/* What sub, mul and div hand to input i: dy times a factor that may have to be broadcast first. */
static LlmCode
give_product(Back *b, int i, LlmBinary op, const LlmValue *factor, bool negative, LlmError *err)
{
	const LlmValue *out = &b->exec->slots[b->index].value;
	LlmValue dy = *out;
	Buffer *terms = llm_buffer_take(b->exec, out->numel, err);
	LlmCode code;

	if (terms == NULL)
		return err->code;
	dy.floats = b->dy;
	code = factor ? llm_broadcast_binary(op, dy.ndim, dy.dims, dy.floats, factor->ndim, factor->dims,
						factor->floats, terms->data, err)
				  : llm_unary(LLM_NEG, out->numel, b->dy, terms->data, err);
	if (code == LLM_OK && factor && negative)
		code = llm_unary(LLM_NEG, out->numel, terms->data, terms->data, err);
	if (code == LLM_OK)
		code = give(b, i, terms->data, err);
	llm_buffer_drop(b->exec, terms);
	return code;
}

static LlmCode
back_sub(Back *b, LlmError *err)
{
	LlmCode code = give(b, 0, b->dy, err);

	return code == LLM_OK ? give_product(b, 1, LLM_MUL, NULL, true, err) : code;
}

static LlmCode
back_mul(Back *b, LlmError *err)
{
	LlmCode code = give_product(b, 0, LLM_MUL, &b->in[1], false, err);

	return code == LLM_OK ? give_product(b, 1, LLM_MUL, &b->in[0], false, err) : code;
}

/* z = x / y: dx = dz / y, dy = -(dz z) / y */
static LlmCode
back_div(Back *b, LlmError *err)
{
	const LlmValue *z = &b->exec->slots[b->index].value;
	const float *dz = b->dy;
	LlmCode code = give_product(b, 0, LLM_DIV, &b->in[1], false, err);
	Buffer *dz_z;

	if (code != LLM_OK)
		return code;
	dz_z = llm_buffer_take(b->exec, z->numel, err);
	if (dz_z == NULL)
		return err->code;
	code = llm_binary(LLM_MUL, 1, z->numel, dz, true, true, z->floats, true, true, dz_z->data, err);
	b->dy = dz_z->data;
	if (code == LLM_OK)
		code = give_product(b, 1, LLM_DIV, &b->in[1], true, err);
	b->dy = dz;
	llm_buffer_drop(b->exec, dz_z);
	return code;
}

/* Rules that write dx of input 0 in one go share this frame. */
static LlmCode
write_dx(Back *b, LlmCode (*compute)(Back *b, float *dx, LlmError *err), LlmError *err)
{
	Buffer *buffer;
	float *dx;
	LlmCode code;

	if (!wants_gradient(b, 0))
		return LLM_OK;
	dx = open_gradient(b, 0, true, &buffer, err);
	if (dx == NULL)
		return err->code;
	code = compute(b, dx, err);
	return code == LLM_OK ? close_gradient(b, 0, buffer, err) : code;
}

static LlmCode
unary_dx(Back *b, float *dx, LlmError *err)
{
	return llm_unary_backward(llm_unary_of(b->node), b->in[0].numel, b->in[0].floats,
		b->exec->slots[b->index].value.floats, b->dy, dx, err);
}

static LlmCode
back_unary(Back *b, LlmError *err)
{
	return write_dx(b, unary_dx, err);
}

static LlmCode
softmax_dx(Back *b, float *dx, LlmError *err)
{
	int n = b->in[0].dims[b->in[0].ndim - 1];

	return llm_softmax_backward(
		n ? b->in[0].numel / n : 0, n, 1, b->exec->slots[b->index].value.floats, b->dy, dx, err);
}

static LlmCode
back_softmax(Back *b, LlmError *err)
{
	return write_dx(b, softmax_dx, err);
}

static LlmCode
dropout_dx(Back *b, float *dx, LlmError *err)
{
	LlmStream stream;
	float p = llm_dropout_of(b->exec, b->index, "p", &stream);

	return llm_dropout(&stream, p, true, b->in[0].numel, b->dy, dx, err);
}

static LlmCode
back_dropout(Back *b, LlmError *err)
{
	LlmStream stream;

	return llm_dropout_of(b->exec, b->index, "p", &stream) > 0 ? write_dx(b, dropout_dx, err)
															   : give(b, 0, b->dy, err);
}

static LlmCode
attention_dx(Back *b, float *dx, LlmError *err)
{
	float head_mask[LLM_MAX_HEADS];
	LlmAttention a;

	llm_attention_of(b->exec, b->index, &b->in[0], &a, head_mask);
	return llm_attention_backward(&a, b->in[0].floats, b->dy, dx, b->exec->memory, err);
}

static LlmCode
back_attention(Back *b, LlmError *err)
{
	return write_dx(b, attention_dx, err);
}

static LlmCode
cross_entropy_dx(Back *b, float *dx, LlmError *err)
{
	return llm_cross_entropy_backward(b->in[1].numel, b->in[0].dims[b->in[0].ndim - 1], b->in[0].floats,
		b->in[1].integers, b->dy[0], dx, err);
}

static LlmCode
back_cross_entropy(Back *b, LlmError *err)
{
	return write_dx(b, cross_entropy_dx, err);
}

static LlmCode
back_embedding(Back *b, LlmError *err)
{
	Buffer *buffer;
	float *table;
	LlmCode code;

	if (!wants_gradient(b, 1))
		return LLM_OK;
	table = open_gradient(b, 1, false, &buffer, err);
	if (table == NULL)
		return err->code;
	code = llm_embedding_backward(b->in[0].numel, b->in[1].dims[1], b->in[0].integers, b->dy, table, err);
	return code == LLM_OK ? close_gradient(b, 1, buffer, err) : code;
}

static LlmCode
back_layernorm(Back *b, LlmError *err)
{
	int C = b->in[0].dims[b->in[0].ndim - 1];
	Buffer *buffers[3] = {0};
	float *to[3];
	LlmCode code = LLM_OK;

	for (int i = 0; i < 3; i++)
	{
		to[i] = open_gradient(b, i, i == 0, &buffers[i], err);
		if (to[i] == NULL)
			return err->code;
	}
	if (C > 0)
		code = llm_layernorm_backward(b->in[0].numel / C, C, b->in[0].floats, b->in[1].floats,
			(float) llm_attr_number(b->node, "eps", 1e-5), b->dy, to[0], to[1], to[2], b->exec->memory, err);
	for (int i = 0; i < 3; i++)
		if (code == LLM_OK && wants_gradient(b, i))
			code = close_gradient(b, i, buffers[i], err);
		else
			llm_buffer_drop(b->exec, buffers[i]);
	return code;
}

static const Rule rules[LLM_OP_COUNT] = {
	[LLM_OP_EMBEDDING] = back_embedding,
	[LLM_OP_MATMUL] = back_matmul,
	[LLM_OP_ADD] = back_add,
	[LLM_OP_SUB] = back_sub,
	[LLM_OP_MUL] = back_mul,
	[LLM_OP_DIV] = back_div,
	[LLM_OP_NEG] = back_unary,
	[LLM_OP_EXP] = back_unary,
	[LLM_OP_LOG] = back_unary,
	[LLM_OP_SQRT] = back_unary,
	[LLM_OP_TANH] = back_unary,
	[LLM_OP_RELU] = back_unary,
	[LLM_OP_GELU] = back_unary,
	[LLM_OP_SOFTMAX] = back_softmax,
	[LLM_OP_LAYERNORM] = back_layernorm,
	[LLM_OP_ATTENTION] = back_attention,
	[LLM_OP_DROPOUT] = back_dropout,
	[LLM_OP_CROSS_ENTROPY] = back_cross_entropy,
};

/* ---- the walk ---- */

static LlmCode
back_node(LlmExec *exec, float *const *grads, int index, LlmError *err)
{
	Back b = {.exec = exec, .grads = grads, .node = &exec->model->graph.nodes[index], .index = index};
	Slot *slot = &exec->slots[index];
	LlmCode code = LLM_OK;

	if (slot->grad == NULL)
		return LLM_OK;
	if (grads[index]) /* every reader has been: it is complete */
		memcpy(grads[index], slot->grad->data, slot->value.numel * sizeof(float));
	for (int i = 0; i < b.node->n_inputs && i < 3; i++)
		b.in[i] = exec->slots[b.node->inputs[i]].value;
	b.dy = slot->grad->data;
	if (rules[b.node->op])
		code = rules[b.node->op](&b, err);
	llm_buffer_drop(exec, slot->grad);
	slot->grad = NULL;
	return code;
}

/* Gradients flow to what leads to a parameter. */
static void
mark_wanted(LlmExec *exec)
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
	mark_wanted(exec);
	if (!target->wanted)
		return LLM_OK;
	target->grad = llm_buffer_take(exec, 1, err);
	if (target->grad == NULL)
		return err->code;
	target->grad->data[0] = 1;
	for (int i = graph->count - 1; code == LLM_OK && i >= 0; i--)
		if (exec->slots[graph->order[i]].rows != ROWS_NONE)
			code = back_node(exec, grads, graph->order[i], err);
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
	return llm_walk_back(exec, grads, err);
}
