/*
 * Which values of a training run are kept for the backward pass, and how the others come back.
 *
 * The forward pass frees a value after its last reader unless it is used: a gradient rule reads it, or a
 * value that is computed again does. Of the used values, those of nodes that are computed again are freed as
 * well; when the backward pass first needs one of them, it is computed from what was kept, together with all
 * that lies between. Each node is computed at most once more: a value that is needed a second time stays
 * until its own gradient rule was applied, and nothing before that node in the order reads it.
 */
#include "engine/ops/op.h"
#include "engine/pool.h"
#include "engine/quantized.h"

static const LlmNode *
node_at(const LlmExec *exec, int place)
{
	return &exec->model->graph.nodes[exec->model->graph.order[place]];
}

static bool
is_leaf(const LlmNode *node)
{
	return node->op == LLM_OP_INPUT || node->op == LLM_OP_PARAM;
}

/* Does the gradient rule of a node read its inputs (or, both, its value as well)? Of chunks all is done. */
static bool
rule_reads(const LlmExec *exec, int index, LlmGradientReads what)
{
	const Slot *slot = &exec->slots[index];

	return slot->wanted && slot->rows != ROWS_NONE && !slot->in_chunks &&
		   llm_op_facts[exec->model->graph.nodes[index].op].gradient >= what;
}

/* ---- the plan ---- */

/*
 * Marks as `passage` the nodes through which everything passes: once one of them is computed, no earlier
 * value that needs a gradient is read any more.
 */
static void
mark_passages(LlmExec *exec)
{
	const LlmGraph *graph = &exec->model->graph;
	int last = 0; /* the place of the last reader of the values so far */

	for (int i = 0; i < graph->count; i++)
		for (int j = 0; exec->slots[graph->order[i]].rows != ROWS_NONE && j < node_at(exec, i)->n_inputs; j++)
			exec->slots[node_at(exec, i)->inputs[j]].last = i;
	for (int i = 0; i < graph->count; i++)
	{
		Slot *slot = &exec->slots[graph->order[i]];

		if (slot->rows == ROWS_NONE || !slot->wanted || is_leaf(node_at(exec, i)))
			continue;
		slot->passage = last <= i;
		last = slot->last > last ? slot->last : last;
	}
}

/* Is the value, which is used, computed again? A value within a chain is computed with the chain's last. */
static bool
comes_again(const LlmExec *exec, int index)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	const Slot *slot = &exec->slots[index];

	if (is_leaf(node) || index == exec->target || slot->in_chunks)
		return false;
	if (exec->keeping.bf16 && (slot->exact || llm_op_facts[node->op].gradient == LLM_NO_GRADIENT))
		return false; /* from rounded values it would not be the same */
	return llm_recomputes(node) || (exec->keeping.recompute && slot->wanted && !slot->passage);
}

/* From the last node to the first, so that all readers of a value are known. */
void
llm_plan_kept(LlmExec *exec)
{
	const LlmGraph *graph = &exec->model->graph;

	for (int i = 0; i < graph->count; i++)
	{
		Slot *slot = &exec->slots[i];

		slot->used = slot->again = slot->stays = slot->passage = slot->due = slot->exact = false;
		slot->again_readers = slot->last = 0;
	}
	if (exec->keeping.recompute)
		mark_passages(exec);
	for (int i = graph->count - 1; i >= 0; i--)
	{
		int index = graph->order[i];
		const LlmNode *node = &graph->nodes[index];
		LlmGradientReads gradient = llm_op_facts[node->op].gradient;
		Slot *slot = &exec->slots[index];

		if (slot->rows == ROWS_NONE)
			continue;
		slot->exact |= gradient == LLM_SELECTS_BY_BOTH;
		slot->stays |= rule_reads(exec, index, LLM_READS_BOTH) || slot->again_readers > 1;
		slot->used = slot->stays || slot->again_readers > 0 || slot->in_chunks;
		slot->again = slot->next ? exec->slots[slot->next - 1].again : slot->used && comes_again(exec, index);
		for (int j = 0; j < node->n_inputs; j++)
		{
			exec->slots[node->inputs[j]].exact |= j == llm_op_facts[node->op].ids ||
												  gradient == LLM_SELECTS_BY_INPUTS ||
												  gradient == LLM_SELECTS_BY_BOTH;
			exec->slots[node->inputs[j]].stays |= rule_reads(exec, index, LLM_READS_INPUTS);
			exec->slots[node->inputs[j]].again_readers += slot->again;
		}
	}
}

bool
llm_is_held(const LlmExec *exec, int node)
{
	const Slot *slot = &exec->slots[node];

	if (!exec->keep)
		return false;
	return exec->tracing || (slot->used && !slot->again) || (exec->going_back && slot->stays);
}

