/*
 * A model in memory: its checked graph and its weights, laid out as the graph's ops read them.
 */
#ifndef LLM_MODEL_H
#define LLM_MODEL_H

#include "engine/quantized.h"
#include "engine/graph.h"

/* One parameter. Weights that a matmul reads are kept in panels only; the others as they are. */
typedef struct LlmWeight
{
	size_t numel;
	float *plain;
	void *panels;     /* of the (K,N) matrix that matmul wants */
	LlmFormat format; /* of the panels; float32 in training */
	bool transposed;  /* the parameter itself is (N,K) */
	size_t plain_bytes, panels_bytes;
} LlmWeight;

typedef struct LlmModel
{
	LlmGraph graph;
	LlmWeight *weights; /* one per node; empty where the node is no param */
	bool training;      /* the weights will change */
} LlmModel;

/*
 * Sets everything of a parameter's weight but the pointers: which layouts its uses need, and their sizes
 * where the panels are of this format.
 */
extern void llm_weight_layout(LlmModel *model, int node, LlmFormat format);
/* Copies a parameter's data (row-major, the node's shape) into those layouts; panels are of the smallest
 * format that holds the data exactly. */
extern LlmCode llm_weight_load(
	LlmModel *model, int node, const float *data, const LlmAllocator *memory, LlmError *err);
/* Makes the panels again from the plain weight, where there is one, which was changed. */
extern LlmCode llm_weight_repack(LlmModel *model, int node, LlmError *err);
extern void llm_weight_free(LlmModel *model, int node, const LlmAllocator *memory);
/* And back: out gets the parameter as it was given. */
extern LlmCode llm_weight_read(const LlmModel *model, int node, float *out, LlmError *err);

/*
 * Numbers laid out as a parameter's weight is, its gradient and its moments: as they are, where it is kept
 * so, or in panels whose unused columns are zero. First how many floats that takes, and the weight's own.
 */
extern size_t llm_weight_floats(const LlmWeight *weight);
extern float *llm_weight_numbers(const LlmWeight *weight);
/* `to` from row-major data of the node's shape, and back. */
extern LlmCode llm_weight_arrange(
	const LlmModel *model, int node, const float *data, float *to, LlmError *err);
extern LlmCode llm_weight_unpack(
	const LlmModel *model, int node, const float *from, float *out, LlmError *err);
/* The sum of their squares, in row-major order wherever they are. */
extern LlmCode llm_weight_sum_squares(const LlmModel *model, int node, const float *x, double *total,
	const LlmAllocator *memory, LlmError *err);
/* From now on the weight is kept plain, too: what is laid out like it is plain then. */
extern LlmCode llm_weight_flatten(LlmModel *model, int node, const LlmAllocator *memory, LlmError *err);

/* Elements of a parameter's declared shape; -1 if they pass what memory could hold. */
extern int64_t llm_param_numel(const LlmGraph *graph, int node);

#endif
