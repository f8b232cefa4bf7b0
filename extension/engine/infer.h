/* Inside of shape inference: shared by infer*.c only. */
#ifndef LLM_INFER_H
#define LLM_INFER_H

#include "engine/graph.h"

typedef LlmCode (*LlmShapeRule)(const LlmGraph *graph, LlmNode *node, LlmError *err);

extern const LlmNode *llm_infer_input(const LlmGraph *graph, const LlmNode *node, int i);
/* The node's shape becomes another's. */
extern void llm_infer_take(LlmNode *node, const LlmNode *from);
extern LlmCode llm_infer_same(const LlmGraph *graph, LlmNode *node, LlmError *err);
/* Are two dimensions the same number, or the same multiple of the same name? */
extern bool llm_dim_same(const LlmGraph *graph, const LlmDim *a, const LlmDim *b);
/* out (ndim) = what a and b broadcast to, aligned at their ends; false: they do not. */
extern bool llm_infer_broadcast(
	const LlmGraph *graph, int a_ndim, const LlmDim *a, int b_ndim, const LlmDim *b, int *ndim, LlmDim *out);
/* "node \"mlp.fc\": matmul of x (B,T,C) and w (V,C): why"; b NULL: one input is named */
extern LlmCode llm_infer_refuse(
	const LlmNode *node, const LlmNode *a, const LlmNode *b, const char *why, LlmError *err);
/* The attribute axis within ndim axes, `otherwise` when it is not given; may be negative there. */
extern LlmCode llm_infer_axis(
	const LlmNode *node, const LlmNode *x, int ndim, int otherwise, int *axis, LlmError *err);

/* Rules: what the executor's layers make of their inputs (infer_layers.c) … */
extern LlmCode llm_infer_embedding(const LlmGraph *graph, LlmNode *node, LlmError *err);
extern LlmCode llm_infer_matmul(const LlmGraph *graph, LlmNode *node, LlmError *err);
extern LlmCode llm_infer_softmax(const LlmGraph *graph, LlmNode *node, LlmError *err);
extern LlmCode llm_infer_layernorm(const LlmGraph *graph, LlmNode *node, LlmError *err);
extern LlmCode llm_infer_attention(const LlmGraph *graph, LlmNode *node, LlmError *err);
extern LlmCode llm_infer_cross_entropy(const LlmGraph *graph, LlmNode *node, LlmError *err);
/* … and those that move or reduce elements (infer_views.c). */
extern LlmCode llm_infer_reduce(const LlmGraph *graph, LlmNode *node, LlmError *err);
extern LlmCode llm_infer_reshape(const LlmGraph *graph, LlmNode *node, LlmError *err);
extern LlmCode llm_infer_transpose(const LlmGraph *graph, LlmNode *node, LlmError *err);
extern LlmCode llm_infer_slice(const LlmGraph *graph, LlmNode *node, LlmError *err);
extern LlmCode llm_infer_concat(const LlmGraph *graph, LlmNode *node, LlmError *err);
extern LlmCode llm_infer_stack(const LlmGraph *graph, LlmNode *node, LlmError *err);
extern LlmCode llm_infer_total(const LlmGraph *graph, LlmNode *node, LlmError *err);

#endif
