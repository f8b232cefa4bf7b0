/*
 * One node: its inputs' values and weights go to the op, the result to the node's slot.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/broadcast.h"
#include "engine/sql_layers.h"
#include "engine/plan.h"
#include "engine/pool.h"
#include "engine/views.h"

/* The result's dimensions, from the inferred shape; T is 1 where only the last row is wanted. */
static LlmCode
make_result(LlmExec *exec, int index, bool allocate, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	Slot *slot = &exec->slots[index];
	LlmValue *value = &slot->value;

	*value = (LlmValue){.ndim = node->ndim, .numel = 1};
	for (int i = 0; i < node->ndim; i++)
	{
		int64_t size =
			i == slot->t_axis && slot->rows == ROWS_LAST ? 1 : llm_dim_value(&node->shape[i], &exec->sizes);

		if (size < 0 || size > INT32_MAX ||
			__builtin_mul_overflow(value->numel, (size_t) size, &value->numel) ||
			value->numel > SIZE_MAX / 16)
			return llm_fail(err, LLM_SHAPE, "node \"%s\": the size of dimension %d is not known or too large",
				node->name, i + 1);
		value->dims[i] = (int) size;
	}
	if (!allocate)
		return LLM_OK;
	slot->buffer = index == exec->target && exec->place ? llm_buffer_place(exec, value, err)
														: llm_buffer_take(exec, value->numel, err);
	if (slot->buffer == NULL)
		return err->code;
	value->floats = slot->buffer->data;
	return LLM_OK;
}

LlmCode
llm_run_shape(LlmExec *exec, int index, LlmError *err)
{
	return make_result(exec, index, false, err);
}

LlmCode
llm_run_result(LlmExec *exec, int index, LlmError *err)
{
	return make_result(exec, index, true, err);
}

/* Is input i's memory free to hold the result? Nobody may read the old value again, on the way back neither.
 */
static bool
may_overwrite(const LlmExec *exec, int index, int i, const LlmValue *input)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	const Slot *from = &exec->slots[node->inputs[i]];

	if (from->buffer == NULL || from->waiting != 1 || from->buffer->refs != 1 ||
		input->floats != from->buffer->data || input->numel != exec->slots[index].value.numel)
		return false;
	if (!exec->keep)
		return true;
	return !exec->tracing && from->readers == 1 && !llm_rule_reads_inputs(node->op) &&
		   !llm_rule_reads_result(exec->model->graph.nodes[node->inputs[i]].op);
}

/* The result takes over input i's memory where it may; else it gets memory of its own. */
static LlmCode
make_result_over(LlmExec *exec, int index, int i, const LlmValue *input, LlmError *err)
{
	Slot *slot = &exec->slots[index], *from = &exec->slots[exec->model->graph.nodes[index].inputs[i]];
	LlmCode code = make_result(exec, index, false, err);

	if (code != LLM_OK)
		return code;
	if (!may_overwrite(exec, index, i, input) || (index == exec->target && exec->place))
		return make_result(exec, index, true, err);
	from->buffer->refs++;
	slot->buffer = from->buffer;
	slot->value.floats = from->buffer->data;
	return LLM_OK;
}

static float *
result_of(LlmExec *exec, int index)
{
	return exec->slots[index].buffer->data;
}

static LlmCode
run_embedding(LlmExec *exec, int index, const LlmValue *ids, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	int table = node->inputs[1];
	const LlmValue *rows = &exec->slots[table].value;
	const LlmWeight *w = &exec->model->weights[table];
	int V = rows->dims[0], C = rows->dims[1];
	LlmCode code = make_result(exec, index, true, err);
	float *out;

	if (code != LLM_OK)
		return code;
	out = result_of(exec, index);
	for (size_t i = 0; i < ids->numel && code == LLM_OK; i++, out += C)
	{
		int id = ids->integers[i];

		if (id < 0 || id >= V)
		{
			llm_fail(err, LLM_RANGE,
				"\"%s\": number %d at place %zu of \"%s\" is outside the table's %d rows", node->name, id,
				i + 1, node->input_names[0], V);
			return llm_hint(err, "Ids run from 0 to %d.", V - 1);
		}
		if (rows->floats)
			code = llm_copy(C, rows->floats + (size_t) id * C, out, err);
		else if ((code = llm_poll(err)) == LLM_OK) /* (V,C) kept as panels of its transpose, for the logits */
			llm_widen_column(w->format, C, id, w->panels, out);
	}
	return code;
}

