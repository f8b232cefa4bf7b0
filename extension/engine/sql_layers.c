/*
 * See sql_layers.h.
 */
#include "engine/sql_layers.h"

#include <string.h>

#include "engine/broadcast.h"
#include "engine/parallel.h"
#include "engine/pool.h"

LlmCode
llm_layernorm_shape(
	int ndim, const int *x, int gamma_ndim, const int *gamma, int beta_ndim, const int *beta, LlmError *err)
{
	if (ndim == 0)
		return llm_fail(err, LLM_SHAPE, "layernorm: a scalar has no axis to normalise");
	for (int i = 0; i < 2; i++)
	{
		int n = i ? beta_ndim : gamma_ndim;
		const int *dims = i ? beta : gamma;

		if (n == 1 && dims[0] == x[ndim - 1])
			continue;
		llm_fail(err, LLM_SHAPE, "layernorm: %s has shape %s, the last axis of x %s requires (%d)",
			i ? "beta" : "gamma", llm_shape_text(n, dims).s, llm_shape_text(ndim, x).s, x[ndim - 1]);
		return llm_hint(err, "gamma and beta have one element for each channel.");
	}
	return LLM_OK;
}

static LlmCode
check_sequence(const char *layer, const LlmShape *x, LlmError *err)
{
	if (x->ndim == 2 || x->ndim == 3)
		return LLM_OK;
	llm_fail(err, LLM_SHAPE, "%s: x has shape %s", layer, llm_shape_text(x->ndim, x->dims).s);
	return llm_hint(err, "x is (T,C), positions by channels, or (B,T,C), a batch of them.");
}

/* The four weights of a layer over x; the hint says which shapes they have. */
static LlmCode
check_weights(const char *layer, const char *const names[4], const LlmShape *x, const LlmShape weights[4],
	const LlmShape wanted[4], const char *hint, LlmError *err)
{
	for (int i = 0; i < 4; i++)
	{
		if (weights[i].ndim == wanted[i].ndim &&
			memcmp(weights[i].dims, wanted[i].dims, sizeof(int) * wanted[i].ndim) == 0)
			continue;
		llm_fail(err, LLM_SHAPE, "%s: %s has shape %s, x %s requires %s", layer, names[i],
			llm_shape_text(weights[i].ndim, weights[i].dims).s, llm_shape_text(x->ndim, x->dims).s,
			llm_shape_text(wanted[i].ndim, wanted[i].dims).s);
		return llm_hint(err, "%s", hint);
	}
	return LLM_OK;
}

LlmCode
llm_attention_shape(const LlmShape *x, const LlmShape weights[4], int NH, LlmError *err)
{
	static const char *const names[4] = {"w_qkv", "b_qkv", "w_o", "b_o"};
	int C = x->ndim > 0 ? x->dims[x->ndim - 1] : 0;
	LlmCode code = check_sequence("attention", x, err);

	if (code != LLM_OK)
		return code;
	if (NH < 1 || C < 1 || C % NH != 0)
	{
		llm_fail(err, LLM_INVALID, "attention: %d heads do not divide the %d channels of x %s", NH, C,
			llm_shape_text(x->ndim, x->dims).s);
		return llm_hint(err, "Each head has the same number of channels.");
	}
	if (C > INT32_MAX / 3)
		return llm_fail(err, LLM_LIMIT, "attention: %d channels are too many", C);
	return check_weights("attention", names, x, weights,
		(LlmShape[4]){{2, {C, 3 * C}}, {1, {3 * C}}, {2, {C, C}}, {1, {C}}},
		"Weights are (in, out): w_qkv (C,3*C), b_qkv (3*C), w_o (C,C), b_o (C).", err);
}

LlmCode
llm_mlp_shape(const LlmShape *x, const LlmShape weights[4], LlmError *err)
{
	static const char *const names[4] = {"w_fc", "b_fc", "w_proj", "b_proj"};
	int C = x->ndim > 0 ? x->dims[x->ndim - 1] : 0, F = weights[1].ndim == 1 ? weights[1].dims[0] : 4 * C;
	LlmCode code = check_sequence("mlp", x, err);

	if (code != LLM_OK)
		return code;
	return check_weights("mlp", names, x, weights,
		(LlmShape[4]){{2, {C, F}}, {1, {F}}, {2, {F, C}}, {1, {C}}},
		"Weights are (in, out): w_fc (C,F), b_fc (F), w_proj (F,C), b_proj (C).", err);
}

/* Copies an intermediate result to the caller, if all went well so far. */
static LlmCode
show(LlmCode code, float *to, const float *from, size_t n, LlmError *err)
{
	return code == LLM_OK && to ? llm_copy(n, from, to, err) : code;
}

