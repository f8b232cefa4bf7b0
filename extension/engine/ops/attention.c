/*
 * Attention of the heads, over qkv (B,T,3*C) or over queries (B,T,n_head*HS), keys and values
 * (B,S,n_kv_head*HS) and a bias of the scores. Keys and values are cached for later positions; if no run can
 * continue, their memory is reused by later nodes.
 */
#include <math.h>
#include <string.h>

#include "engine/broadcast_backward.h"
#include "engine/gradients.h"
#include "engine/ops/attention.h"
#include "engine/tape.h"

/*
 * Keys and values with the axis T are cached. Of another sequence they are all there in each run, so that
 * rows are independent. A bias along T would need the columns of earlier runs.
 */
bool
llm_rows_attention(const LlmExec *exec, const LlmNode *node, int t)
{
	bool cached = node->n_inputs == ATTENTION_QKV || llm_t_axis_of(exec, node, 1) >= 0;

	if (node->n_inputs > ATTENTION_BIAS && (llm_t_axis_of(exec, node, ATTENTION_BIAS) != -1 || !cached))
		return false;
	for (int i = 0; i < node->n_inputs && i < ATTENTION_BIAS; i++)
		if (llm_t_axis_of(exec, node, i) != (i == 0 || cached ? t : -1))
			return false;
	return t == node->ndim - 2 && (!cached || llm_attr_number(node, "causal", 1) != 0);
}

/* ---- forward ---- */

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
		code = llm_kv_create(slot->cache, a->B, a->KV, a->HS, capacity, exec->memory, err);
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

/* The lists of an attention node, as floats. */
typedef struct Lists
{
	float head_mask[LLM_MAX_HEADS], slopes[LLM_MAX_HEADS];
} Lists;

static const float *
list_of(const LlmNode *node, const char *key, float *to)
{
	const LlmAttr *list = llm_attr(node, key);

	for (int i = 0; list && i < list->count; i++)
		to[i] = (float) list->items[i].number;
	return list ? to : NULL;
}

/* The strides of a bias (B,NH,T,S), of which leading axes may be absent and axes of size 1 repeat. */
static LlmScoreBias
bias_of(const LlmValue *bias)
{
	int dims[4] = {1, 1, 1, 1};
	LlmScoreBias to = {.x = bias->floats};

	memcpy(dims + 4 - bias->ndim, bias->dims, bias->ndim * sizeof(int));
	to.query = dims[2] == 1 ? 0 : dims[3];
	to.head = dims[1] == 1 ? 0 : (size_t) dims[2] * dims[3];
	to.batch = dims[0] == 1 ? 0 : (size_t) dims[1] * dims[2] * dims[3];
	return to;
}

static LlmPattern
pattern_of(const LlmNode *node)
{
	const LlmAttr *pattern = llm_attr(node, "pattern");

	if (pattern == NULL)
		return LLM_PATTERN_ALL;
	return strcmp(pattern->text, "strided") == 0 ? LLM_PATTERN_STRIDED : LLM_PATTERN_FIXED;
}

/* The attention parameters of a node from its attributes and the values of its inputs. */
static LlmAttention
attention_of(const LlmExec *exec, int index, const LlmValue *in, Lists *lists)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	const LlmValue *q = &in[0], *k = &in[node->n_inputs == ATTENTION_QKV ? 0 : 1];
	int NH = (int) llm_attr_number(node, "n_head", 1), width = q->dims[q->ndim - 1];
	LlmAttention a = llm_self_attention(q->ndim == 3 ? q->dims[0] : 1, q->dims[q->ndim - 2], NH,
		(node->n_inputs == ATTENTION_QKV ? width / 3 : width) / NH, llm_attr_number(node, "causal", 1) != 0);

	a.S = k->dims[k->ndim - 2];
	a.KV = (int) llm_attr_number(node, "n_kv_head", NH);
	a.window = (int) llm_attr_number(node, "window", 0);
	a.scale = (float) llm_attr_number(node, "scale", a.HS ? 1 / sqrt(a.HS) : 1);
	a.queries = exec->slots[index].rows == ROWS_LAST ? 1 : a.T;
	a.dropout = llm_dropout_of(exec, index, "dropout", &a.stream);
	a.head_mask = list_of(node, "head_mask", lists->head_mask);
	a.slopes = list_of(node, "slopes", lists->slopes);
	a.pattern = pattern_of(node);
	a.stride = (int) llm_attr_number(node, "stride", 1);
	a.summary = (int) llm_attr_number(node, "summary", 1);
	if (node->n_inputs > ATTENTION_BIAS)
		a.bias = bias_of(&in[ATTENTION_BIAS]);
	return a;
}

