/*
 * See timing.h.
 */
#include "engine/timing.h"

#include "engine/plan.h"

void
llm_exec_time(LlmExec *exec)
{
	exec->timing = true;
}

/* Elements of input i that the node reads: for some ops only those of the last position. */
static size_t
elements_read(const LlmExec *exec, int node, int i)
{
	const LlmNode *n = &exec->model->graph.nodes[node];
	const Slot *from = &exec->slots[n->inputs[i]];
	int T = from->t_axis >= 0 ? from->value.dims[from->t_axis] : 1;

	if (exec->slots[node].rows == ROWS_LAST && from->rows == ROWS_ALL &&
		llm_op_facts[n->op].reach == LLM_OWN_ROW && T > 1)
		return from->value.numel / T;
	return from->value.numel;
}

/* Queries attend to the keys of this run and of those before it, which are cached. */
static void
cached_attention(const LlmExec *exec, int node, LlmTiming *out)
{
	const LlmNode *n = &exec->model->graph.nodes[node];
	const Slot *slot = &exec->slots[node];
	const LlmKvCache *cache = slot->cache;
	int64_t heads = (int64_t) cache->B * (int64_t) llm_attr_number(n, "n_head", 1), queries, pairs;
	int64_t keys = cache->length, stored = keys * cache->B * cache->NH * cache->HS; /* elements of keys */

	if (heads * cache->HS == 0)
		return;
	queries = (int64_t) slot->value.numel / (heads * cache->HS);
	pairs = heads * llm_attention_pairs(n, queries, keys);
	out->flops = pairs * (4 * cache->HS + 4); /* q k^T and p v, and the softmax between them */
	out->bytes =
		(int64_t) sizeof(float) * ((int64_t) elements_read(exec, node, 0) + 2 * stored + slot->value.numel);
}

void
llm_exec_timing(const LlmExec *exec, int node, LlmTiming *out)
{
	const LlmNode *n = &exec->model->graph.nodes[node];
	const Slot *slot = &exec->slots[node];
	size_t read = 0;

	*out = (LlmTiming){.ran = slot->rows != ROWS_NONE && n->op != LLM_OP_INPUT && n->op != LLM_OP_PARAM};
	if (!out->ran)
		return;
	out->microseconds = slot->microseconds;
	for (int i = 0; i < n->n_inputs; i++)
		read += elements_read(exec, node, i);
	llm_op_cost(n, n->n_inputs > 0 ? &exec->slots[n->inputs[0]].value : NULL, read, &slot->value, &out->flops,
		&out->bytes);
	if (n->op == LLM_OP_ATTENTION && slot->cache)
		cached_attention(exec, node, out);
}
