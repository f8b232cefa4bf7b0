/*
 * z = condition ? x : y, element by element; shapes broadcast. The gradient flows to the chosen elements
 * only, and the condition has none. Nothing is multiplied, so that a NaN that is not chosen has no effect.
 */
#include "engine/ops/op.h"
#include "engine/broadcast.h"

LlmCode
llm_infer_where(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *c = llm_input_of(graph, node, 0), *x = llm_input_of(graph, node, 1),
				  *y = llm_input_of(graph, node, 2);
	LlmDim both[LLM_MAX_DIMS];
	int ndim;

	if (!llm_infer_broadcast(graph, x->ndim, x->shape, y->ndim, y->shape, &ndim, both))
		llm_infer_refuse(node, x, y, "the shapes do not broadcast", err);
	else if (!llm_infer_broadcast(graph, c->ndim, c->shape, ndim, both, &node->ndim, node->shape))
		llm_infer_refuse(node, c, x->ndim < y->ndim ? y : x, "the shapes do not broadcast", err);
	else
		return LLM_OK;
	return llm_hint(err, "Dimensions are matched from the right; each pair must be equal or one of them 1.");
}

static LlmOperand
operand(const LlmValue *v)
{
	return (LlmOperand){v->ndim, v->dims, v->floats};
}

LlmCode
llm_forward_where(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	LlmCode code = llm_run_result_over(exec, index, 1, &in[1], err);

	if (code != LLM_OK)
		return code;
	return llm_broadcast_select(
		(LlmOperand[]){operand(&in[0]), operand(&in[1]), operand(&in[2])}, llm_result_of(exec, index), err);
}

/* Adds dz, where the condition chose input i, to the gradient of that input. */
static LlmCode
add_chosen(Back *b, int i, LlmError *err)
{
	static const float zero = 0;
	const LlmOperand dz = {b->out->ndim, b->out->dims, b->dy}, none = {0, NULL, &zero};
	Buffer *terms;
	LlmCode code;

	if (!llm_back_wants(b, i))
		return LLM_OK;
	terms = llm_buffer_take(b->exec, b->out->numel, err);
	if (terms == NULL)
		return err->code;
	code = llm_broadcast_select(
		(LlmOperand[]){operand(&b->in[0]), i == 1 ? dz : none, i == 1 ? none : dz}, terms->data, err);
	if (code == LLM_OK)
		code = llm_back_add(b, i, terms->data, err);
	llm_buffer_drop(b->exec, terms);
	return code;
}

LlmCode
llm_backward_where(Back *b, LlmError *err)
{
	LlmCode code = add_chosen(b, 1, err);

	return code == LLM_OK ? add_chosen(b, 2, err) : code;
}