static LlmQkv
inputs_of(const LlmNode *node, const LlmAttention *a, const LlmValue *in)
{
	size_t q = (size_t) a->NH * a->HS, k = (size_t) a->KV * a->HS;

	if (node->n_inputs == ATTENTION_QKV)
		return llm_qkv_of(a, in[0].floats);
	return (LlmQkv){in[0].floats, in[1].floats, in[2].floats, q, k, k};
}

/* A bias that is a table of positions must hold all of the run's. */
static LlmCode
check_bias(const LlmNode *node, const LlmAttention *a, const LlmValue *bias, int past, LlmError *err)
{
	int queries = bias->dims[bias->ndim - 2], keys = bias->dims[bias->ndim - 1];

	if ((queries == 1 || queries >= past + a->T) && keys >= past + a->S)
		return LLM_OK;
	llm_fail(err, LLM_SHAPE, "node \"%s\": the bias \"%s\" holds %d queries and %d keys, here are %d and %d",
		node->name, node->input_names[ATTENTION_BIAS], queries, keys, past + a->T, past + a->S);
	return llm_hint(err, "Use a shorter sequence or a larger table.");
}

/* Allocates the scores and probabilities that a traced run keeps. */
static LlmCode
open_shown(LlmExec *exec, int index, const LlmAttention *a, LlmError *err)
{
	Slot *slot = &exec->slots[index];
	int keys = exec->past + a->S;

	slot->seen = (LlmValue){.ndim = 4, .dims = {a->B, a->NH, a->queries, keys}};
	slot->seen.numel = (size_t) a->B * a->NH * a->queries * keys;
	slot->scores = llm_buffer_take(exec, slot->seen.numel, err);
	slot->probs = slot->scores ? llm_buffer_take(exec, slot->seen.numel, err) : NULL;
	return slot->probs ? LLM_OK : err->code;
}

/* Attention without a cache: the memory of keys and values is free again afterwards. */
static LlmCode
attend_once(LlmExec *exec, int index, const LlmAttention *a, const LlmQkv *in, LlmError *err)
{
	const Slot *slot = &exec->slots[index];
	LlmKvCache cache;
	LlmCode code = llm_kv_shape(&cache, a->B, a->KV, a->HS, a->S, err);
	Buffer *buffer;

	if (code != LLM_OK)
		return code;
	buffer = llm_buffer_take(exec, (cache.k_bytes + cache.v_bytes) / sizeof(float), err);
	if (buffer == NULL)
		return err->code;
	cache.k = buffer->data;
	cache.v = buffer->data + cache.k_bytes / sizeof(float);
	code = llm_attention(a, in, &cache, slot->buffer->data, slot->scores ? slot->scores->data : NULL,
		slot->probs ? slot->probs->data : NULL, exec->memory, err);
	llm_buffer_drop(exec, buffer);
	return code;
}

LlmCode
llm_forward_attention(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	bool cached = llm_exec_continues(exec) && llm_attends_to_itself(&exec->model->graph, node);
	Slot *slot = &exec->slots[index];
	LlmCode code = llm_run_result(exec, index, err);
	Lists lists;
	LlmAttention a = attention_of(exec, index, in, &lists);
	LlmQkv qkv = inputs_of(node, &a, in);

	if (code == LLM_OK && a.bias.x)
		code = check_bias(node, &a, &in[ATTENTION_BIAS], cached ? exec->past : 0, err);
	if (code == LLM_OK && exec->tracing)
		code = open_shown(exec, index, &a, err);
	if (code == LLM_OK && !cached)
		return attend_once(exec, index, &a, &qkv, err);
	if (code == LLM_OK)
		code = open_cache(exec, index, &a, err);
	if (code != LLM_OK)
		return code;
	return llm_attention(&a, &qkv, slot->cache, slot->buffer->data, NULL, NULL, exec->memory, err);
}

/* ---- backward ---- */

static LlmCode
side_by_side_dx(Back *b, float *dx, LlmError *err)
{
	Lists lists;
	LlmAttention a = attention_of(b->exec, b->index, b->in, &lists);
	LlmQkv in = inputs_of(b->node, &a, b->in);
	LlmQkvGradient to = llm_dqkv_of(&a, dx);

	return llm_attention_backward(&a, &in, b->dy, &to, b->exec->memory, err);
}

