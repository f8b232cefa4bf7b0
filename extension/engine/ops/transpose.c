/*
 * Permutes axes, by default swaps the last two; the gradient is permuted by the inverse order.
 */
#include "engine/ops/op.h"
#include "engine/layout.h"

LlmCode
llm_infer_transpose(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	int axes[LLM_MAX_DIMS], n = llm_attr_integers(node, "axes", axes);
	unsigned used = 0;

	llm_infer_copy_shape(node, x);
	if (llm_attr(node, "axes") == NULL)
	{
		if (x->ndim >= 2)
		{
			node->shape[x->ndim - 1] = x->shape[x->ndim - 2];
			node->shape[x->ndim - 2] = x->shape[x->ndim - 1];
		}
		return LLM_OK;
	}
	for (int i = 0; i < n && n == x->ndim; i++)
	{
		int axis = axes[i] < 0 ? axes[i] + n : axes[i];

		if (axis < 0 || axis >= n)
			break;
		used |= 1u << axis;
		node->shape[i] = x->shape[axis];
	}
	if (n == x->ndim && used == (1u << n) - 1)
		return LLM_OK;
	return llm_infer_refuse(
		node, x, NULL, "the attribute axes must list each axis once, such as [0, 2, 1]", err);
}

bool
llm_rows_transpose(const LlmExec *exec, const LlmNode *node, int t)
{
	int from = llm_t_axis_of(exec, node, 0);

	return from == -1 || (from >= 0 && t >= 0);
}

static LlmCode
order_of(const LlmNode *node, const LlmValue *x, int *order, LlmError *err)
{
	int axes[LLM_MAX_DIMS], dims[LLM_MAX_DIMS], n = llm_attr_integers(node, "axes", axes);

	return llm_permute_shape(x->ndim, x->dims, n, n < 0 ? NULL : axes, order, dims, err);
}

LlmCode
llm_forward_transpose(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	int order[LLM_MAX_DIMS];
	LlmCode code = llm_run_result(exec, index, err);

	if (code == LLM_OK)
		code = order_of(&exec->model->graph.nodes[index], x, order, err);
	return code == LLM_OK ? llm_permute(x->ndim, x->dims, order, x->floats, llm_result_of(exec, index), err)
						  : code;
}

/* Permutes the gradient by the inverse order. */
static LlmCode
transpose_dx(Back *b, float *dx, LlmError *err)
{
	int order[LLM_MAX_DIMS], inverse[LLM_MAX_DIMS];
	LlmCode code = order_of(b->node, &b->in[0], order, err);

	for (int i = 0; code == LLM_OK && i < b->out->ndim; i++)
		inverse[order[i]] = i;
	return code == LLM_OK ? llm_permute(b->out->ndim, b->out->dims, inverse, b->dy, dx, err) : code;
}

LlmCode
llm_backward_transpose(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, transpose_dx, err);
}
