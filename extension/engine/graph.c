/*
 * Putting a model's rows in order: names resolved, cycles refused, shapes inferred one node after another.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/graph.h"

static const LlmGraph *sorting;

static int
compare_names(const void *a, const void *b)
{
	return strcmp(sorting->nodes[*(const int *) a].name, sorting->nodes[*(const int *) b].name);
}

int
llm_graph_find(const LlmGraph *graph, const char *name)
{
	int low = 0, high = graph->count - 1;

	while (low <= high)
	{
		int middle = (low + high) / 2;
		int order = strcmp(name, graph->nodes[graph->by_name[middle]].name);

		if (order == 0)
			return graph->by_name[middle];
		if (order < 0)
			high = middle - 1;
		else
			low = middle + 1;
	}
	return -1;
}

static LlmCode
resolve(LlmGraph *graph, LlmError *err)
{
	for (int i = 0; i < graph->count; i++)
		graph->by_name[i] = i;
	sorting = graph;
	qsort(graph->by_name, graph->count, sizeof(int), compare_names);
	for (int i = 0; i < graph->count; i++)
	{
		LlmNode *node = &graph->nodes[i];

		for (int j = 0; j < node->n_inputs; j++)
		{
			node->inputs[j] = llm_graph_find(graph, node->input_names[j]);
			if (node->inputs[j] < 0)
			{
				llm_fail(err, LLM_MISSING, "node \"%s\" reads \"%s\", which is not in the graph", node->name,
					node->input_names[j]);
				return llm_hint(err,
					"Add that node first, or change inputs; several statements in one change: "
					"SET CONSTRAINTS ALL DEFERRED.");
			}
		}
	}
	return LLM_OK;
}

/* From a node that waits for ever, an input that waits too leads to the next, and in the end round the cycle.
 */
static LlmCode
refuse_cycle(const LlmGraph *graph, LlmError *err)
{
	int at = 0, from = 0;

	while (graph->nodes[at].ndim != -1)
		at++;
	for (int steps = 0; steps <= graph->count; steps++)
	{
		const LlmNode *node = &graph->nodes[at];
		int i = 0;

		while (graph->nodes[node->inputs[i]].ndim != -1)
			i++;
		from = at;
		at = node->inputs[i];
	}
	llm_fail(err, LLM_INVALID, "node \"%s\" depends on itself through \"%s\"", graph->nodes[from].name,
		graph->nodes[at].name);
	return llm_hint(err, "A graph may have no cycle.");
}

/* Rows mostly come in execution order already: each pass takes what is ready, in the order added. */
static LlmCode
put_in_order(LlmGraph *graph, LlmError *err)
{
	int done = 0, before = -1;

	for (int i = 0; i < graph->count; i++)
		graph->nodes[i].ndim = -1; /* not yet placed */
	while (done < graph->count && done != before)
	{
		before = done;
		for (int i = 0; i < graph->count; i++)
		{
			LlmNode *node = &graph->nodes[i];
			bool ready = node->ndim == -1;

			for (int j = 0; ready && j < node->n_inputs; j++)
				ready = graph->nodes[node->inputs[j]].ndim != -1;
			if (ready)
			{
				node->ndim = 0;
				graph->order[done++] = i;
			}
		}
	}
	return done == graph->count ? LLM_OK : refuse_cycle(graph, err);
}

LlmCode
llm_graph_check(LlmGraph *graph, LlmError *err)
{
	LlmCode code;

	if (graph->count > LLM_MAX_NODES)
		return llm_fail(err, LLM_LIMIT, "a graph has at most %d nodes, not %d", LLM_MAX_NODES, graph->count);
	code = resolve(graph, err);
	if (code == LLM_OK)
		code = put_in_order(graph, err);
	for (int i = 0; code == LLM_OK && i < graph->count; i++)
		code = llm_infer(graph, &graph->nodes[graph->order[i]], err);
	return code;
}
