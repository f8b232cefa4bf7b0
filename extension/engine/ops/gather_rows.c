/*
 * gather_rows: y_i = x_(id_i), rows of x by their ids. scatter_rows is its transpose: each row of x is added
 * to row id_i of zeros. The gradient of either is the other; rows are added in ascending order of i.
 */
#include "engine/ops/op.h"
#include "engine/gradients.h"
#include "engine/ops/direct.h"

/* ---- gather_rows ---- */

/* ids (…), x (N,…) -> (…) and x's shape without N */
LlmCode
llm_infer_gather_rows(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0), *ids = llm_input_of(graph, node, 1);

	if (x->ndim == 0)
		return llm_infer_refuse(node, x, ids, "a scalar has no rows", err);
	if (ids->ndim + x->ndim - 1 > LLM_MAX_DIMS)
		return llm_infer_refuse(node, x, ids, "too many dimensions", err);
	llm_infer_copy_shape(node, ids);
	for (int i = 1; i < x->ndim; i++)
		node->shape[node->ndim++] = x->shape[i];
	return LLM_OK;
}

/* Ids are positions' own; the table is the same for all of them. */
bool
llm_rows_gather_rows(const LlmExec *exec, const LlmNode *node, int t)
{
	return llm_t_axis_of(exec, node, 0) == -1 && llm_t_axis_of(exec, node, 1) == t;
}

/* Elements of one of the rows of x. */
static size_t
width_of(const LlmValue *x)
{
	size_t width = 1;

	for (int i = 1; i < x->ndim; i++)
		width *= x->dims[i];
	return width;
}

LlmCode
llm_forward_gather_rows(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	Buffer *buffer;
	const int32_t *ids;
	LlmCode code = llm_run_result(exec, index, err);

	if (code != LLM_OK)
		return code;
	ids = llm_ids_of(exec, node, &in[1], in[0].dims[0], &buffer, err);
	if (ids == NULL)
		return err->code;
	code = llm_gather_rows(in[1].numel, ids, width_of(&in[0]), in[0].floats, llm_result_of(exec, index), err);
	llm_buffer_drop(exec, buffer);
	return code;
}

LlmCode
llm_backward_gather_rows(Back *b, LlmError *err)
{
	const LlmValue *x = &b->in[0];
	Buffer *ids_buffer, *buffer;
	const int32_t *ids;
	float *dx;
	LlmCode code;

	if (!llm_back_wants(b, 0))
		return LLM_OK;
	ids = llm_ids_of(b->exec, b->node, &b->in[1], x->dims[0], &ids_buffer, err);
	if (ids == NULL)
		return err->code;
	dx = llm_back_open(b, 0, false, &buffer, err);
	code = dx ? llm_add_rows(b->in[1].numel, ids, width_of(x), b->dy, dx, err) : err->code;
	if (dx)
		code = llm_back_close(b, 0, buffer, code, err);
	llm_buffer_drop(b->exec, ids_buffer);
	return code;
}

/* ---- scatter_rows ---- */

/* x (…,rest) and ids (…) -> (size,rest) */
LlmCode
llm_infer_scatter_rows(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0), *ids = llm_input_of(graph, node, 1);
	bool fits = ids->ndim <= x->ndim && x->ndim - ids->ndim < LLM_MAX_DIMS;

	for (int i = 0; fits && i < ids->ndim; i++)
		fits = llm_dim_same(graph, &x->shape[i], &ids->shape[i]);
	if (!fits)
		return llm_infer_refuse(
			node, x, ids, "the first input needs the dimensions of the ids, and then those of a row", err);
	if (llm_infer_size(node, &node->shape[0], err) != LLM_OK)
		return err->code;
	node->ndim = 1;
	for (int i = ids->ndim; i < x->ndim; i++)
		node->shape[node->ndim++] = x->shape[i];
	return LLM_OK;
}

/* Rows of all positions come together. */
bool
llm_rows_scatter_rows(const LlmExec *exec, const LlmNode *node, int t)
{
	return t == -1 && llm_t_axis_of(exec, node, 0) == -1 && llm_t_axis_of(exec, node, 1) == -1;
}

LlmCode
llm_forward_scatter_rows(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmValue *out = &exec->slots[index].value;
	Buffer *buffer;
	const int32_t *ids;
	LlmCode code = llm_run_result(exec, index, err);

	if (code == LLM_OK)
		code = llm_fill(out->numel, 0, llm_result_of(exec, index), err);
	if (code != LLM_OK)
		return code;
	ids = llm_ids_of(exec, &exec->model->graph.nodes[index], &in[1], out->dims[0], &buffer, err);
	if (ids == NULL)
		return err->code;
	code = llm_add_rows(in[1].numel, ids, width_of(out), in[0].floats, llm_result_of(exec, index), err);
	llm_buffer_drop(exec, buffer);
	return code;
}

static LlmCode
scatter_rows_dx(Back *b, float *dx, LlmError *err)
{
	Buffer *buffer;
	const int32_t *ids = llm_ids_of(b->exec, b->node, &b->in[1], b->out->dims[0], &buffer, err);
	LlmCode code;

	if (ids == NULL)
		return err->code;
	code = llm_gather_rows(b->in[1].numel, ids, width_of(b->out), b->dy, dx, err);
	llm_buffer_drop(b->exec, buffer);
	return code;
}

LlmCode
llm_backward_scatter_rows(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, scatter_rows_dx, err);
}

void
llm_cost_gather_rows(const LlmNode *node, const LlmValue *x, size_t read, const LlmValue *value,
	int64_t *flops, int64_t *bytes)
{
	*flops = 0;
	*bytes = (int64_t) ((read - x->numel + 2 * value->numel) * sizeof(float)); /* of x only the rows chosen */
}
