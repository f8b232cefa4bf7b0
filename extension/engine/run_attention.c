/*
 * Attention as a node: its keys and values are kept for the positions to come; where there can be none, the
 * next node takes over their memory.
 */
#include <math.h>

#include "engine/plan.h"

/* The node's keys and values: room for the plan's capacity, or for a longer first text. */
static LlmCode
open_cache(LlmExec *exec, int index, const LlmAttention *a, LlmError *err)
{
	Slot *slot = &exec->slots[index];
	int capacity = exec->capacity > a->T ? exec->capacity : a->T;
	LlmCode code;

	/* after a run that failed the next may bring another batch or a longer text */
	if (slot->cache && exec->past == 0 && (slot->cache->B != a->B || slot->cache->capacity < a->T))
		llm_exec_drop_cache(exec, index);
	if (slot->cache == NULL)
	{
		slot->cache = exec->memory->alloc(exec->memory->context, sizeof(LlmKvCache));
		if (slot->cache == NULL)
			return llm_fail(err, LLM_NO_MEMORY, "no memory for a cache");
		code = llm_kv_create(slot->cache, a->B, a->NH, a->HS, capacity, exec->memory, err);
		if (code != LLM_OK)
		{
			llm_exec_drop_cache(exec, index);
			return code;
		}
	}
	slot->cache->length = exec->past; /* what a failed run left behind is written over */
	if (slot->cache->B == a->B && a->T <= slot->cache->capacity - exec->past)
		return LLM_OK;
	return llm_fail(err, LLM_LIMIT,
		"node \"%s\": %d texts with %d positions after %d do not fit a cache of %d texts and %d",
		exec->model->graph.nodes[index].name, a->B, a->T, exec->past, slot->cache->B, slot->cache->capacity);
}

void
llm_attention_of(const LlmExec *exec, int index, const LlmValue *qkv, LlmAttention *a, float *head_mask)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	const LlmAttr *mask = llm_attr(node, "head_mask");

	*a = (LlmAttention){.B = qkv->ndim == 3 ? qkv->dims[0] : 1, .T = qkv->dims[qkv->ndim - 2]};
	a->NH = (int) llm_attr_number(node, "n_head", 1);
	a->HS = qkv->dims[qkv->ndim - 1] / 3 / a->NH;
	a->causal = llm_attr_number(node, "causal", 1) != 0;
	a->window = (int) llm_attr_number(node, "window", 0);
	a->scale = (float) llm_attr_number(node, "scale", a->HS ? 1 / sqrt(a->HS) : 1);
	a->queries = exec->slots[index].rows == ROWS_LAST ? 1 : a->T;
	a->dropout = llm_dropout_of(exec, index, "dropout", &a->stream);
	for (int h = 0; mask && h < a->NH; h++)
		head_mask[h] = (float) mask->items[h].number;
	a->head_mask = mask ? head_mask : NULL;
}

/* Room for what a traced run shows of attention. */
static LlmCode
open_shown(LlmExec *exec, int index, const LlmAttention *a, LlmError *err)
{
	Slot *slot = &exec->slots[index];
	int keys = exec->past + a->T;

	slot->seen = (LlmValue){.ndim = 4, .dims = {a->B, a->NH, a->queries, keys}};
	slot->seen.numel = (size_t) a->B * a->NH * a->queries * keys;
	slot->scores = llm_buffer_take(exec, slot->seen.numel, err);
	slot->probs = slot->scores ? llm_buffer_take(exec, slot->seen.numel, err) : NULL;
	return slot->probs ? LLM_OK : err->code;
}

/* Keys and values for this run alone: their memory serves other nodes again. */
static LlmCode
attend_once(LlmExec *exec, int index, const LlmAttention *a, const LlmValue *qkv, LlmError *err)
{
	const Slot *slot = &exec->slots[index];
	LlmKvCache cache;
	LlmCode code = llm_kv_shape(&cache, a->B, a->NH, a->HS, a->T, err);
	Buffer *buffer;

	if (code != LLM_OK)
		return code;
	buffer = llm_buffer_take(exec, (cache.k_bytes + cache.v_bytes) / sizeof(float), err);
	if (buffer == NULL)
		return err->code;
	cache.k = buffer->data;
	cache.v = buffer->data + cache.k_bytes / sizeof(float);
	code = llm_attention(a, qkv->floats, &cache, slot->buffer->data, slot->scores ? slot->scores->data : NULL,
		slot->probs ? slot->probs->data : NULL, exec->memory, err);
	llm_buffer_drop(exec, buffer);
	return code;
}

LlmCode
llm_run_attention(LlmExec *exec, int index, const LlmValue *qkv, LlmError *err)
{
	LlmAttention a;
	float head_mask[LLM_MAX_HEADS];
	Slot *slot = &exec->slots[index];
	LlmCode code = llm_run_result(exec, index, err);

	llm_attention_of(exec, index, qkv, &a, head_mask);
	if (code == LLM_OK && exec->tracing)
		code = open_shown(exec, index, &a, err);
	if (code == LLM_OK && !llm_exec_continues(exec))
		return attend_once(exec, index, &a, qkv, err);
	if (code == LLM_OK)
		code = open_cache(exec, index, &a, err);
	if (code != LLM_OK)
		return code;
	return llm_attention(&a, qkv->floats, slot->cache, slot->buffer->data, NULL, NULL, exec->memory, err);
}
