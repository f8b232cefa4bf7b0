/*
 * See tape.h.
 */
#include "engine/tape.h"

#include <string.h>

#include "engine/broadcast.h"
#include "engine/ops/op.h"
#include "engine/pool.h"

void
llm_exec_trace(LlmExec *exec)
{
	LlmDropout key = exec->dropout;

	llm_exec_train(exec, &key, NULL);
	exec->training = false;
	exec->tracing = exec->timing = true;
}

void
llm_op_cost(const LlmNode *node, const LlmValue *first, size_t read, const LlmValue *value, int64_t *flops,
	int64_t *bytes)
{
	llm_op_rules[node->op].cost(node, first ? first : value, read, value, flops, bytes);
}

void
llm_exec_traced(const LlmExec *exec, int node, LlmTraced *out)
{
	const LlmNode *n = &exec->model->graph.nodes[node];
	const Slot *slot = &exec->slots[node];
	size_t read = 0;

	*out = (LlmTraced){.ran = slot->rows != ROWS_NONE};
	if (!out->ran)
		return;
	out->value = slot->value;
	out->microseconds = slot->microseconds;
	for (int i = 0; i < n->n_inputs; i++)
		read += exec->slots[n->inputs[i]].value.numel;
	llm_op_cost(n, n->n_inputs > 0 ? &exec->slots[n->inputs[0]].value : NULL, read, &slot->value, &out->flops,
		&out->bytes);
	if (slot->scores == NULL)
		return;
	out->scores = slot->seen;
	out->probs = slot->seen;
	out->scores.floats = slot->scores->data;
	out->probs.floats = slot->probs->data;
}

/* A leaf's shape, as sizes without names. */
static void
shape_of(LlmNode *node, const LlmValue *value)
{
	node->ndim = value->ndim;
	for (int i = 0; i < value->ndim; i++)
		node->shape[i] = (LlmDim){.times = value->dims[i]};
}

static LlmCode
check_value(const LlmNode *node, const LlmValue *value, LlmError *err)
{
	char made[160];
	bool fits = node->ndim == value->ndim;
	size_t numel = 1;

	for (int i = 0; fits && i < node->ndim; i++)
	{
		fits = node->shape[i].times == value->dims[i];
		numel *= value->dims[i];
	}
	llm_shape_print(node->ndim, node->shape, made, sizeof(made));
	if (!fits || numel != value->numel)
		return llm_fail(err, LLM_SHAPE, "node \"%s\": its value has shape %s, its inputs make %s", node->name,
			llm_shape_text(value->ndim, value->dims).s, made);
	if (value->numel > 0 && value->floats == NULL && value->integers == NULL)
		return llm_fail(err, LLM_MISSING, "node \"%s\" %s has no value", node->name, made);
	return LLM_OK;
}

/* A reshape may use named dimensions that were known when it ran: the same number of elements is enough. */
static LlmCode
check_reshape(LlmNode *node, const LlmValue *values, const LlmValue *value, LlmError *err)
{
	if (node->n_inputs != 1 || values[node->inputs[0]].numel != value->numel)
		return llm_fail(err, LLM_SHAPE,
			"node \"%s\": a reshape has one input, of as many elements as it has, %zu", node->name,
			value->numel);
	shape_of(node, value);
	return LLM_OK;
}

/* Ids and targets are indices into memory: each must exist. Other ids than these are checked when they are
 * used. */
static LlmCode
check_ids(const LlmNode *node, const LlmValue *values, LlmError *err)
{
	bool loss = node->op == LLM_OP_CROSS_ENTROPY;
	const LlmValue *ids = &values[node->inputs[llm_op_facts[node->op].ids]],
				   *other = &values[node->inputs[loss ? 0 : 1]];
	int size = other->dims[loss ? other->ndim - 1 : 0];

	if (loss && ids->ndim == other->ndim) /* distributions */
		return LLM_OK;

	for (size_t i = 0; i < ids->numel; i++)
	{
		if (i % LLM_POLL_ELEMENTS == 0 && llm_poll(err) != LLM_OK)
			return err->code;
		if (ids->integers[i] >= size || (!loss && ids->integers[i] < 0))
			return llm_fail(err, LLM_RANGE, "node \"%s\": %d at place %zu is outside the %d there are",
				node->name, ids->integers[i], i + 1, size);
	}
	return LLM_OK;
}