/* The part between the allocation of queries, keys and values and its release. */
static LlmCode
attend(int B, int T, int C, int NH, bool causal, const float *x, const LlmAttentionWeights *w,
	const LlmAttentionTrace *trace, float *qkv, LlmKvCache *cache, float *out, const LlmAllocator *memory,
	LlmError *err)
{
	LlmAttention a = llm_self_attention(B, T, NH, C / NH, causal);
	LlmQkv in = llm_qkv_of(&a, qkv);
	size_t rows = (size_t) B * T;
	LlmCode code;

	code = llm_matmul((int) rows, 3 * C, C, x, w->w_qkv, false, qkv, memory, err);
	code = show(code, trace->qkv_matmul, qkv, rows * 3 * C, err);
	if (code == LLM_OK)
		code = llm_binary(LLM_ADD, rows, 3 * C, qkv, true, true, w->b_qkv, false, true, qkv, err);
	code = show(code, trace->qkv, qkv, rows * 3 * C, err);
	if (code == LLM_OK)
		code = llm_attention(&a, &in, cache, out, trace->scores, trace->probs, memory, err);
	code = show(code, trace->heads, out, rows * C, err);
	/* moves the heads' results, so that the projection can be written to out; qkv is no longer needed */
	if (code == LLM_OK)
		code = llm_copy(rows * C, out, qkv, err);
	if (code == LLM_OK)
		code = llm_matmul((int) rows, C, C, qkv, w->w_o, false, out, memory, err);
	code = show(code, trace->proj_matmul, out, rows * C, err);
	if (code == LLM_OK)
		code = llm_binary(LLM_ADD, rows, C, out, true, true, w->b_o, false, true, out, err);
	return code;
}

LlmCode
llm_attention_layer_traced(int B, int T, int C, int NH, bool causal, const float *x,
	const LlmAttentionWeights *weights, const LlmAttentionTrace *trace, float *out,
	const LlmAllocator *memory, LlmError *err)
{
	size_t size = (size_t) B * T * 3 * C * sizeof(float);
	LlmKvCache cache;
	LlmCode code;
	float *qkv;

	if (size == 0)
		return LLM_OK;
	qkv = memory->alloc(memory->context, size);
	if (qkv == NULL)
		return llm_fail(
			err, LLM_NO_MEMORY, "attention: no memory for %zu MB of queries, keys and values", size >> 20);
	code = llm_kv_create(&cache, B, NH, C / NH, T, memory, err);
	if (code == LLM_OK)
	{
		code = attend(B, T, C, NH, causal, x, weights, trace, qkv, &cache, out, memory, err);
		llm_kv_free(&cache, memory);
	}
	memory->release(memory->context, qkv, size);
	return code;
}

LlmCode
llm_attention_layer(int B, int T, int C, int NH, bool causal, const float *x,
	const LlmAttentionWeights *weights, float *out, const LlmAllocator *memory, LlmError *err)
{
	return llm_attention_layer_traced(
		B, T, C, NH, causal, x, weights, &(LlmAttentionTrace){.heads = NULL}, out, memory, err);
}

typedef struct Dropout
{
	const LlmStream *stream;
	float p;
	size_t n;
	const float *x;
	float *out;
} Dropout;

static void
dropout_task(void *context, int task, int worker)
{
	const Dropout *d = context;
	size_t at = (size_t) task * LLM_TASK;

	(void) worker;
	llm_drop(d->stream, d->p, at, d->n - at < LLM_TASK ? d->n - at : LLM_TASK, d->x + at, d->out + at);
}

LlmCode
llm_dropout(
	const LlmStream *stream, float p, bool training, size_t n, const float *x, float *out, LlmError *err)
{
	Dropout d = {.stream = stream, .p = training ? p : 0, .n = n, .x = x, .out = out};
	char given[32];

	if (!(p >= 0 && p <= 1))
		return llm_fail(
			err, LLM_INVALID, "dropout: probability %s is not between 0 and 1", llm_decimal(p, given));
	return llm_parallel((int) ((n + LLM_TASK - 1) / LLM_TASK), dropout_task, &d, err);
}

typedef struct Normal
{
	const LlmStream *stream;
	float scale;
	size_t n;
	float *out;
} Normal;

static void
normal_task(void *context, int task, int worker)
{
	const Normal *d = context;
	size_t at = (size_t) task * LLM_TASK;

	(void) worker;
	llm_normal(d->stream, at, d->n - at < LLM_TASK ? d->n - at : LLM_TASK, d->scale, d->out + at);
}

LlmCode
llm_normal_fill(const LlmStream *stream, float scale, size_t n, float *out, LlmError *err)
{
	Normal d = {stream, scale, n, out};

	return llm_parallel((int) ((n + LLM_TASK - 1) / LLM_TASK), normal_task, &d, err);
}
