/*
 * add, sub, mul, div: z = x op y, shapes broadcast. Gradients are summed over the axes that were broadcast.
 */
#include "engine/ops/op.h"
#include "engine/broadcast.h"
#include "engine/gradients.h"

LlmCode
llm_infer_binary(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *a = llm_input_of(graph, node, 0), *b = llm_input_of(graph, node, 1);

	if (llm_infer_broadcast(graph, a->ndim, a->shape, b->ndim, b->shape, &node->ndim, node->shape))
		return LLM_OK;
	llm_infer_refuse(node, a, b, "the shapes do not broadcast", err);
	return llm_hint(err, "Dimensions are matched from the right; each pair must be equal or one of them 1.");
}

LlmCode
llm_forward_binary(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmValue *x = &in[0], *y = &in[1];
	LlmBinary op = llm_op_facts[exec->model->graph.nodes[index].op].kernel;
	bool over_y = y->numel > x->numel;
	LlmCode code = llm_run_result_over(exec, index, over_y ? 1 : 0, over_y ? y : x, err);

	if (code != LLM_OK)
		return code;
	return llm_broadcast_binary(
		op, x->ndim, x->dims, x->floats, y->ndim, y->dims, y->floats, llm_result_of(exec, index), err);
}

LlmCode
llm_backward_add(Back *b, LlmError *err)
{
	LlmCode code = llm_back_add(b, 0, b->dy, err);

	return code == LLM_OK ? llm_back_add(b, 1, b->dy, err) : code;
}

/* Adds (dz op factor) to the gradient of input i, negated if `negative`; without a factor, -dz. */
static LlmCode
add_product(
	Back *b, int i, const float *dz, LlmBinary op, const LlmValue *factor, bool negative, LlmError *err)
{
	Buffer *terms;
	LlmCode code;

	if (!llm_back_wants(b, i))
		return LLM_OK;
	terms = llm_buffer_take(b->exec, b->out->numel, err);
	if (terms == NULL)
		return err->code;
	code = factor ? llm_broadcast_binary(op, b->out->ndim, b->out->dims, dz, factor->ndim, factor->dims,
						factor->floats, terms->data, err)
				  : llm_unary(LLM_NEG, b->out->numel, dz, terms->data, err);
	if (code == LLM_OK && factor && negative)
		code = llm_unary(LLM_NEG, b->out->numel, terms->data, terms->data, err);
	if (code == LLM_OK)
		code = llm_back_add(b, i, terms->data, err);
	llm_buffer_drop(b->exec, terms);
	return code;
}

LlmCode
llm_backward_sub(Back *b, LlmError *err)
{
	LlmCode code = llm_back_add(b, 0, b->dy, err);

	return code == LLM_OK ? add_product(b, 1, b->dy, LLM_MUL, NULL, true, err) : code;
}

LlmCode
llm_backward_mul(Back *b, LlmError *err)
{
	LlmCode code = add_product(b, 0, b->dy, LLM_MUL, &b->in[1], false, err);

	return code == LLM_OK ? add_product(b, 1, b->dy, LLM_MUL, &b->in[0], false, err) : code;
}

/* z = x / y: dx = dz / y, dy = -(dz z) / y */
LlmCode
llm_backward_div(Back *b, LlmError *err)
{
	LlmCode code = add_product(b, 0, b->dy, LLM_DIV, &b->in[1], false, err);
	Buffer *dz_z;

	if (code != LLM_OK || !llm_back_wants(b, 1))
		return code;
	dz_z = llm_buffer_take(b->exec, b->out->numel, err);
	if (dz_z == NULL)
		return err->code;
	code =
		llm_binary(LLM_MUL, 1, b->out->numel, b->dy, true, true, b->out->floats, true, true, dz_z->data, err);
	if (code == LLM_OK)
		code = add_product(b, 1, dz_z->data, LLM_DIV, &b->in[1], true, err);
	llm_buffer_drop(b->exec, dz_z);
	return code;
}
