#include <string.h>

#include "engine/model.h"
#include "engine/parallel.h"

int64_t
llm_param_numel(const LlmGraph *graph, int node)
{
	int64_t numel = 1;

	for (int i = 0; i < graph->nodes[node].ndim; i++)
		if (__builtin_mul_overflow(
				numel, llm_dim_value(&graph->nodes[node].shape[i], &graph->sizes), &numel) ||
			numel > INT64_MAX / 8)
			return -1;
	return numel;
}

typedef struct Uses
{
	bool plain, panels, panels_transposed, gathered;
} Uses;

static Uses
uses_of(const LlmGraph *graph, int param)
{
	Uses u = {0};

	for (int i = 0; i < graph->count; i++)
	{
		const LlmNode *node = &graph->nodes[i];

		for (int j = 0; j < node->n_inputs; j++)
			if (node->inputs[j] != param)
				continue;
			else if (node->op == LLM_OP_MATMUL && j == 1 && graph->nodes[param].ndim == 2)
				*(llm_attr_number(node, "transpose_b", 0) != 0 ? &u.panels_transposed : &u.panels) = true;
			else if (node->op == LLM_OP_EMBEDDING && j == 1)
				u.gathered = true;
			else
				u.plain = true;
	}
	/*
	 * One packed copy only; an embedding can gather from transposed panels. A matrix that nothing reads
	 * stays row-major.
	 */
	if (u.panels && u.panels_transposed)
		u.panels_transposed = false, u.plain = true;
	if ((u.gathered && !u.panels_transposed) || !(u.panels || u.panels_transposed))
		u.plain = true;
	return u;
}

/* The (K,N) matrix that matmul multiplies by. */
typedef struct Matrix
{
	int K, N;
} Matrix;

static Matrix
matrix_of(const LlmModel *model, int node)
{
	const LlmNode *n = &model->graph.nodes[node];
	int rows = (int) llm_dim_value(&n->shape[0], &model->graph.sizes);
	int columns = (int) llm_dim_value(&n->shape[1], &model->graph.sizes);

	return model->weights[node].transposed ? (Matrix){columns, rows} : (Matrix){rows, columns};
}

static Uses
lay_out(LlmModel *model, int node, LlmFormat format)
{
	LlmWeight *w = &model->weights[node];
	Uses u = uses_of(&model->graph, node);

	*w = (LlmWeight){.numel = llm_param_numel(&model->graph, node), .transposed = u.panels_transposed};
	if (u.plain)
		w->plain_bytes = w->numel * sizeof(float);
	if (u.panels || u.panels_transposed)
	{
		Matrix matrix = matrix_of(model, node);

		w->format = format;
		w->panels_bytes = llm_format_bytes(format, matrix.K, matrix.N);
	}
	return u;
}

void
llm_weight_layout(LlmModel *model, int node, LlmFormat format)
{
	lay_out(model, node, format);
}

LlmCode
llm_weight_load(LlmModel *model, int node, const float *data, const LlmAllocator *memory, LlmError *err)
{
	LlmWeight *w = &model->weights[node];
	Uses u = lay_out(model, node, LLM_FLOAT32);
	bool packed = u.panels || u.panels_transposed;

	if (packed && !model->training)
	{
		Matrix matrix = matrix_of(model, node);
		LlmFormat format;
		LlmCode code = llm_format_of(matrix.K, matrix.N, w->transposed, data, &format, err);

		if (code != LLM_OK)
			return code;
		lay_out(model, node, format);
	}
	if (u.plain)
		w->plain = memory->alloc(memory->context, w->plain_bytes);
	if (packed)
		w->panels = memory->alloc(memory->context, w->panels_bytes);
	if ((u.plain && !w->plain) || (packed && !w->panels))
		return llm_fail(err, LLM_NO_MEMORY, "no memory for parameter \"%s\" (%lld elements)",
			model->graph.nodes[node].name, (long long) w->numel);
	if (w->plain && llm_copy(w->numel, data, w->plain, err) != LLM_OK)
		return err->code;
	if (w->panels)
	{
		Matrix matrix = matrix_of(model, node);

		return llm_compact(w->format, matrix.K, matrix.N, w->transposed, data, w->panels, err);
	}
	return LLM_OK;
}

LlmCode
llm_weight_repack(LlmModel *model, int node, LlmError *err)
{
	LlmWeight *w = &model->weights[node];
	Matrix matrix;

	if (w->panels == NULL || w->plain == NULL)
		return LLM_OK;
	matrix = matrix_of(model, node);
	return llm_pack(matrix.K, matrix.N, w->plain, w->transposed, w->panels, err);
}

/* ---- data in the layout of a weight ---- */

size_t
llm_weight_floats(const LlmWeight *w)
{
	return (w->plain ? w->plain_bytes : w->panels_bytes) / sizeof(float);
}

float *
llm_weight_data(const LlmWeight *w)
{
	return w->plain ? w->plain : w->panels;
}

LlmCode
llm_weight_arrange(const LlmModel *model, int node, const float *data, float *to, LlmError *err)
{
	const LlmWeight *w = &model->weights[node];
	Matrix matrix;

	if (w->plain)
		return llm_copy(w->numel, data, to, err);
	matrix = matrix_of(model, node);
	return llm_pack(matrix.K, matrix.N, data, w->transposed, to, err);
}

LlmCode
llm_weight_unpack(const LlmModel *model, int node, const float *from, float *out, LlmError *err)
{
	const LlmWeight *w = &model->weights[node];
	Matrix matrix;

	if (w->plain)
		return llm_copy(w->numel, from, out, err);
	matrix = matrix_of(model, node);
	return llm_panels_read(matrix.K, matrix.N, from, w->transposed, out, err);
}

LlmCode
llm_weight_sum_squares(
	const LlmModel *model, int node, const float *x, double *total, const LlmAllocator *memory, LlmError *err)
{
	const LlmWeight *w = &model->weights[node];
	Matrix matrix;

	if (w->plain)
		return llm_sum_squares(w->numel, x, 0, total, memory, err);
	matrix = matrix_of(model, node);
	return llm_sum_squares_panels(matrix.K, matrix.N, x, w->transposed, total, memory, err);
}

LlmCode
llm_weight_flatten(LlmModel *model, int node, const LlmAllocator *memory, LlmError *err)
{
	LlmWeight *w = &model->weights[node];
	float *plain;
	LlmCode code;

	if (w->plain)
		return LLM_OK;
	plain = memory->alloc(memory->context, w->numel * sizeof(float));
	if (plain == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory for parameter \"%s\" (%lld elements)",
			model->graph.nodes[node].name, (long long) w->numel);
	code = llm_weight_unpack(model, node, w->panels, plain, err);
	w->plain = plain;
	w->plain_bytes = w->numel * sizeof(float);
	return code;
}

void
llm_weight_free(LlmModel *model, int node, const LlmAllocator *memory)
{
	LlmWeight *w = &model->weights[node];

	if (w->plain)
		memory->release(memory->context, w->plain, w->plain_bytes);
	if (w->panels)
		memory->release(memory->context, w->panels, w->panels_bytes);
	*w = (LlmWeight){0};
}

LlmCode
llm_weight_read(const LlmModel *model, int node, float *out, LlmError *err)
{
	const LlmWeight *w = &model->weights[node];
	Matrix matrix;

	if (w->plain)
		return llm_copy(w->numel, w->plain, out, err);
	if (w->panels == NULL)
		return LLM_OK;
	matrix = matrix_of(model, node);
	return llm_widen(w->format, matrix.K, matrix.N, w->transposed, w->panels, out, err);
}
