/* Shared by the shape rules of operations. */
#ifndef LLM_INFER_H
#define LLM_INFER_H

#include "engine/graph.h"

extern const LlmNode *llm_input_of(const LlmGraph *graph, const LlmNode *node, int i);
/* Copies another node's shape to the node. */
extern void llm_infer_copy_shape(LlmNode *node, const LlmNode *from);
/* True if two dimensions are the same size, or the same multiple of the same name. */
extern bool llm_dim_same(const LlmGraph *graph, const LlmDim *a, const LlmDim *b);
/* out (ndim) = the shape to which a and b broadcast, aligned at their ends; false if they do not. */
extern bool llm_infer_broadcast(
	const LlmGraph *graph, int a_ndim, const LlmDim *a, int b_ndim, const LlmDim *b, int *ndim, LlmDim *out);
/* "node \"mlp.fc\": matmul of x (B,T,C) and w (V,C): why"; with b NULL only one input is named */
extern LlmCode llm_infer_refuse(
	const LlmNode *node, const LlmNode *a, const LlmNode *b, const char *why, LlmError *err);
/* The attribute axis within ndim axes, `otherwise` if it is absent; may be negative there. */
extern LlmCode llm_infer_axis(
	const LlmNode *node, const LlmNode *x, int ndim, int otherwise, int *axis, LlmError *err);

#endif