/* to (…,rows,row) += from (n,T,S), of which each matrix is the corner of one of to's. */
static LlmCode
add_corners(int n, int T, int S, const float *from, int rows, int row, float *to, LlmError *err)
{
	LlmCode code = LLM_OK;

	for (int i = 0; i < n; i++)
		for (int t = 0; t < T && code == LLM_OK; t++, from += S)
		{
			float *at = to + ((size_t) i * rows + t) * row;

			code = llm_binary(LLM_ADD, 1, S, at, true, true, from, true, true, at, err);
		}
	return code;
}

/* dbias += dscores (B,NH,T,S), summed over the axes of size 1. */
static LlmCode
sum_bias(Back *b, const LlmAttention *a, const float *dscores, float *dbias, LlmError *err)
{
	int dims[4] = {1, 1, 1, 1}, from[4] = {a->B, a->NH, a->T, a->S}, part[4];
	const LlmValue *bias = &b->in[ATTENTION_BIAS];
	Buffer *buffer;
	size_t numel;
	LlmCode code;

	memcpy(dims + 4 - bias->ndim, bias->dims, bias->ndim * sizeof(int));
	memcpy(part, dims, sizeof(part));
	part[2] = dims[2] == 1 ? 1 : a->T;
	part[3] = a->S;
	if (part[2] == dims[2] && part[3] == dims[3])
		return llm_broadcast_sum_into(4, from, dscores, 4, dims, dbias, err);
	numel = (size_t) part[0] * part[1] * part[2] * part[3];
	buffer = llm_buffer_take(b->exec, numel, err);
	if (buffer == NULL)
		return err->code;
	code = llm_fill(numel, 0, buffer->data, err);
	if (code == LLM_OK)
		code = llm_broadcast_sum_into(4, from, dscores, 4, part, buffer->data, err);
	if (code == LLM_OK)
		code = add_corners(part[0] * part[1], part[2], part[3], buffer->data, dims[2], dims[3], dbias, err);
	llm_buffer_drop(b->exec, buffer);
	return code;
}

static LlmCode
back_bias(Back *b, const LlmAttention *a, const float *dscores, LlmError *err)
{
	Buffer *buffer;
	float *dbias = llm_back_open(b, ATTENTION_BIAS, false, &buffer, err);

	if (dbias == NULL)
		return err->code;
	return llm_back_close(b, ATTENTION_BIAS, buffer, sum_bias(b, a, dscores, dbias, err), err);
}

/* The gradients of q, k and v are made together; those that are not needed are discarded. */
static LlmCode
back_separate(Back *b, LlmError *err)
{
	Lists lists;
	LlmAttention a = attention_of(b->exec, b->index, b->in, &lists);
	LlmQkv in = inputs_of(b->node, &a, b->in);
	bool biased = b->node->n_inputs > ATTENTION_BIAS && llm_back_wants(b, ATTENTION_BIAS);
	Buffer *buffers[3] = {NULL}, *dscores = NULL;
	float *to[3] = {NULL};
	LlmCode code = LLM_OK;

	for (int i = 0; i < 3 && code == LLM_OK; i++)
	{
		to[i] = llm_back_open(b, i, true, &buffers[i], err);
		code = to[i] ? LLM_OK : err->code;
	}
	if (code == LLM_OK && biased)
	{
		dscores = llm_buffer_take(b->exec, (size_t) a.B * a.NH * a.T * a.S, err);
		code = dscores ? LLM_OK : err->code;
	}
	if (code == LLM_OK)
		code = llm_attention_backward(&a, &in, b->dy,
			&(LlmQkvGradient){to[0], to[1], to[2], dscores ? dscores->data : NULL}, b->exec->memory, err);
	if (code == LLM_OK && biased)
		code = back_bias(b, &a, dscores->data, err);
	llm_buffer_drop(b->exec, dscores);
	return llm_back_close_all(b, 3, buffers, code, err);
}

LlmCode
llm_backward_attention(Back *b, LlmError *err)
{
	if (b->node->n_inputs == ATTENTION_QKV)
		return llm_back_write(b, 0, side_by_side_dx, err);
	return back_separate(b, err);
}

/* ---- cost ---- */

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
