/*
 * A model in memory: its checked graph and its weights, laid out as the graph's ops read them.
 */
#ifndef LLM_MODEL_H
#define LLM_MODEL_H

#include "engine/quantized.h"
#include "engine/graph.h"

/*
 * One parameter. A weight matrix that only matmul reads is kept in packed panels only; all others are kept
 * row-major.
 */
typedef struct LlmWeight
{
	size_t numel;
	float *plain;
	void *panels;     /* of the (K,N) matrix that matmul multiplies by */
	LlmFormat format; /* of the panels; float32 in training */
	bool transposed;  /* the parameter itself is (N,K) */
	size_t plain_bytes, panels_bytes;
} LlmWeight;

typedef struct LlmModel
{
	LlmGraph graph;
	LlmWeight *weights; /* one per node; empty if the node is no param */
	bool training;      /* the weights will change */
} LlmModel;

/*
 * Sets all fields of a parameter's weight except the pointers: the layouts that its uses need, and their
 * sizes if the panels have this format.
 */
extern void llm_weight_layout(LlmModel *model, int node, LlmFormat format);
/*
 * Copies a parameter's data (row-major, of the node's shape) into those layouts. Panels use the smallest
 * format that holds the data exactly.
 */
extern LlmCode llm_weight_load(
	LlmModel *model, int node, const float *data, const LlmAllocator *memory, LlmError *err);
/* Packs the panels again after the row-major copy, if there is one, was changed. */
extern LlmCode llm_weight_repack(LlmModel *model, int node, LlmError *err);
extern void llm_weight_free(LlmModel *model, int node, const LlmAllocator *memory);
/* The inverse of llm_weight_load: out is the parameter, row-major. */
extern LlmCode llm_weight_read(const LlmModel *model, int node, float *out, LlmError *err);

/*
 * Gradients and AdamW moments use the same memory layout as their weight: plain row-major, or packed panels
 * padded with zeros. llm_weight_floats: the size of that layout. llm_weight_data: the weight's own storage.
 */
extern size_t llm_weight_floats(const LlmWeight *weight);
extern float *llm_weight_data(const LlmWeight *weight);
/*
 * llm_weight_arrange copies row-major data of the node's shape into that layout; llm_weight_unpack copies it
 * back.
 */
extern LlmCode llm_weight_arrange(
	const LlmModel *model, int node, const float *data, float *to, LlmError *err);
extern LlmCode llm_weight_unpack(
	const LlmModel *model, int node, const float *from, float *out, LlmError *err);
/* The sum of squares, added in row-major order whatever the layout. */
extern LlmCode llm_weight_sum_squares(const LlmModel *model, int node, const float *x, double *total,
	const LlmAllocator *memory, LlmError *err);
/* From now on the weight is kept row-major, too, and its gradient and moments are row-major only. */
extern LlmCode llm_weight_flatten(LlmModel *model, int node, const LlmAllocator *memory, LlmError *err);

/* Elements of a parameter's declared shape; -1 if they would not fit in memory. */
extern int64_t llm_param_numel(const LlmGraph *graph, int node);

#endif
