/*
 * The plan: which nodes the target needs, how many rows of each, and whether positions can be continued.
 */
#include <string.h>

#include "engine/plan.h"
#include "engine/views.h"

/* The axis named T; -1 none, -2 more than one or a multiple: rows are then no longer positions. */
static int
t_axis(const LlmNode *node)
{
	int axis = -1;

	for (int i = 0; i < node->ndim; i++)
		if (strcmp(node->shape[i].name, "T") == 0)
			axis = axis == -1 && node->shape[i].times == 1 ? i : -2;
	return axis;
}

/* Has an input as many axes after T as the node has? Then rows of the two belong together. */
static bool
lines_up(const LlmExec *exec, const LlmNode *node, int t, int i)
{
	const LlmNode *from = &exec->model->graph.nodes[node->inputs[i]];
	int from_t = exec->slots[node->inputs[i]].t_axis;

	return from_t == -1 || (from_t >= 0 && node->ndim - t == from->ndim - from_t);
}

/* Do the positions' rows of its input stay whole and in their places, when elements are moved or reduced? */
static bool
keeps_rows(const LlmExec *exec, const LlmNode *node, int t)
{
	const LlmNode *from = &exec->model->graph.nodes[node->inputs[0]];
	int from_t = exec->slots[node->inputs[0]].t_axis;

	if (from_t < 0)
		return from_t == -1;
	switch (node->op)
	{
		case LLM_OP_RESHAPE: /* what comes before T is cut the same way */
			for (int i = 0; i < from_t && t == from_t; i++)
				if (from->shape[i].times != node->shape[i].times ||
					strcmp(from->shape[i].name, node->shape[i].name) != 0)
					return false;
			return t == from_t;
		case LLM_OP_TRANSPOSE:
			return t >= 0;
		case LLM_OP_SLICE:
			return t == from_t;
		default: /* a reduction over another axis */
			return llm_attr(node, "axis") && llm_axis_of(node, from->ndim, 0) != from_t;
	}
}

/* Does a position's row of this node depend on the same position's rows of its inputs alone (attention
 * aside)? */
static bool
row_by_row(const LlmExec *exec, const LlmNode *node, const Slot *slot)
{
	const Slot *in[2] = {0};

	for (int i = 0; i < node->n_inputs && i < 2; i++)
		in[i] = &exec->slots[node->inputs[i]];
	if (slot->t_axis == -2)
		return false;
	switch (node->op)
	{
		case LLM_OP_INPUT:
		case LLM_OP_PARAM:
			return true;
		case LLM_OP_MATMUL:
			return in[1]->t_axis == -1 && in[0]->t_axis < exec->model->graph.nodes[node->inputs[0]].ndim - 1;
		case LLM_OP_EMBEDDING:
			return in[1]->t_axis == -1;
		case LLM_OP_SOFTMAX:
			return slot->t_axis != llm_axis_of(node, node->ndim, -1);
		case LLM_OP_LAYERNORM:
			return slot->t_axis < node->ndim - 1;
		case LLM_OP_ATTENTION:
			return slot->t_axis == node->ndim - 2 && llm_attr_number(node, "causal", 1) != 0;
		case LLM_OP_CROSS_ENTROPY:
			return false;
		case LLM_OP_DROPOUT: /* a seed's mask counts elements from the first position */
			return in[0]->t_axis == -1 || llm_attr(node, "seed") == NULL;
		case LLM_OP_SUM:
		case LLM_OP_MEAN:
		case LLM_OP_MAX:
		case LLM_OP_MIN:
		case LLM_OP_VAR:
		case LLM_OP_NORM:
		case LLM_OP_RESHAPE:
		case LLM_OP_TRANSPOSE:
		case LLM_OP_SLICE:
			return keeps_rows(exec, node, slot->t_axis);
		default:
			for (int i = 0; i < node->n_inputs; i++)
				if (!lines_up(exec, node, slot->t_axis, i))
					return false;
			return true;
	}
}

