/*
 * out (…,M,N) = a (…,M,K) @ b (…,K,N), or b (…,N,K) if transpose_b. dA = dC @ B^T, dB = A^T @ dC.
 */
#include <stdio.h>

#include "engine/ops/op.h"
#include "engine/broadcast.h"
#include "engine/broadcast_backward.h"
#include "engine/gradients.h"

LlmCode
llm_infer_matmul(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *a = llm_input_of(graph, node, 0), *b = llm_input_of(graph, node, 1);
	int transposed = llm_attr_number(node, "transpose_b", 0) != 0;
	const LlmDim *inner;
	int ndim;
	char why[200], x[40], y[40];

	if (a->ndim == 0 || b->ndim == 0)
		return llm_infer_refuse(node, a, b, "a scalar has no dimension to sum over", err);
	inner = &b->shape[b->ndim == 1 ? 0 : b->ndim - 2 + transposed];
	if (!llm_dim_same(graph, &a->shape[a->ndim - 1], inner))
	{
		llm_dim_print(&a->shape[a->ndim - 1], x, sizeof(x));
		llm_dim_print(inner, y, sizeof(y));
		snprintf(why, sizeof(why), "inner dimensions %s and %s differ", x, y);
		llm_infer_refuse(node, a, b, why, err);
		return llm_hint(err, transposed
								 ? "transpose_b is on: the second input is read as (N,K)."
								 : "The second input is (K,N); for (N,K) set the attribute transpose_b.");
	}
	if (!llm_infer_broadcast(graph, a->ndim > 2 ? a->ndim - 2 : 0, a->shape, b->ndim > 2 ? b->ndim - 2 : 0,
			b->shape, &ndim, node->shape))
		return llm_infer_refuse(node, a, b, "the leading dimensions differ and neither is 1", err);
	if (a->ndim > 1)
		node->shape[ndim++] = a->shape[a->ndim - 2];
	if (b->ndim > 1)
		node->shape[ndim++] = b->shape[b->ndim - 1 - transposed];
	node->ndim = ndim;
	return LLM_OK;
}

bool
llm_rows_matmul(const LlmExec *exec, const LlmNode *node, int t)
{
	int from = llm_t_axis_of(exec, node, 0);

	return llm_t_axis_of(exec, node, 1) == -1 && from < exec->model->graph.nodes[node->inputs[0]].ndim - 1;
}

LlmCode
llm_forward_matmul(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmValue *a = &in[0], *b = &in[1];
	const LlmNode *node = &exec->model->graph.nodes[index];
	const LlmWeight *w = &exec->model->weights[node->inputs[1]];
	bool transposed = llm_attr_number(node, "transpose_b", 0) != 0;
	int K = a->dims[a->ndim - 1], N = b->ndim > 1 ? b->dims[b->ndim - 1 - transposed] : 1;
	size_t rows = K ? a->numel / K : 0;
	LlmCode code = llm_run_result(exec, index, err);
	float *out;

	if (code != LLM_OK)
		return code;
	if (rows > INT32_MAX)
		return llm_fail(err, LLM_LIMIT, "node \"%s\": %zu rows are too many at once", node->name, rows);
	out = llm_result_of(exec, index);
	if (K > 0 && w->panels && w->transposed == transposed && b->ndim == 2)
		return llm_matmul_compact(
			w->format, (int) rows, N, K, a->floats, K, w->panels, out, exec->memory, err);
	return llm_batched_matmul(
		a->ndim, a->dims, a->floats, b->ndim, b->dims, b->floats, transposed, out, exec->memory, err);
}

/*
 * The weight matrix (K,N) of x (M,K) @ w if it, and so its gradient, is kept in panels only; otherwise NULL.
 */
static const LlmWeight *
packed_weight(const Back *b, int *M, int *N, int *K)
{
	const LlmModel *model = b->exec->model;
	const LlmValue *x = &b->in[0];

	if (b->in[1].floats || model->weights == NULL)
		return NULL;
	*K = x->dims[x->ndim - 1];
	*N = b->out->dims[b->out->ndim - 1];
	*M = *K ? (int) (x->numel / *K) : 0;
	return &model->weights[b->node->inputs[1]];
}

static LlmCode
matmul_dx(Back *b, float *dx, LlmError *err)
{
	const LlmValue *x = &b->in[0], *w = &b->in[1];
	int M, N, K;
	const LlmWeight *packed = packed_weight(b, &M, &N, &K);

	if (packed)
		return llm_matmul_dx_panels(M, N, K, b->dy, packed->panels, dx, b->exec->memory, err);
	return llm_broadcast_matmul_da(x->ndim, x->dims, w->ndim, w->dims, w->floats,
		llm_attr_number(b->node, "transpose_b", 0) != 0, b->dy, dx, b->exec->memory, err);
}

LlmCode
llm_backward_matmul(Back *b, LlmError *err)
{
	const LlmValue *x = &b->in[0], *w = &b->in[1];
	Buffer *buffer;
	LlmCode code;
	float *dw;
	int M, N, K;

	if (packed_weight(b, &M, &N, &K))
	{
		dw = b->grads[b->node->inputs[1]];
		if (dw && llm_back_wants(b, 1) &&
			(code = llm_matmul_dw_panels(M, N, K, x->floats, b->dy, dw, b->exec->memory, err)) != LLM_OK)
			return code;
	}
	else if (llm_back_wants(b, 1))
	{
		dw = llm_back_open(b, 1, false, &buffer, err);
		if (dw == NULL)
			return err->code;
		code = llm_broadcast_matmul_db(x->ndim, x->dims, x->floats, w->ndim, w->dims,
			llm_attr_number(b->node, "transpose_b", 0) != 0, b->dy, dw, b->exec->memory, err);
		code = llm_back_close(b, 1, buffer, code, err);
		if (code != LLM_OK)
			return code;
	}
	return llm_back_write(b, 0, matmul_dx, err);
}

void
llm_cost_matmul(const LlmNode *node, const LlmValue *x, size_t read, const LlmValue *value, int64_t *flops,
	int64_t *bytes)
{
	*flops = 2 * (int64_t) value->numel * (x->ndim ? x->dims[x->ndim - 1] : 1);
	*bytes = (int64_t) ((read + value->numel) * sizeof(float));
}
