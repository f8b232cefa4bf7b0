/*
 * Functions of each element: y = f(x), dx = dy f'(x). Each function is a line in op_facts.h and a kernel.
 */
#include <string.h>

#include "engine/ops/op.h"
#include "engine/gradients.h"

LlmCode
llm_infer_gelu(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmAttr *how = llm_attr(node, "approximate");

	if (how && how->kind == LLM_ATTR_TEXT && strcmp(how->text, "tanh") && strcmp(how->text, "none"))
		return llm_attr_refuse(node, "approximate", "\"tanh\" or \"none\" (the exact one, by erf)", err);
	return llm_infer_same(graph, node, err);
}

LlmUnary
llm_unary_of(const LlmNode *node)
{
	const LlmAttr *how = llm_attr(node, "approximate"); /* of GELU */

	if (how && how->text && strcmp(how->text, "none") == 0)
		return LLM_GELU_ERF;
	return llm_op_facts[node->op].kernel;
}

LlmCode
llm_forward_unary(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	LlmUnary f = llm_unary_of(&exec->model->graph.nodes[index]);
	LlmCode code = llm_run_result_over(exec, index, 0, x, err);

	if (code != LLM_OK)
		return code;
	return llm_unary(f, x->numel, x->floats, llm_result_of(exec, index), err);
}

static LlmCode
unary_dx(Back *b, float *dx, LlmError *err)
{
	/* what the slope does not depend on may have been freed; the kernel loads it all the same */
	const float *x = b->in[0].floats ? b->in[0].floats : b->dy, *y = b->out->floats ? b->out->floats : b->dy;

	return llm_unary_backward(llm_unary_of(b->node), b->in[0].numel, x, y, b->dy, dx, err);
}

LlmCode
llm_backward_unary(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, unary_dx, err);
}
