/*
 * The gradients of sql_layers.h, composed from those of their operations.
 */
#include <math.h>

#include "engine/gradients.h"
#include "engine/sql_layers.h"

/* y = heads @ w_o + b_o, heads = attention(qkv), qkv = x @ w_qkv + b_qkv; from the last to the first */
static LlmCode
backward(const LlmAttention *a, const float *x, const LlmAttentionWeights *w, const float *dy,
	const LlmAttentionGradients *to, float *qkv, float *dqkv, float *heads, float *dheads, LlmKvCache *cache,
	const LlmAllocator *memory, LlmError *err)
{
	int C = a->NH * a->HS, rows = a->B * a->T;
	LlmCode code = llm_matmul(rows, 3 * C, C, x, w->w_qkv, false, qkv, memory, err);

	if (code == LLM_OK)
		code = llm_binary(LLM_ADD, rows, 3 * C, qkv, true, true, w->b_qkv, false, true, qkv, err);
	if (code == LLM_OK)
		code = llm_attention(a, qkv, cache, heads, NULL, NULL, memory, err);
	if (code == LLM_OK)
		code = llm_sum_rows_into(rows, C, dy, to->db_o, err);
	if (code == LLM_OK)
		code = llm_matmul_dw(rows, C, C, heads, dy, false, to->dw_o, memory, err);
	if (code == LLM_OK)
		code = llm_matmul_dx(rows, C, C, dy, w->w_o, false, dheads, memory, err);
	if (code == LLM_OK)
		code = llm_attention_backward(a, qkv, dheads, dqkv, memory, err);
	if (code == LLM_OK)
		code = llm_sum_rows_into(rows, 3 * C, dqkv, to->db_qkv, err);
	if (code == LLM_OK)
		code = llm_matmul_dw(rows, 3 * C, C, x, dqkv, false, to->dw_qkv, memory, err);
	if (code == LLM_OK)
		code = llm_matmul_dx(rows, 3 * C, C, dqkv, w->w_qkv, false, to->dx, memory, err);
	return code;
}

LlmCode
llm_attention_layer_backward(int B, int T, int C, int NH, bool causal, const float *x,
	const LlmAttentionWeights *weights, const float *dy, const LlmAttentionGradients *to,
	const LlmAllocator *memory, LlmError *err)
{
	LlmAttention a = {.B = B, .T = T, .NH = NH, .HS = C / NH, .causal = causal, .queries = T};
	size_t n = (size_t) B * T * C, bytes = 8 * n * sizeof(float);
	LlmKvCache cache;
	LlmCode code = llm_fill((size_t) C * 3 * C, 0, to->dw_qkv, err);
	float *scratch;

	if (code == LLM_OK)
		code = llm_fill(3 * (size_t) C, 0, to->db_qkv, err);
	if (code == LLM_OK)
		code = llm_fill((size_t) C * C, 0, to->dw_o, err);
	if (code == LLM_OK)
		code = llm_fill(C, 0, to->db_o, err);
	if (n == 0 || code != LLM_OK)
		return code;
	a.scale = (float) (1 / sqrt(a.HS));
	scratch = memory->alloc(memory->context, bytes);
	if (scratch == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "attention: no memory for the gradients of %d positions", T);
	code = llm_kv_create(&cache, B, NH, a.HS, T, memory, err);
	if (code == LLM_OK)
	{
		code = backward(&a, x, weights, dy, to, scratch, scratch + 3 * n, scratch + 6 * n, scratch + 7 * n,
			&cache, memory, err);
		llm_kv_free(&cache, memory);
	}
	memory->release(memory->context, scratch, bytes);
	return code;
}