static LlmCode
run_matmul(LlmExec *exec, int index, const LlmValue *a, const LlmValue *b, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	const LlmWeight *w = &exec->model->weights[node->inputs[1]];
	bool transposed = llm_attr_number(node, "transpose_b", 0) != 0;
	int K = a->dims[a->ndim - 1], N = b->ndim > 1 ? b->dims[b->ndim - 1 - transposed] : 1;
	size_t rows = K ? a->numel / K : 0;
	LlmCode code = make_result(exec, index, true, err);
	float *out;

	if (code != LLM_OK)
		return code;
	if (rows > INT32_MAX)
		return llm_fail(err, LLM_LIMIT, "node \"%s\": %zu rows are too many at once", node->name, rows);
	out = result_of(exec, index);
	if (K > 0 && w->panels && w->transposed == transposed && b->ndim == 2)
		return llm_matmul_compact(
			w->format, (int) rows, N, K, a->floats, K, w->panels, out, exec->memory, err);
	return llm_batched_matmul(
		a->ndim, a->dims, a->floats, b->ndim, b->dims, b->floats, transposed, out, exec->memory, err);
}

static LlmCode
run_binary(LlmExec *exec, int index, LlmBinary op, const LlmValue *x, const LlmValue *y, LlmError *err)
{
	bool over_y = y->numel > x->numel;
	LlmCode code = make_result_over(exec, index, over_y ? 1 : 0, over_y ? y : x, err);

	if (code != LLM_OK)
		return code;
	return llm_broadcast_binary(
		op, x->ndim, x->dims, x->floats, y->ndim, y->dims, y->floats, result_of(exec, index), err);
}

static LlmCode
run_unary(LlmExec *exec, int index, LlmUnary f, const LlmValue *x, LlmError *err)
{
	LlmCode code = make_result_over(exec, index, 0, x, err);

	if (code != LLM_OK)
		return code;
	return llm_unary(f, x->numel, x->floats, result_of(exec, index), err);
}

float
llm_dropout_of(const LlmExec *exec, int index, const char *key, LlmStream *stream)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	const LlmAttr *seed = llm_attr(node, "seed");

	if (seed) /* the mask of pg_llm_dropout with that seed, in training and out of it */
	{
		*stream = llm_stream(strtoull(seed->text, NULL, 10), "dropout", 0, 0);
		return (float) llm_attr_number(node, key, 0);
	}
	if (!exec->training)
		return 0;
	*stream = llm_stream(exec->dropout.seed, node->name, exec->dropout.step, exec->dropout.micro_batch);
	return (float) llm_attr_number(node, key, exec->dropout.p);
}

/* Dropout drops in training only, unless it has a seed of its own. */
static LlmCode
run_dropout(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	const Slot *from = &exec->slots[exec->model->graph.nodes[index].inputs[0]];
	Slot *slot = &exec->slots[index];
	LlmStream stream;
	float p = llm_dropout_of(exec, index, "p", &stream);
	LlmCode code;

	if (p > 0)
	{
		code = make_result(exec, index, true, err);
		return code == LLM_OK
				   ? llm_dropout(&stream, p, true, x->numel, x->floats, result_of(exec, index), err)
				   : code;
	}
	if (from->buffer && x->floats == from->buffer->data && x->numel == from->value.numel)
	{
		slot->value = *x;
		slot->buffer = from->buffer;
		slot->buffer->refs++;
		return LLM_OK;
	}
	code = make_result(exec, index, true, err);
	return code == LLM_OK ? llm_copy(x->numel, x->floats, result_of(exec, index), err) : code;
}

