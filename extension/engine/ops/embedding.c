/*
 * out (…,C): the row of the table (V,C) for each id.
 */
#include "engine/ops/op.h"
#include "engine/gradients.h"
#include "engine/parallel.h"
#include "engine/pool.h"

LlmCode
llm_infer_embedding(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *ids = llm_input_of(graph, node, 0), *table = llm_input_of(graph, node, 1);

	if (!ids->integers)
		return llm_infer_refuse(
			node, ids, table, "the first input must be whole numbers (an input node of dtype int)", err);
	if (table->ndim != 2)
		return llm_infer_refuse(node, ids, table, "the table must have two dimensions", err);
	if (ids->ndim == LLM_MAX_DIMS)
		return llm_infer_refuse(node, ids, table, "too many dimensions", err);
	llm_infer_copy_shape(node, ids);
	node->shape[node->ndim++] = table->shape[1];
	return LLM_OK;
}

bool
llm_rows_embedding(const LlmExec *exec, const LlmNode *node, int t)
{
	return llm_t_axis_of(exec, node, 1) == -1;
}

LlmCode
llm_forward_embedding(LlmExec *exec, int index, const LlmValue *ids, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	int table = node->inputs[1];
	const LlmValue *rows = &exec->slots[table].value;
	const LlmWeight *w = &exec->model->weights[table];
	int V = rows->dims[0], C = rows->dims[1];
	LlmCode code = llm_run_result(exec, index, err);
	float *out;

	if (code != LLM_OK)
		return code;
	out = llm_result_of(exec, index);
	for (size_t i = 0; i < ids->numel && code == LLM_OK; i++, out += C)
	{
		int id = ids->integers[i];

		if (id < 0 || id >= V)
		{
			llm_fail(err, LLM_RANGE,
				"\"%s\": number %d at place %zu of \"%s\" is outside the table's %d rows", node->name, id,
				i + 1, node->input_names[0], V);
			return llm_hint(err, "Ids run from 0 to %d.", V - 1);
		}
		if (rows->floats)
			code = llm_copy(C, rows->floats + (size_t) id * C, out, err);
		else if ((code = llm_poll(err)) == LLM_OK) /* (V,C) kept as panels of its transpose, for the logits */
			llm_widen_column(w->format, C, id, w->panels, out);
	}
	return code;
}

LlmCode
llm_backward_embedding(Back *b, LlmError *err)
{
	Buffer *buffer;
	float *table;
	LlmCode code;

	if (!llm_back_wants(b, 1))
		return LLM_OK;
	if (b->in[1].floats == NULL &&
		b->exec->model->weights) /* a weight kept in panels only has its gradient in panels, too */
	{
		table = b->grads[b->node->inputs[1]];
		return table ? llm_embedding_backward_panels(
						   b->in[0].numel, b->in[1].dims[1], b->in[0].integers, b->dy, table, err)
					 : LLM_OK;
	}
	table = llm_back_open(b, 1, false, &buffer, err);
	if (table == NULL)
		return err->code;
	code = llm_embedding_backward(b->in[0].numel, b->in[1].dims[1], b->in[0].integers, b->dy, table, err);
	return llm_back_close(b, 1, buffer, code, err);
}

void
llm_cost_embedding(const LlmNode *node, const LlmValue *x, size_t read, const LlmValue *value, int64_t *flops,
	int64_t *bytes)
{
	*flops = 0;
	*bytes =
		(int64_t) ((x->numel + 2 * value->numel) * sizeof(float)); /* of the table only the gathered rows */
}
