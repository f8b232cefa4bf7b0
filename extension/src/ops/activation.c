/*
 * The activation functions sigmoid and SiLU over tensors, and their gradients.
 */
#include "postgres.h"

#include "fmgr.h"

#include "engine/gradients.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/ops/kernels_sql.h"
#include "src/tensor/tensor.h"

/* dy times the derivative of f, which reads only one of x and y: the first argument. */
static Tensor *
Slope(FunctionCallInfo fcinfo, LlmUnary f, const char *op, const char *given)
{
	Tensor *x = PG_GETARG_TENSOR_SHAPE(0), *dy = PG_GETARG_TENSOR_SHAPE(1), *dx;
	LlmError err = {0};

	CheckShape(op, "dy", dy, given, x->ndim, x->dims);
	x = PG_GETARG_TENSOR_REST(0, x);
	dy = PG_GETARG_TENSOR_REST(1, dy);
	dx = TensorNew(x->ndim, x->dims);
	LLM_CHECK(llm_unary_backward(
				  f, TensorNumel(x), TENSOR_DATA(x), TENSOR_DATA(x), TENSOR_DATA(dy), TENSOR_DATA(dx), &err),
		&err);
	TensorCanonicalize(dx);
	return dx;
}

/* given: the argument of the gradient function, the input x or the value y */
#define ACTIVATION(name, f, given)                                                                           \
	PG_FUNCTION_INFO_V1(pg_llm_##name);                                                                      \
	PG_FUNCTION_INFO_V1(pg_llm_##name##_backward);                                                           \
	Datum pg_llm_##name(PG_FUNCTION_ARGS)                                                                    \
	{                                                                                                        \
		PG_RETURN_TENSOR(TensorUnary(f, #name, PG_GETARG_TENSOR(0)));                                        \
	}                                                                                                        \
	Datum pg_llm_##name##_backward(PG_FUNCTION_ARGS)                                                         \
	{                                                                                                        \
		PG_RETURN_TENSOR(Slope(fcinfo, f, #name "_backward", given));                                        \
	}

ACTIVATION(sigmoid, LLM_SIGMOID, "y")
ACTIVATION(silu, LLM_SILU, "x")