/* ---- in bf16 ---- */

typedef struct Rounding
{
	size_t n;
	float *wide;
	uint16_t *narrow;
	bool back;
} Rounding;

static void
rounding_task(void *context, int task, int worker)
{
	const Rounding *r = context;
	size_t first = (size_t) task * LLM_TASK_MOVED;
	size_t n = r->n - first < LLM_TASK_MOVED ? r->n - first : LLM_TASK_MOVED;

	(void) worker;
	if (r->back)
		llm_bf16_widen(n, r->narrow + first, r->wide + first);
	else
		llm_bf16_round(n, r->wide + first, r->narrow + first);
}

static LlmCode
move_rounded(size_t n, float *wide, Buffer *rounded, bool back, LlmError *err)
{
	Rounding r = {.n = n, .wide = wide, .narrow = (uint16_t *) rounded->data, .back = back};

	return llm_parallel((int) ((n + LLM_TASK_MOVED - 1) / LLM_TASK_MOVED), rounding_task, &r, err);
}

LlmCode
llm_put_away(LlmExec *exec, int node, LlmError *err)
{
	Slot *slot = &exec->slots[node];
	Buffer *rounded;
	LlmCode code;

	if (!exec->keeping.bf16 || exec->going_back || slot->exact || slot->in_chunks || slot->buffer == NULL)
		return LLM_OK;
	rounded = llm_buffer_take(exec, (slot->value.numel + 1) / 2, err);
	if (rounded == NULL)
		return err->code;
	code = move_rounded(slot->value.numel, slot->buffer->data, rounded, false, err);
	llm_exec_let_go(exec, node);
	slot->rounded = rounded;
	return code;
}

/* The value in float32 again. */
static LlmCode
widen(LlmExec *exec, Slot *slot, LlmError *err)
{
	LlmCode code;

	slot->buffer = llm_buffer_take(exec, slot->value.numel, err);
	if (slot->buffer == NULL)
		return err->code;
	slot->value.floats = slot->buffer->data;
	code = move_rounded(slot->value.numel, slot->buffer->data, slot->rounded, true, err);
	llm_buffer_drop(exec, slot->rounded);
	slot->rounded = NULL;
	return code;
}

/* ---- in the backward pass ---- */

/* The value must be there: it is widened, or marked as due, and *missing counts it. */
static LlmCode
require(LlmExec *exec, int index, int *missing, LlmError *err)
{
	Slot *slot = &exec->slots[index];

	if (slot->rounded)
		return widen(exec, slot, err);
	if (slot->again && slot->buffer == NULL && !slot->due)
	{
		slot->due = true;
		++*missing;
	}
	return LLM_OK;
}

static LlmCode
require_inputs(LlmExec *exec, const LlmNode *node, int *missing, LlmError *err)
{
	for (int j = 0; j < node->n_inputs; j++)
		if (require(exec, node->inputs[j], missing, err) != LLM_OK)
			return err->code;
	return LLM_OK;
}

/* Marks all that must be computed, back from `place`; *first is the place of the first such node. */
static LlmCode
mark_due(LlmExec *exec, int place, int *first, LlmError *err)
{
	int index = exec->model->graph.order[place], missing = 0;
	LlmCode code = LLM_OK;

	if (rule_reads(exec, index, LLM_READS_INPUTS))
		code = require_inputs(exec, node_at(exec, place), &missing, err);
	if (code == LLM_OK && rule_reads(exec, index, LLM_READS_BOTH))
		code = require(exec, index, &missing, err);
	for (*first = place + 1; code == LLM_OK && missing > 0;)
	{
		const LlmNode *node = node_at(exec, --*first);

		if (!exec->slots[exec->model->graph.order[*first]].due)
			continue;
		missing--;
		for (int j = 0; j < node->n_inputs; j++)
			exec->slots[node->inputs[j]].waiting++;
		code = require_inputs(exec, node, &missing, err);
	}
	return code;
}

LlmCode
llm_bring_back(LlmExec *exec, int place, LlmError *err)
{
	const LlmGraph *graph = &exec->model->graph;
	int first;
	LlmCode code;

	if (exec->tracing)
		return LLM_OK;
	code = mark_due(exec, place, &first, err);
	exec->going_back = true;
	for (int i = first; code == LLM_OK && i <= place; i++)
	{
		Slot *slot = &exec->slots[graph->order[i]];

		if (slot->due && !slot->next)
			code = llm_run_node(exec, graph->order[i], err);
		slot->due = false;
	}
	exec->going_back = false;
	return code;
}
