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

		slot->used = slot->again = slot->stays = slot->passage = slot->due = false;
		slot->again_readers = slot->last = 0;
	}
	if (exec->keeping.recompute)
		mark_passages(exec);
	for (int i = graph->count - 1; i >= 0; i--)
	{
		int index = graph->order[i];
		const LlmNode *node = &graph->nodes[index];
		Slot *slot = &exec->slots[index];

		if (slot->rows == ROWS_NONE)
			continue;
		slot->stays |= rule_reads(exec, index, LLM_READS_BOTH) || slot->again_readers > 1;
		slot->used = slot->stays || slot->again_readers > 0 || slot->in_chunks;
		slot->again = slot->next ? exec->slots[slot->next - 1].again : slot->used && comes_again(exec, index);
		for (int j = 0; j < node->n_inputs; j++)
		{
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

/* ---- the way back ---- */

/* True if the value must be computed first; it is then marked as due. */
static bool
is_missing(LlmExec *exec, int index)
{
	Slot *slot = &exec->slots[index];

	if (!slot->again || slot->buffer || slot->due)
		return false;
	slot->due = true;
	return true;
}

/* Marks what the node's gradient rule reads and is missing; returns how many values that are. */
static int
mark_read(LlmExec *exec, int index)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	int missing = 0;

	for (int j = 0; rule_reads(exec, index, LLM_READS_INPUTS) && j < node->n_inputs; j++)
		missing += is_missing(exec, node->inputs[j]);
	if (rule_reads(exec, index, LLM_READS_BOTH))
		missing += is_missing(exec, index);
	return missing;
}

LlmCode
llm_bring_back(LlmExec *exec, int place, LlmError *err)
{
	const LlmGraph *graph = &exec->model->graph;
	int missing, first = place + 1;
	LlmCode code = LLM_OK;

	if (exec->tracing)
		return LLM_OK;
	missing = mark_read(exec, graph->order[place]);
	while (missing > 0)
	{
		const LlmNode *node = node_at(exec, --first);

		if (!exec->slots[graph->order[first]].due)
			continue;
		missing--;
		for (int j = 0; j < node->n_inputs; j++)
		{
			exec->slots[node->inputs[j]].waiting++;
			missing += is_missing(exec, node->inputs[j]);
		}
	}
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
