/*
 * Sorts a model's rows into execution order: resolves names, refuses cycles, infers the shapes one node
 * after another.
 */
#include <stdio.h>
#include <string.h>

#include "engine/ops/op.h"

/*
 * Sorts by_name: sorted runs of 1, 2, 4 … nodes are merged, with `order`, which is filled later, as scratch
 * memory.
 */
static void
sort_names(LlmGraph *graph)
{
	int count = graph->count, *from = graph->by_name, *to = graph->order;

	for (int i = 0; i < count; i++)
		from[i] = to[i] = i;
	for (int run = 1; run < count; run *= 2)
	{
		int *merged = to;

		for (int start = 0; start < count; start += 2 * run)
		{
			int i = start, middle = start + run < count ? start + run : count;
			int j = middle, end = start + 2 * run < count ? start + 2 * run : count;

			for (int k = start; k < end; k++)
				if (j == end ||
					(i < middle && strcmp(graph->nodes[from[i]].name, graph->nodes[from[j]].name) <= 0))
					to[k] = from[i++];
				else
					to[k] = from[j++];
		}
		to = from;
		from = merged;
	}
	if (from != graph->by_name)
		memcpy(graph->by_name, from, count * sizeof(int));
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
	sort_names(graph);
	for (int i = 1; i < graph->count; i++)
	{
		const char *name = graph->nodes[graph->by_name[i]].name;

		if (strcmp(graph->nodes[graph->by_name[i - 1]].name, name) == 0)
			return llm_fail(err, LLM_INVALID, "two nodes are named \"%s\"", name);
	}
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

/*
 * Sorts inputs first, otherwise as added, by a depth-first search from each node along its inputs. The
 * search path is stored in the end of `order` that is not filled yet.
 */
static LlmCode
put_in_order(LlmGraph *graph, LlmError *err)
{
	int *path = graph->order + graph->count, done = 0; /* path[0] is the node visited last */

	for (int i = 0; i < graph->count; i++)
		graph->nodes[i].walk = LLM_NOT_REACHED;
	for (int i = 0; i < graph->count; i++)
	{
		if (graph->nodes[i].walk != LLM_NOT_REACHED)
			continue;
		*--path = i;
		graph->nodes[i].walk = 0;
		while (path < graph->order + graph->count)
		{
			LlmNode *node = &graph->nodes[*path], *input;

			if (node->walk == node->n_inputs)
			{
				node->walk = LLM_IN_ORDER;
				graph->order[done++] = *path++;
				continue;
			}
			input = &graph->nodes[node->inputs[node->walk]];
			if (input->walk >= 0) /* on the path already */
			{
				llm_fail(err, LLM_INVALID, "node \"%s\" depends on itself through \"%s\"", input->name,
					node->name);
				return llm_hint(err, "A graph may have no cycle.");
			}
			if (input->walk == LLM_NOT_REACHED)
			{
				input->walk = 0;
				*--path = node->inputs[node->walk];
			}
			node->walk++;
		}
	}
	return LLM_OK;
}

static LlmCode
refuse_arity(const LlmNode *node, const LlmOpFacts *facts, LlmError *err)
{
	char takes[40];

	if (facts->most == LLM_ANY_NUMBER)
		snprintf(takes, sizeof(takes), "at least %d", facts->least);
	else if (facts->most > facts->least)
		snprintf(takes, sizeof(takes), "%d to %d", facts->least, facts->most);
	else
		snprintf(takes, sizeof(takes), "%d", facts->least);
	return llm_fail(err, LLM_INVALID, "node \"%s\": %s takes %s input%s, not %d", node->name, facts->name,
		takes, facts->least == 1 && (facts->most == 1 || facts->most == LLM_ANY_NUMBER) ? "" : "s",
		node->n_inputs);
}

LlmCode
llm_infer(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmOpFacts *facts = &llm_op_facts[node->op];

	if (node->n_inputs < facts->least || node->n_inputs > facts->most)
		return refuse_arity(node, facts, err);
	if (llm_attrs_check(node, facts->attributes, err) != LLM_OK)
		return err->code;
	for (int i = 0; i < node->n_inputs; i++)
		if (graph->nodes[node->inputs[i]].integers && i != facts->ids)
			return llm_fail(err, LLM_SHAPE, "node \"%s\": %s cannot read whole numbers (\"%s\")", node->name,
				facts->name, graph->nodes[node->inputs[i]].name);
	return llm_op_rules[node->op].shape(graph, node, err);
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
