/*
 * The plan: which nodes the target needs, how many rows of each, and whether positions can be continued.
 */
#include <string.h>

#include "engine/ops/op.h"

/* The axis named T; -1 none, -2 more than one or a multiple: rows are then not positions. */
static int
t_axis(const LlmNode *node)
{
	int axis = -1;

	for (int i = 0; i < node->ndim; i++)
		if (strcmp(node->shape[i].name, "T") == 0)
			axis = axis == -1 && node->shape[i].times == 1 ? i : -2;
	return axis;
}

static void
want(LlmExec *exec, int node, Rows rows)
{
	Slot *slot = &exec->slots[node];

	if (rows > slot->rows)
		slot->rows = rows;
}

/*
 * Backwards from the target: an op that reads earlier rows needs all rows of its input, the others only the
 * rows that their readers need.
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
			want(exec, node->inputs[j],
				llm_op_facts[node->op].reach == LLM_EARLIER_ROWS ? ROWS_ALL : slot->rows);
	}
}

/* A node needs a gradient if it depends on a parameter that is trained. */
void
llm_mark_wanted(LlmExec *exec)
{
	const LlmGraph *graph = &exec->model->graph;

	for (int i = 0; i < graph->count; i++)
	{
		const LlmNode *node = &graph->nodes[graph->order[i]];
		Slot *slot = &exec->slots[graph->order[i]];

		slot->wanted = llm_is_trainable(node);
		for (int j = 0; j < node->n_inputs; j++)
			slot->wanted |=
				exec->slots[node->inputs[j]].wanted && llm_op_facts[node->op].gradient != LLM_NO_GRADIENT;
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
		.dropout = {.seed = (uint64_t) llm_random_seed},
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
		if (slot->t_axis == -2 || !llm_op_rules[graph->nodes[i].op].rows(x, &graph->nodes[i], slot->t_axis))
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
		llm_exec_let_go(exec, i);
		llm_exec_drop_cache(exec, i);
	}
	llm_exec_drop_scratch(exec);
	llm_buffers_release(exec);
	if (exec->slots)
		exec->memory->release(exec->memory->context, exec->slots, exec->model->graph.count * sizeof(Slot));
	exec->memory->release(exec->memory->context, exec, sizeof(LlmExec));
}
