/*
 * Layers made of several operations, for the SQL kernels; the executor's graph contains the same operations
 * one by one and gives the same bits.
 */
#ifndef LLM_SQL_LAYERS_H
#define LLM_SQL_LAYERS_H

#include "common/base.h"
#include "kernels/random.h"

/* gamma and beta (C) must fit the last axis of x (…,C). */
extern LlmCode llm_layernorm_shape(
	int ndim, const int *x, int gamma_ndim, const int *gamma, int beta_ndim, const int *beta, LlmError *err);

typedef struct LlmShape
{
	int ndim;
	int dims[LLM_MAX_DIMS];
} LlmShape;

typedef struct LlmAttentionWeights
{
	const float *w_qkv, *b_qkv; /* (C,3*C), (3*C) */
	const float *w_o, *b_o;     /* (C,C), (C) */
} LlmAttentionWeights;

/* x (T,C) or (B,T,C); weights in the order of LlmAttentionWeights. NH must divide C. */
extern LlmCode llm_attention_shape(const LlmShape *x, const LlmShape weights[4], int NH, LlmError *err);
/*
 * out (B,T,C) = attention of NH heads over x (B,T,C): queries, keys and values are x @ w_qkv + b_qkv, and
 * the concatenated results of the heads are multiplied by w_o, plus b_o. causal: a position attends to
 * itself and earlier ones.
 */
extern LlmCode llm_attention_layer(int B, int T, int C, int NH, bool causal, const float *x,
	const LlmAttentionWeights *weights, float *out, const LlmAllocator *memory, LlmError *err);

/*
 * Intermediate results of the layer, written if not NULL: x @ w_qkv and the same with its bias (B,T,3*C);
 * the heads' results and their projection without its bias (B,T,C); scores and probabilities (B,NH,T,T).
 */
typedef struct LlmAttentionTrace
{
	float *qkv_matmul, *qkv;
	float *heads, *scores, *probs;
	float *proj_matmul;
} LlmAttentionTrace;

/* The same with intermediate results; the bits are the same. */
extern LlmCode llm_attention_layer_traced(int B, int T, int C, int NH, bool causal, const float *x,
	const LlmAttentionWeights *weights, const LlmAttentionTrace *trace, float *out,
	const LlmAllocator *memory, LlmError *err);

/* Memory for the layer's gradients: of x's shape, then of the weights' shapes; all are written. */
typedef struct LlmAttentionGradients
{
	float *dx, *dw_qkv, *db_qkv, *dw_o, *db_o;
} LlmAttentionGradients;

/* The gradients of the layer from dy (B,T,C); recomputes the forward pass. */
extern LlmCode llm_attention_layer_backward(int B, int T, int C, int NH, bool causal, const float *x,
	const LlmAttentionWeights *weights, const float *dy, const LlmAttentionGradients *to,
	const LlmAllocator *memory, LlmError *err);

/* GPT-2's feed-forward layer: gelu(x @ w_fc + b_fc) @ w_proj + b_proj, GELU by tanh. */
typedef struct LlmMlpWeights
{
	const float *w_fc, *b_fc;     /* (C,F), (F) */
	const float *w_proj, *b_proj; /* (F,C), (C) */
} LlmMlpWeights;

/* x (T,C) or (B,T,C); weights in the order of LlmMlpWeights. */
extern LlmCode llm_mlp_shape(const LlmShape *x, const LlmShape weights[4], LlmError *err);

/* Memory for the layer's gradients: of x's shape, then of the weights' shapes; all are written. */
typedef struct LlmMlpGradients
{
	float *dx, *dw_fc, *db_fc, *dw_proj, *db_proj;
} LlmMlpGradients;

/* The gradients of the layer from dy (rows,C); recomputes the forward pass. */
extern LlmCode llm_mlp_backward(int rows, int C, int F, const float *x, const LlmMlpWeights *weights,
	const float *dy, const LlmMlpGradients *to, const LlmAllocator *memory, LlmError *err);

/*
 * out = x / (1 - p) if the element's random number keeps it (probability 1 - p), else 0; x itself when not
 * training. p from 0 to 1. (Srivastava et al., 2014)
 */
extern LlmCode llm_dropout(
	const LlmStream *stream, float p, bool training, size_t n, const float *x, float *out, LlmError *err);

/* out[i] = scale times the stream's standard normal number i */
extern LlmCode llm_normal_fill(const LlmStream *stream, float scale, size_t n, float *out, LlmError *err);

#endif
