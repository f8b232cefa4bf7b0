/*
 * out (…,C) = (x - mean) / sqrt(var + eps) * gamma + beta over the last axis (Ba et al., 2016).
 */
#include "engine/ops/op.h"
#include "engine/gradients.h"

LlmCode
llm_infer_layernorm(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);

	for (int i = 1; i < 3; i++)
	{
		const LlmNode *w = llm_input_of(graph, node, i);

		if (x->ndim == 0 || w->ndim != 1 || !llm_dim_same(graph, &x->shape[x->ndim - 1], &w->shape[0]))
			return llm_infer_refuse(node, x, w, "weight and bias must have the last dimension's size", err);
	}
	return llm_infer_same(graph, node, err);
}

LlmCode
llm_forward_layernorm(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	int C = x->dims[x->ndim - 1];
	LlmCode code = llm_run_result(exec, index, err);

	if (code != LLM_OK || C == 0)
		return code;
	return llm_layernorm(x->numel / C, C, x->floats, exec->slots[node->inputs[1]].value.floats,
		exec->slots[node->inputs[2]].value.floats, (float) llm_attr_number(node, "eps", 1e-5),
		llm_result_of(exec, index), err);
}

LlmCode
llm_backward_layernorm(Back *b, LlmError *err)
{
	int C = b->in[0].dims[b->in[0].ndim - 1];
	Buffer *buffers[3];
	float *to[3];
	LlmCode code = llm_back_open_all(b, 3, to, buffers, err);

	if (code == LLM_OK && C > 0)
		code = llm_layernorm_backward(b->in[0].numel / C, C, b->in[0].floats, b->in[1].floats,
			(float) llm_attr_number(b->node, "eps", 1e-5), b->dy, to[0], to[1], to[2], b->exec->memory, err);
	return llm_back_close_all(b, 3, buffers, code, err);
}