static void
want(LlmExec *exec, int node, Rows rows)
{
	Slot *slot = &exec->slots[node];

	if (rows > slot->rows)
		slot->rows = rows;
}

/* From the target backwards: attention reads every row of its input, the others the rows they are asked for.
 */
static void
plan_rows(LlmExec *exec, Rows wanted)
{
	const LlmGraph *graph = &exec->model->graph;

	want(exec, exec->target, wanted);
	for (int i = graph->count - 1; i >= 0; i--)
	{
		const LlmNode *node = &graph->nodes[graph->order[i]];
		Slot *slot = &exec->slots[graph->order[i]];

		if (slot->rows == ROWS_NONE)
			continue;
		for (int j = 0; j < node->n_inputs; j++)
			want(exec, node->inputs[j], node->op == LLM_OP_ATTENTION ? ROWS_ALL : slot->rows);
	}
}

LlmCode
llm_exec_open(const LlmModel *model, int target, bool last_only, int capacity, const LlmAllocator *memory,
	LlmExec **exec, LlmError *err)
{
	const LlmGraph *graph = &model->graph;
	LlmExec *x = memory->alloc(memory->context, sizeof(LlmExec));

	*exec = x;
	if (x == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory for a plan of %d nodes", graph->count);
	*x = (LlmExec){.model = model,
		.memory = memory,
		.target = target,
		.capacity = capacity,
		.continues = true,
		.last_only = last_only,
		.sizes = graph->sizes};
	x->slots = memory->alloc(memory->context, graph->count * sizeof(Slot));
	if (x->slots == NULL)
	{
		llm_exec_close(x);
		*exec = NULL;
		return llm_fail(err, LLM_NO_MEMORY, "no memory for a plan of %d nodes", graph->count);
	}
	memset(x->slots, 0, graph->count * sizeof(Slot));
	for (int i = 0; i < graph->count; i++)
		x->slots[i].t_axis = t_axis(&graph->nodes[i]);
	plan_rows(x, ROWS_ALL);
	for (int i = 0; i < graph->count; i++)
	{
		Slot *slot = &x->slots[i];

		if (slot->rows == ROWS_NONE)
			continue;
		if (!row_by_row(x, &graph->nodes[i], slot))
			x->continues = false;
		for (int j = 0; j < graph->nodes[i].n_inputs; j++)
			x->slots[graph->nodes[i].inputs[j]].readers++;
	}
	x->slots[target].readers++;
	if (last_only && x->continues && x->slots[target].t_axis >= 0)
	{
		for (int i = 0; i < graph->count; i++)
			x->slots[i].rows = ROWS_NONE;
		plan_rows(x, ROWS_LAST);
	}
	return LLM_OK;
}

bool
llm_exec_continues(const LlmExec *exec)
{
	return exec->continues && exec->capacity > 0;
}

int
llm_exec_length(const LlmExec *exec)
{
	return exec->past;
}

void
llm_exec_drop_cache(LlmExec *exec, int node)
{
	LlmKvCache *cache = exec->slots[node].cache;

	if (cache == NULL)
		return;
	llm_kv_free(cache, exec->memory);
	exec->memory->release(exec->memory->context, cache, sizeof(LlmKvCache));
	exec->slots[node].cache = NULL;
}

void
llm_exec_close(LlmExec *exec)
{
	if (exec == NULL)
		return;
	for (int i = 0; exec->slots && i < exec->model->graph.count; i++)
	{
		Slot *slot = &exec->slots[i];

		llm_buffer_drop(exec, slot->buffer);
		llm_buffer_drop(exec, slot->scores);
		llm_buffer_drop(exec, slot->probs);
		llm_buffer_drop(exec, slot->dx);
		llm_exec_drop_cache(exec, i);
	}
	llm_exec_drop_scratch(exec);
	llm_buffers_release(exec);
	if (exec->slots)
		exec->memory->release(exec->memory->context, exec->slots, exec->model->graph.count * sizeof(Slot));
	exec->memory->release(exec->memory->context, exec, sizeof(LlmExec));
}
