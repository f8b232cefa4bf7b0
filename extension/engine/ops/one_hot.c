/*
 * y_(i,v) = 1 where v is id_i, else 0.
 */
#include "engine/ops/op.h"
#include "engine/ops/direct.h"

LlmCode
llm_infer_one_hot(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *ids = llm_input_of(graph, node, 0);

	if (ids->ndim == LLM_MAX_DIMS)
		return llm_infer_refuse(node, ids, NULL, "too many dimensions", err);
	llm_infer_copy_shape(node, ids);
	return llm_infer_size(node, &node->shape[node->ndim++], err);
}

bool
llm_rows_one_hot(const LlmExec *exec, const LlmNode *node, int t)
{
	return t < node->ndim - 1 && llm_t_axis_of(exec, node, 0) == t;
}

LlmCode
llm_forward_one_hot(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmValue *out = &exec->slots[index].value;
	int size;
	Buffer *buffer;
	const int32_t *ids;
	LlmCode code = llm_run_result(exec, index, err);

	if (code == LLM_OK)
		code = llm_fill(out->numel, 0, llm_result_of(exec, index), err);
	if (code != LLM_OK)
		return code;
	size = out->dims[out->ndim - 1];
	ids = llm_ids_of(exec, &exec->model->graph.nodes[index], in, size, &buffer, err);
	if (ids == NULL)
		return err->code;
	code = llm_mark_ids(in->numel, ids, size, llm_result_of(exec, index), err);
	llm_buffer_drop(exec, buffer);
	return code;
}
