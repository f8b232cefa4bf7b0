/*
 * out (…,C) = x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang & Sennrich, 2019): layernorm with
 * a mean of 0, by the same kernels.
 */
#include "engine/ops/op.h"

#include <math.h>
#include <string.h>

#include "engine/broadcast.h"
#include "engine/gradients.h"
#include "engine/ops/direct.h"
#include "engine/partition.h"
#include "engine/pool.h"
#include "engine/rows.h"

LlmCode
llm_infer_rmsnorm(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0), *w = llm_input_of(graph, node, 1);

	if (x->ndim == 0 || w->ndim != 1 || !llm_dim_same(graph, &x->shape[x->ndim - 1], &w->shape[0]))
		return llm_infer_refuse(node, x, w, "the weight must have the last dimension's size", err);
	return llm_infer_same(graph, node, err);
}

LlmCode
llm_rmsnorm_shape(int ndim, const int *x, int w_ndim, const int *w, LlmError *err)
{
	if (ndim == 0)
		return llm_fail(err, LLM_SHAPE, "rmsnorm: a scalar has no axis to normalise");
	if (w_ndim == 1 && w[0] == x[ndim - 1])
		return LLM_OK;
	llm_fail(err, LLM_SHAPE, "rmsnorm: weight has shape %s, the last axis of x %s requires (%d)",
		llm_shape_text(w_ndim, w).s, llm_shape_text(ndim, x).s, x[ndim - 1]);
	return llm_hint(err, "The weight has one element for each channel.");
}

/* ---- rows ---- */

typedef struct Norm
{
	size_t C;
	const float *x, *weight, *dy;
	float eps;
	float *out, *dx;
	float *stats; /* (rows,2): the mean, which is 0, and 1 / sqrt(mean(x^2) + eps) */
} Norm;

/* A long row is passed to the kernels in pieces, with a poll for a stop between them. */
#define EACH_PIECE(w, worker)                                                                                \
	size_t at = 0, n = llm_min((w)->C, LLM_TASK);                                                            \
	at < (w)->C && (at == 0 || !llm_pool_stopping(worker));                                                  \
	at += n, n = llm_min((w)->C - at, LLM_TASK)

static float
reciprocal_of(const Norm *w, int worker, const float *x)
{
	float mean_square = (float) (llm_row_sum_squares(worker, w->C, x, 0) / w->C);

	return 1.0f / sqrtf(mean_square + w->eps);
}

static void
forward_task(void *context, size_t row, int worker)
{
	const Norm *w = context;
	const float *x = w->x + row * w->C;
	float *out = w->out + row * w->C, r = reciprocal_of(w, worker, x);

	for (EACH_PIECE(w, worker))
	{
		llm_kernels->binary(LLM_MUL, n, x + at, 1, &r, 0, out + at);
		llm_kernels->binary(LLM_MUL, n, out + at, 1, w->weight + at, 1, out + at);
	}
}

LlmCode
llm_rmsnorm(size_t rows, int C, const float *x, const float *weight, float eps, float *out, LlmError *err)
{
	Norm w = {.C = C, .x = x, .weight = weight, .eps = eps, .out = out};

	return rows == 0 || C == 0 ? LLM_OK : llm_each_row(rows, C, forward_task, &w, err);
}

/* With n = x r and d = dy weight: dx = (d - n mean(d n)) r */
static void
backward_task(void *context, size_t row, int worker)
{
	const Norm *w = context;
	const float *x = w->x + row * w->C, *dy = w->dy + row * w->C;
	float r = reciprocal_of(w, worker, x), *dx = w->dx + row * w->C;
	double sums[2] = {0, 0};

	for (EACH_PIECE(w, worker))
		llm_kernels->layernorm_sums(n, 0, r, x + at, w->weight + at, dy + at, sums);
	for (EACH_PIECE(w, worker))
		llm_kernels->layernorm_dx(
			n, 0, r, 0, (float) (sums[1] / w->C), x + at, w->weight + at, dy + at, dx + at);
	w->stats[2 * row] = 0;
	w->stats[2 * row + 1] = r;
}

LlmCode
llm_rmsnorm_backward(size_t rows, int C, const float *x, const float *weight, float eps, const float *dy,
	float *dx, float *dweight, const LlmAllocator *memory, LlmError *err)
{
	Norm w = {.C = C, .x = x, .weight = weight, .eps = eps, .dy = dy, .dx = dx};
	size_t bytes = (rows * 2 + C) * sizeof(float);
	float *dbias;
	LlmCode code;

	if (rows == 0 || C == 0)
		return LLM_OK;
	w.stats = memory->alloc(memory->context, bytes);
	if (w.stats == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "rmsnorm: no memory for the statistics of %zu rows", rows);
	dbias = w.stats + 2 * rows; /* the kernel also computes a bias's gradient, which is discarded */
	code = llm_fill(C, 0, dbias, err);
	if (code == LLM_OK)
		code = llm_each_row(rows, C, backward_task, &w, err);
	if (code == LLM_OK)
		code = llm_layernorm_params(rows, C, x, w.stats, dy, dweight, dbias, err);
	memory->release(memory->context, w.stats, bytes);
	return code;
}

/* ---- a node ---- */

static float
eps_of(const LlmNode *node)
{
	return (float) llm_attr_number(node, "eps", 1e-5);
}

LlmCode
llm_forward_rmsnorm(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	int C = x->dims[x->ndim - 1];
	LlmCode code = llm_run_result(exec, index, err);

	if (code != LLM_OK)
		return code;
	return llm_rmsnorm(C ? x->numel / C : 0, C, x->floats, exec->slots[node->inputs[1]].value.floats,
		eps_of(node), llm_result_of(exec, index), err);
}

LlmCode
llm_backward_rmsnorm(Back *b, LlmError *err)
{
	int C = b->in[0].dims[b->in[0].ndim - 1];
	Buffer *buffers[2];
	float *to[2];
	LlmCode code = llm_back_open_all(b, 2, to, buffers, err);

	if (code == LLM_OK)
		code = llm_rmsnorm_backward(C ? b->in[0].numel / C : 0, C, b->in[0].floats, b->in[1].floats,
			eps_of(b->node), b->dy, to[0], to[1], b->exec->memory, err);
	return llm_back_close_all(b, 2, buffers, code, err);
}