/*
 * A tape is rows that may have been edited: its operations must pass the shape rules of a graph, starting
 * from the shapes of the leaves' values. `nodes` is filled with those shapes.
 */
static LlmCode
check_tape(const LlmGraph *graph, const LlmValue *values, LlmNode *nodes, LlmError *err)
{
	LlmGraph own = {.count = graph->count, .nodes = nodes, .order = graph->order};

	for (int i = 0; i < graph->count; i++)
	{
		nodes[i] = graph->nodes[i];
		nodes[i].ndim = -1; /* not visited yet */
		nodes[i].integers = values[i].integers != NULL;
	}
	for (int i = 0; i < graph->count; i++)
	{
		LlmNode *node = &nodes[graph->order[i]];
		const LlmValue *value = &values[graph->order[i]];
		LlmCode code = LLM_OK;

		for (int j = 0; j < node->n_inputs; j++)
			if (node->inputs[j] < 0 || node->inputs[j] >= graph->count || nodes[node->inputs[j]].ndim < 0)
				return llm_fail(err, LLM_INVALID, "node \"%s\" comes before its input %d", node->name, j + 1);
		if (node->op == LLM_OP_INPUT || node->op == LLM_OP_PARAM)
			shape_of(node, value);
		else if (node->op == LLM_OP_RESHAPE)
			code = check_reshape(node, values, value, err);
		else
			code = llm_infer(&own, node, err);
		if (code == LLM_OK)
			code = check_value(node, value, err);
		if (code == LLM_OK && (node->op == LLM_OP_EMBEDDING || node->op == LLM_OP_CROSS_ENTROPY))
			code = check_ids(node, values, err);
		if (code != LLM_OK)
			return code;
	}
	return LLM_OK;
}

/* The backward pass itself, as the executor does it over the values of a run. */
static LlmCode
backward_pass(const LlmModel *model, const LlmValue *values, int target, const LlmDropout *dropout,
	float *const *grads, const LlmAllocator *memory, LlmError *err)
{
	int count = model->graph.count;
	LlmExec *exec = memory->alloc(memory->context, sizeof(LlmExec));
	LlmCode code;

	if (exec == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory for the backward pass over %d operations", count);
	*exec = (LlmExec){.model = model, .memory = memory, .target = target, .keep = true};
	exec->dtarget = 1;
	if (dropout)
	{
		exec->training = true;
		exec->dropout = *dropout;
	}
	exec->slots = memory->alloc(memory->context, count * sizeof(Slot));
	if (exec->slots)
	{
		memset(exec->slots, 0, count * sizeof(Slot));
		for (int i = 0; i < count; i++)
		{
			exec->slots[i].rows = ROWS_ALL;
			exec->slots[i].value = values[i];
		}
		code = llm_backward_pass(exec, grads, err);
	}
	else
		code = llm_fail(err, LLM_NO_MEMORY, "no memory for the backward pass over %d operations", count);
	llm_exec_close(exec);
	return code;
}

LlmCode
llm_tape_backward(const LlmGraph *graph, const LlmValue *values, int target, const LlmDropout *dropout,
	float *const *grads, const LlmAllocator *memory, LlmError *err)
{
	LlmModel model = {.graph = *graph};
	size_t bytes = graph->count * sizeof(LlmNode);
	LlmCode code;

	model.graph.nodes = memory->alloc(memory->context, bytes);
	if (model.graph.nodes == NULL)
		return llm_fail(
			err, LLM_NO_MEMORY, "no memory for the backward pass over %d operations", graph->count);
	code = check_tape(graph, values, model.graph.nodes, err);
	if (code == LLM_OK)
		code = backward_pass(&model, values, target, dropout, grads, memory, err);
	memory->release(memory->context, model.graph.nodes, bytes);
	return code;
}
