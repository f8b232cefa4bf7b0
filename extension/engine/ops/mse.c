/*
 * The mean squared difference of two values of one shape: L = 1/n sum (x - y)^2, dx = 2 (x - y) dL / n, dy =
 * -dx.
 */
#include "engine/ops/direct.h"
#include "engine/ops/op.h"

LlmCode
llm_mse(size_t n, const float *x, const float *y, float *out, const LlmAllocator *memory, LlmError *err)
{
	float *difference = n ? memory->alloc(memory->context, n * sizeof(float)) : NULL;
	double total = 0;
	LlmCode code = LLM_OK;

	if (n && difference == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "mse: no memory for %zu differences", n);
	if (n)
		code = llm_binary(LLM_SUB, 1, n, x, true, true, y, true, true, difference, err);
	if (n && code == LLM_OK)
		code = llm_sum_squares(n, difference, 0, &total, memory, err);
	if (n)
		memory->release(memory->context, difference, n * sizeof(float));
	*out = (float) (total / (double) n);
	return code;
}

LlmCode
llm_infer_mse(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0), *y = llm_input_of(graph, node, 1);
	bool fits = x->ndim == y->ndim;

	for (int i = 0; fits && i < x->ndim; i++)
		fits = llm_dim_same(graph, &x->shape[i], &y->shape[i]);
	if (!fits)
		return llm_infer_refuse(node, x, y, "both must have the same shape", err);
	node->ndim = 0;
	return LLM_OK;
}

LlmCode
llm_forward_mse(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	LlmCode code = llm_run_result(exec, index, err);

	if (code != LLM_OK)
		return code;
	return llm_mse(in[0].numel, in[0].floats, in[1].floats, llm_result_of(exec, index), exec->memory, err);
}

/* to = sign 2 (x - y) dL / n */
static LlmCode
write_gradient(Back *b, double sign, float *to, LlmError *err)
{
	size_t n = b->in[0].numel;
	float scale = (float) (sign * 2 * (double) b->dy[0] / (double) n);
	LlmCode code =
		llm_binary(LLM_SUB, 1, n, b->in[0].floats, true, true, b->in[1].floats, true, true, to, err);

	if (code != LLM_OK)
		return code;
	return llm_binary(LLM_MUL, 1, n, to, true, true, &scale, false, false, to, err);
}

static LlmCode
mse_dx(Back *b, float *dx, LlmError *err)
{
	return write_gradient(b, 1, dx, err);
}

static LlmCode
mse_dy(Back *b, float *dy, LlmError *err)
{
	return write_gradient(b, -1, dy, err);
}

LlmCode
llm_backward_mse(Back *b, LlmError *err)
{
	LlmCode code = llm_back_write(b, 0, mse_dx, err);

	return code == LLM_OK ? llm_back_write(b, 1, mse_dy, err) : code;
}
