/*
 * Causal self-attention of the heads over qkv (B,T,3*C). Keys and values are cached for later positions; if
 * no run can continue, their memory is reused by later nodes.
 */
#include <math.h>
#include <stdio.h>

#include "engine/ops/op.h"
#include "engine/gradients.h"
#include "engine/tape.h"

LlmCode
llm_infer_attention(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	double heads = llm_attr_number(node, "n_head", 0), window = llm_attr_number(node, "window", 0);
	const LlmAttr *mask = llm_attr(node, "head_mask");
	LlmDim *last;
	int64_t channels;

	if (!(heads >= 1 && heads <= LLM_MAX_HEADS && heads == floor(heads)))
		return llm_attr_refuse(node, "n_head", "a whole number of heads", err);
	if (!(window >= 0 && window <= INT32_MAX && window == floor(window)))
		return llm_attr_refuse(node, "window", "a whole number of keys, or null", err);
	if (x->ndim != 3 && x->ndim != 2)
		return llm_infer_refuse(node, x, NULL,
			"the input must be (B,T,3*C) or (T,3*C): queries, keys and values side by side", err);
	if (mask && mask->count != (int) heads)
		return llm_attr_refuse(node, "head_mask", "a list with one number per head", err);
	for (int i = 0; mask && i < mask->count; i++)
		if (mask->items[i].kind != LLM_ATTR_NUMBER || !(fabs(mask->items[i].number) <= 1e30))
			return llm_attr_refuse(node, "head_mask", "a list with one number per head", err);
	llm_infer_copy_shape(node, x);
	last = &node->shape[node->ndim - 1];
	channels = llm_dim_value(last, &graph->sizes);
	if (last->times % 3 == 0)
		last->times /= 3;
	else if (channels >= 0 && channels % 3 == 0)
		*last = (LlmDim){.times = channels / 3};
	else
		return llm_infer_refuse(
			node, x, NULL, "the last dimension must be three times the model's width", err);
	channels = llm_dim_value(last, &graph->sizes);
	if (channels < 0 || channels % (int64_t) heads != 0)
	{
		char why[100];

		if (channels < 0)
			snprintf(why, sizeof(why), "the size of %s is not known", last->name);
		else
			snprintf(why, sizeof(why), "%lld channels do not divide into %d heads", (long long) channels,
				(int) heads);
		return llm_infer_refuse(node, x, NULL, why, err);
	}
	return LLM_OK;
}

bool
llm_rows_attention(const LlmExec *exec, const LlmNode *node, int t)
{
	return t == node->ndim - 2 && llm_attr_number(node, "causal", 1) != 0;
}

/* The node's key/value cache: allocated for the plan's capacity, or for a longer first sequence. */
static LlmCode
open_cache(LlmExec *exec, int index, const LlmAttention *a, LlmError *err)
{
	Slot *slot = &exec->slots[index];
	int capacity = exec->capacity > a->T ? exec->capacity : a->T;
	LlmCode code;

	/* after a failed run, the next may have another batch size or a longer sequence */
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
	slot->cache->length = exec->past; /* what a failed run wrote is overwritten */
	if (slot->cache->B == a->B && a->T <= slot->cache->capacity - exec->past)
		return LLM_OK;
	return llm_fail(err, LLM_LIMIT,
		"node \"%s\": %d sequences with %d positions after %d do not fit a cache of %d sequences and %d",
		exec->model->graph.nodes[index].name, a->B, a->T, exec->past, slot->cache->B, slot->cache->capacity);
}

/* The attention parameters of a node over qkv, from its attributes; head_mask must hold LLM_MAX_HEADS. */
static void
attention_of(const LlmExec *exec, int index, const LlmValue *qkv, LlmAttention *a, float *head_mask)
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

/* Allocates the scores and probabilities that a traced run keeps. */
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

/* Attention without a cache: the memory of keys and values is free again afterwards. */
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
llm_forward_attention(LlmExec *exec, int index, const LlmValue *qkv, LlmError *err)
{
	LlmAttention a;
	float head_mask[LLM_MAX_HEADS];
	Slot *slot = &exec->slots[index];
	LlmCode code = llm_run_result(exec, index, err);

	attention_of(exec, index, qkv, &a, head_mask);
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

static LlmCode
attention_dx(Back *b, float *dx, LlmError *err)
{
	float head_mask[LLM_MAX_HEADS];
	LlmAttention a;

	attention_of(b->exec, b->index, &b->in[0], &a, head_mask);
	return llm_attention_backward(&a, b->in[0].floats, b->dy, dx, b->exec->memory, err);
}

LlmCode
llm_backward_attention(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, attention_dx, err);
}

int64_t
llm_attention_pairs(const LlmNode *node, int64_t queries, int64_t keys)
{
	int64_t window = (int64_t) llm_attr_number(node, "window", 0), before = keys - queries;

	if (window == 0 || window > keys)
		window = keys;
	if (llm_attr_number(node, "causal", 1) == 0) /* the window limits earlier keys only */
		return queries * keys - (keys - window) * (keys - window + 1) / 2;
	if (before >= window)
		return queries * window;
	/* the query at position i < window attends to i + 1 keys, a later one to `window` keys */
	return (window * (window + 1) - before * (before + 1)) / 2 + (keys - window) * window;
}

void
llm_cost_attention(const LlmNode *node, const LlmValue *x, size_t read, const LlmValue *value, int64_t *flops,
	int64_t *bytes)
{
	int64_t T = x->ndim < 2 ? 0 : x->dims[x->ndim - 2];

	/* q k^T and p v, and the softmax between them */
	*flops = T == 0 ? 0 : llm_attention_pairs(node, T, T) * 4 * ((int64_t) value->numel / T);
	*flops += llm_attention_pairs(node, T, T) * 4 * (int64_t) llm_attr_number(node, "n_head", 1) *
			  (x->ndim > 2 ? x->dims[0] : 1);
	*bytes = (int64_t) ((read + value->numel) * sizeof(float));
}