static LlmCode
run_layernorm(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	int C = x->dims[x->ndim - 1];
	LlmCode code = make_result(exec, index, true, err);

	if (code != LLM_OK || C == 0)
		return code;
	return llm_layernorm(x->numel / C, C, x->floats, exec->slots[node->inputs[1]].value.floats,
		exec->slots[node->inputs[2]].value.floats, (float) llm_attr_number(node, "eps", 1e-5),
		result_of(exec, index), err);
}

static LlmCode
run_softmax(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	int axis = llm_axis_of(&exec->model->graph.nodes[index], x->ndim, -1), n = x->dims[axis];
	LlmCode code = make_result_over(exec, index, 0, x, err);

	if (code != LLM_OK || n == 0)
		return code;
	if (axis != x->ndim - 1)
		return llm_softmax_along(exec, x, axis, result_of(exec, index), err);
	return llm_softmax(x->numel / n, n, 1, x->floats, result_of(exec, index), err);
}

LlmUnary
llm_unary_of(const LlmNode *node)
{
	const LlmAttr *how = llm_attr(node, "approximate");

	switch (node->op)
	{
		case LLM_OP_NEG:
			return LLM_NEG;
		case LLM_OP_EXP:
			return LLM_EXP;
		case LLM_OP_LOG:
			return LLM_LOG;
		case LLM_OP_SQRT:
			return LLM_SQRT;
		case LLM_OP_TANH:
			return LLM_TANH;
		case LLM_OP_RELU:
			return LLM_RELU;
		default:
			return how && how->text && strcmp(how->text, "none") == 0 ? LLM_GELU_ERF : LLM_GELU_TANH;
	}
}

LlmCode
llm_run_op(LlmExec *exec, int index, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	bool joins = node->op == LLM_OP_CONCAT || node->op == LLM_OP_STACK || node->op == LLM_OP_TOTAL;
	LlmValue in[3] = {0};
	LlmCode code;

	/* what joins any number of inputs takes them one by one */
	for (int i = 0; i < node->n_inputs && !joins; i++)
	{
		code = llm_exec_input(exec, index, i, &in[i], err);
		if (code != LLM_OK)
			return code;
	}
	switch (node->op)
	{
		case LLM_OP_EMBEDDING:
			return run_embedding(exec, index, &in[0], err);
		case LLM_OP_MATMUL:
			return run_matmul(exec, index, &in[0], &in[1], err);
		case LLM_OP_ADD:
			return run_binary(exec, index, LLM_ADD, &in[0], &in[1], err);
		case LLM_OP_SUB:
			return run_binary(exec, index, LLM_SUB, &in[0], &in[1], err);
		case LLM_OP_MUL:
			return run_binary(exec, index, LLM_MUL, &in[0], &in[1], err);
		case LLM_OP_DIV:
			return run_binary(exec, index, LLM_DIV, &in[0], &in[1], err);
		case LLM_OP_NEG:
		case LLM_OP_EXP:
		case LLM_OP_LOG:
		case LLM_OP_SQRT:
		case LLM_OP_TANH:
		case LLM_OP_RELU:
		case LLM_OP_GELU:
			return run_unary(exec, index, llm_unary_of(node), &in[0], err);
		case LLM_OP_SOFTMAX:
			return run_softmax(exec, index, &in[0], err);
		case LLM_OP_LAYERNORM:
			return run_layernorm(exec, index, &in[0], err);
		case LLM_OP_ATTENTION:
			return llm_run_attention(exec, index, &in[0], err);
		case LLM_OP_DROPOUT:
			return run_dropout(exec, index, &in[0], err);
		case LLM_OP_CROSS_ENTROPY:
			return llm_run_loss(exec, index, err);
		default:
			code = make_result(exec, index, true, err);
			return code == LLM_OK ? llm_run_view(exec, index, &in[0], err) : code;
	}
}
