/*
 * Functions that choose elements or limit them, over tensors.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"

#include "engine/broadcast.h"
#include "engine/ops/direct.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(tensor_greater);
PG_FUNCTION_INFO_V1(tensor_where);
PG_FUNCTION_INFO_V1(tensor_stop_gradient);
PG_FUNCTION_INFO_V1(tensor_clamp);

/* 1 where a > b, else 0; not recorded, because it has no gradient. */
Datum
tensor_greater(PG_FUNCTION_ARGS)
{
	Tensor *a = PG_GETARG_TENSOR_SHAPE(0), *b = PG_GETARG_TENSOR_SHAPE(1), *out;
	LlmError err = {0};
	int dims[LLM_MAX_DIMS], ndim;

	LLM_CHECK(
		llm_broadcast_shape("greater", "and", a->ndim, a->dims, b->ndim, b->dims, &ndim, dims, &err), &err);
	a = PG_GETARG_TENSOR_REST(0, a);
	b = PG_GETARG_TENSOR_REST(1, b);
	out = TensorNew(ndim, dims);
	LLM_CHECK(llm_broadcast_binary(LLM_GREATER, a->ndim, a->dims, TENSOR_DATA(a), b->ndim, b->dims,
				  TENSOR_DATA(b), TENSOR_DATA(out), &err),
		&err);
	PG_RETURN_TENSOR(out);
}

Datum
tensor_where(PG_FUNCTION_ARGS)
{
	Tensor *in[3], *out;
	LlmOperand operands[3];
	LlmError err = {0};
	int dims[LLM_MAX_DIMS], ndim;

	if (pg_llm_autograd)
		TapeStart();
	for (int i = 0; i < 3; i++)
	{
		in[i] = PG_GETARG_TENSOR_SHAPE(i);
		operands[i] = (LlmOperand){in[i]->ndim, in[i]->dims, NULL};
	}
	LLM_CHECK(llm_select_shape(operands, &ndim, dims, &err), &err);
	for (int i = 0; i < 3; i++)
	{
		in[i] = PG_GETARG_TENSOR_REST(i, in[i]);
		operands[i] = (LlmOperand){in[i]->ndim, in[i]->dims, TENSOR_DATA(in[i])};
	}
	out = TensorNew(ndim, dims);
	LLM_CHECK(llm_broadcast_select(operands, TENSOR_DATA(out), &err), &err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
		TapeRecord(out, "where", 3, in, 0, NULL);
	PG_RETURN_TENSOR(out);
}

/* The same value, which the tape does not know: a constant. */
Datum
tensor_stop_gradient(PG_FUNCTION_ARGS)
{
	PG_RETURN_TENSOR(TensorCopy(PG_GETARG_TENSOR(0)));
}

/* The n-th argument as float32; `otherwise` if it is NULL. */
static float
BoundArgument(FunctionCallInfo fcinfo, int n, float otherwise)
{
	return PG_ARGISNULL(n) ? otherwise : FloatFromNumber(PG_GETARG_FLOAT8(n));
}

Datum
tensor_clamp(PG_FUNCTION_ARGS)
{
	float low = BoundArgument(fcinfo, 1, -INFINITY), high = BoundArgument(fcinfo, 2, INFINITY);
	LlmError err = {0};
	Tensor *x, *out;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (!(low <= high))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("clamp: min is %g and max is %g; min must be at most max", low, high),
						   errhint("NULL, or no argument, leaves a bound open.")));
	x = PG_GETARG_TENSOR(0);
	if (pg_llm_autograd)
		TapeStart();
	out = TensorNew(x->ndim, x->dims);
	LLM_CHECK(llm_clamp(TensorNumel(x), low, high, TENSOR_DATA(x), TENSOR_DATA(out), &err), &err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
	{
		LlmAttr attrs[2];
		int n = 0;

		if (isfinite(low))
			attrs[n++] = TapeAttrFloat("min", low);
		if (isfinite(high))
			attrs[n++] = TapeAttrFloat("max", high);
		TapeRecord(out, "clamp", 1, &x, n, attrs);
	}
	PG_RETURN_TENSOR(out);
}
