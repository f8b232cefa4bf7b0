/*
 * Gradients of elementwise operations and matrix products. z = x op y with gradient dz hands dx and dy on,
 * summed over axes that were broadcast.
 */
#include "engine/backprop.h"
#include "engine/broadcast.h"
#include "engine/broadcast_backward.h"
#include "engine/gradients.h"

/* x (M,K) @ a weight (K,N) that is kept in panels only, and so is its gradient; else NULL. */
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
llm_back_matmul(Back *b, LlmError *err)
{
	const LlmValue *x = &b->in[0], *w = &b->in[1];
	Buffer *buffer;
	LlmCode code;
	float *dw;
	int M, N, K;

	if (packed_weight(b, &M, &N, &K))
	{
		dw = b->grads[b->node->inputs[1]];
		if (dw &&
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

LlmCode
llm_back_add(Back *b, LlmError *err)
{
	LlmCode code = llm_back_give(b, 0, b->dy, err);

	return code == LLM_OK ? llm_back_give(b, 1, b->dy, err) : code;
}

/* Hands (dz op factor) to input i, negated where `negative`; without a factor -dz. */
static LlmCode
give_product(
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
		code = llm_back_give(b, i, terms->data, err);
	llm_buffer_drop(b->exec, terms);
	return code;
}

LlmCode
llm_back_sub(Back *b, LlmError *err)
{
	LlmCode code = llm_back_give(b, 0, b->dy, err);

	return code == LLM_OK ? give_product(b, 1, b->dy, LLM_MUL, NULL, true, err) : code;
}

LlmCode
llm_back_mul(Back *b, LlmError *err)
{
	LlmCode code = give_product(b, 0, b->dy, LLM_MUL, &b->in[1], false, err);

	return code == LLM_OK ? give_product(b, 1, b->dy, LLM_MUL, &b->in[0], false, err) : code;
}

/* z = x / y: dx = dz / y, dy = -(dz z) / y */
LlmCode
llm_back_div(Back *b, LlmError *err)
{
	LlmCode code = give_product(b, 0, b->dy, LLM_DIV, &b->in[1], false, err);
	Buffer *dz_z;

	if (code != LLM_OK || !llm_back_wants(b, 1))
		return code;
	dz_z = llm_buffer_take(b->exec, b->out->numel, err);
	if (dz_z == NULL)
		return err->code;
	code =
		llm_binary(LLM_MUL, 1, b->out->numel, b->dy, true, true, b->out->floats, true, true, dz_z->data, err);
	if (code == LLM_OK)
		code = give_product(b, 1, dz_z->data, LLM_DIV, &b->in[1], true, err);
	llm_buffer_drop(b->exec, dz_z);
	return code;
}

static LlmCode
unary_dx(Back *b, float *dx, LlmError *err)
{
	return llm_unary_backward(
		llm_unary_of(b->node), b->in[0].numel, b->in[0].floats, b->out->floats, b->dy, dx, err);
}

LlmCode
llm_back_unary(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, unary_dx, err);
}
