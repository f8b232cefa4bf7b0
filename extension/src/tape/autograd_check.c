/*
 * Rows of the tape may have been changed by hand: the backward pass starts only after ids, operations and
 * shapes have been checked against one another.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "src/base/errors.h"
#include "src/tape/autograd.h"

void
TapeBroken(int64 id, const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					   errmsg("row %lld of the tape %s", (long long) id, what),
					   errhint("Rows of llm_tape and llm_tensor_rt belong together; record the run again.")));
}

/* Checks that ids are within the table and targets within the vocabulary: the gradient rules rely on it. */
static void
CheckIntegers(const Backward *p, const LlmNode *node)
{
	const LlmValue *ids = NULL;
	int size = 0;

	if (node->op == LLM_OP_EMBEDDING)
	{
		ids = &p->values[node->inputs[0]];
		size = p->values[node->inputs[1]].dims[0];
	}
	else if (node->op == LLM_OP_CROSS_ENTROPY && p->values[node->inputs[1]].integers)
	{
		const LlmValue *logits = &p->values[node->inputs[0]];

		ids = &p->values[node->inputs[1]];
		size = logits->dims[logits->ndim - 1];
	}
	for (size_t i = 0; ids && i < ids->numel; i++)
	{
		LLM_POLL(i);
		if (ids->integers[i] >= size || (ids->integers[i] < 0 && node->op == LLM_OP_EMBEDDING))
			TapeBroken(pg_strtoint64(node->name), "has ids beyond its table");
	}
}

static void
CheckFits(Backward *p)
{
	LlmGraph *g = &p->graph;
	LlmError err;

	for (int i = 0; i < g->count; i++)
		if (p->values[i].floats == NULL)
			TapeBroken(p->ids[i], "has no row in llm_tensor_rt");
	LLM_CHECK(llm_graph_check(g, &err), &err);
	for (int i = 0; i < g->count; i++)
	{
		const LlmNode *node = &g->nodes[i];
		bool fits = node->ndim == p->values[i].ndim;

		for (int j = 0; fits && j < node->ndim; j++)
			fits = llm_dim_value(&node->shape[j], &g->sizes) == p->values[i].dims[j];
		if (!fits)
			TapeBroken(p->ids[i], psprintf("has a tensor of shape %s, which its operation does not make",
									  ShapeToString(p->values[i].ndim, p->values[i].dims)));
		CheckIntegers(p, node);
	}
}

static void
MarkWanted(Backward *p)
{
	for (int i = 0; i < p->graph.count; i++)
	{
		int index = p->graph.order[i];
		const LlmNode *node = &p->graph.nodes[index];

		p->wanted[index] = node->op == LLM_OP_PARAM;
		for (int j = 0; j < node->n_inputs; j++)
			p->wanted[index] |= p->wanted[node->inputs[j]];
	}
}

void
BackwardCheck(Backward *p)
{
	CheckFits(p);
	MarkWanted(p);
}
