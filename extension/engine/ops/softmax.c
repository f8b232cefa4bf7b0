/*
 * y = exp(x - max x) / sum over each row of elements along an axis; dx = y (dy - sum(dy y)).
 */
#include "engine/ops/op.h"
#include "engine/gradients.h"

static LlmCode
softmax(size_t rows, size_t n, const float *x, float *out, LlmError *err)
{
	return llm_softmax(rows, n, 1, x, out, err);
}

static LlmCode
softmax_backward(size_t rows, size_t n, const float *y, const float *dy, float *dx, LlmError *err)
{
	return llm_softmax_backward(rows, n, 1, y, dy, dx, err);
}

LlmCode
llm_forward_softmax(LlmExec *exec, int index, const LlmValue *x, LlmError *err)
{
	return llm_forward_along(exec, index, x, softmax, err);
}

static LlmCode
softmax_dx(Back *b, float *dx, LlmError *err)
{
	return llm_back_along(b, softmax_backward, dx, err);
}

LlmCode
llm_backward_softmax(Back *b, LlmError *err)
{
	return llm_back_write(b, 0, softmax_dx, err);
}
