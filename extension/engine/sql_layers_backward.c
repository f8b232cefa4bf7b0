/*
 * The gradients of sql_layers.h, composed from those of their operations.
 */
#include "engine/gradients.h"
#include "engine/sql_layers.h"

/* y = heads @ w_o + b_o, heads = attention(qkv), qkv = x @ w_qkv + b_qkv; from the last to the first */
static LlmCode
backward(const LlmAttention *a, const float *x, const LlmAttentionWeights *w, const float *dy,
	const LlmAttentionGradients *to, float *qkv, float *dqkv, float *heads, float *dheads, LlmKvCache *cache,
	const LlmAllocator *memory, LlmError *err)
{
	int C = a->NH * a->HS, rows = a->B * a->T;
	LlmQkv in = llm_qkv_of(a, qkv);
	LlmQkvGradient din = llm_dqkv_of(a, dqkv);
	LlmCode code = llm_matmul(rows, 3 * C, C, x, w->w_qkv, false, qkv, memory, err);

	if (code == LLM_OK)
		code = llm_binary(LLM_ADD, rows, 3 * C, qkv, true, true, w->b_qkv, false, true, qkv, err);
	if (code == LLM_OK)
		code = llm_attention(a, &in, cache, heads, NULL, NULL, memory, err);
	if (code == LLM_OK)
		code = llm_sum_rows_into(rows, C, dy, to->db_o, err);
	if (code == LLM_OK)
		code = llm_matmul_dw(rows, C, C, heads, dy, false, to->dw_o, memory, err);
	if (code == LLM_OK)
		code = llm_matmul_dx(rows, C, C, dy, w->w_o, false, dheads, memory, err);
	if (code == LLM_OK)
		code = llm_attention_backward(a, &in, dheads, &din, memory, err);
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
	LlmAttention a = llm_self_attention(B, T, NH, C / NH, causal);
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

/* y = a @ w_proj + b_proj, a = gelu(h), h = x @ w_fc + b_fc; from the last to the first */
static LlmCode
mlp_backward(int rows, int C, int F, const float *x, const LlmMlpWeights *w, const float *dy,
	const LlmMlpGradients *to, float *h, float *a, float *da, const LlmAllocator *memory, LlmError *err)
{
	size_t n = (size_t) rows * F;
	LlmCode code = llm_matmul(rows, F, C, x, w->w_fc, false, h, memory, err);

	if (code == LLM_OK)
		code = llm_binary(LLM_ADD, rows, F, h, true, true, w->b_fc, false, true, h, err);
	if (code == LLM_OK)
		code = llm_unary(LLM_GELU_TANH, n, h, a, err);
	if (code == LLM_OK)
		code = llm_sum_rows_into(rows, C, dy, to->db_proj, err);
	if (code == LLM_OK)
		code = llm_matmul_dw(rows, C, F, a, dy, false, to->dw_proj, memory, err);
	if (code == LLM_OK)
		code = llm_matmul_dx(rows, C, F, dy, w->w_proj, false, da, memory, err);
	if (code == LLM_OK)
		code = llm_unary_backward(LLM_GELU_TANH, n, h, a, da, da, err);
	if (code == LLM_OK)
		code = llm_sum_rows_into(rows, F, da, to->db_fc, err);
	if (code == LLM_OK)
		code = llm_matmul_dw(rows, F, C, x, da, false, to->dw_fc, memory, err);
	if (code == LLM_OK)
		code = llm_matmul_dx(rows, F, C, da, w->w_fc, false, to->dx, memory, err);
	return code;
}

LlmCode
llm_mlp_backward(int rows, int C, int F, const float *x, const LlmMlpWeights *weights, const float *dy,
	const LlmMlpGradients *to, const LlmAllocator *memory, LlmError *err)
{
	size_t n = (size_t) rows * F, bytes = 3 * n * sizeof(float);
	LlmCode code = llm_fill((size_t) C * F, 0, to->dw_fc, err);
	float *scratch;

	if (code == LLM_OK)
		code = llm_fill(F, 0, to->db_fc, err);
	if (code == LLM_OK)
		code = llm_fill((size_t) F * C, 0, to->dw_proj, err);
	if (code == LLM_OK)
		code = llm_fill(C, 0, to->db_proj, err);
	if (n == 0 || code != LLM_OK)
		return code;
	scratch = memory->alloc(memory->context, bytes);
	if (scratch == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "mlp: no memory for the gradients of %d positions", rows);
	code = mlp_backward(rows, C, F, x, weights, dy, to, scratch, scratch + n, scratch + 2 * n, memory, err);
	memory->release(memory->context, scratch, bytes);
	return code;
}
