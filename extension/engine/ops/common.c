/*
 * Rules that several operations share.
 */
#include "engine/ops/op.h"

LlmCode
llm_infer_same(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	(void) err;
	llm_infer_take(node, llm_input_of(graph, node, 0));
	return LLM_OK;
}

/* One axis of the input is normalised over. */
LlmCode
llm_infer_along_axis(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0);
	int axis;

	if (x->ndim == 0)
		return llm_infer_refuse(node, x, NULL, "a scalar has no axis to normalise over", err);
	if (llm_infer_axis(node, x, x->ndim, -1, &axis, err) != LLM_OK)
		return err->code;
	return llm_infer_same(graph, node, err);
}

int
llm_t_axis_of(const LlmExec *exec, const LlmNode *node, int i)
{
	return exec->slots[node->inputs[i]].t_axis;
}

bool
llm_rows_always(const LlmExec *exec, const LlmNode *node, int t)
{
	return true;
}

bool
llm_rows_never(const LlmExec *exec, const LlmNode *node, int t)
{
	return false;
}

/* Elements of a row meet elements of the same position: every input has as many axes after T as the node. */
bool
llm_rows_aligned(const LlmExec *exec, const LlmNode *node, int t)
{
	for (int i = 0; i < node->n_inputs; i++)
	{
		int from = llm_t_axis_of(exec, node, i);

		if (from != -1 &&
			(from < 0 || node->ndim - t != exec->model->graph.nodes[node->inputs[i]].ndim - from))
			return false;
	}
	return true;
}

/* The runs along the attribute axis must not run along T. */
bool
llm_rows_along_axis(const LlmExec *exec, const LlmNode *node, int t)
{
	return t != llm_axis_of(node, node->ndim, -1);
}

bool
llm_rows_last_axis(const LlmExec *exec, const LlmNode *node, int t)
{
	return t < node->ndim - 1;
}

/* Nothing goes back to the inputs. */
LlmCode
llm_backward_none(Back *b, LlmError *err)
{
	return LLM_OK;
}

void
llm_cost_counted(const LlmNode *node, const LlmValue *x, size_t read, const LlmValue *value, int64_t *flops,
	int64_t *bytes)
{
	const LlmOpFacts *facts = &llm_op_facts[node->op];

	*flops = facts->per_value * (int64_t) value->numel + facts->per_input * (int64_t) x->numel;
	*bytes = (int64_t) ((read + value->numel) * sizeof(float));
}
