/*
 * softmax, log_softmax and cumsum over tensors, along an axis, and the gradients of the first two.
 */
#include "postgres.h"

#include "fmgr.h"

#include "engine/broadcast.h"
#include "engine/gradients.h"
#include "engine/ops/direct.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/ops/kernels_sql.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(pg_llm_softmax);
PG_FUNCTION_INFO_V1(pg_llm_softmax_backward);
PG_FUNCTION_INFO_V1(pg_llm_log_softmax);
PG_FUNCTION_INFO_V1(pg_llm_log_softmax_backward);
PG_FUNCTION_INFO_V1(tensor_cumsum);

/* Of rows of n elements. */
typedef LlmCode (*Forward)(size_t rows, size_t n, const float *x, float *out, LlmError *err);
typedef LlmCode (*Backward)(size_t rows, size_t n, const float *y, const float *dy, float *dx, LlmError *err);

static Datum
AlongAxis(FunctionCallInfo fcinfo, const char *op, Forward f)
{
	Tensor *given = PG_GETARG_TENSOR_SHAPE(0), *x, *out;
	LlmError err = {0};
	int axis, n;

	if (pg_llm_autograd)
		TapeStart();
	LLM_CHECK(llm_axis(op, given->ndim, given->dims, PG_GETARG_INT32(1), &axis, &err), &err);
	given = PG_GETARG_TENSOR_REST(0, given);
	x = SwapWithLast(given, axis);
	n = x->dims[x->ndim - 1];
	out = TensorNew(x->ndim, x->dims);
	if (n > 0)
		LLM_CHECK(f(TensorNumel(x) / n, n, TENSOR_DATA(x), TENSOR_DATA(out), &err), &err);
	out = SwapWithLast(out, axis);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
	{
		LlmAttr attr = TapeAttr("axis", axis);

		TapeRecord(out, op, 1, &given, axis < given->ndim - 1, &attr);
	}
	PG_RETURN_TENSOR(out);
}

/* dx from y = op(x, axis) and dy; function is named in errors */
static Datum
BackAlongAxis(FunctionCallInfo fcinfo, const char *op, const char *function, Backward f)
{
	Tensor *y = PG_GETARG_TENSOR_SHAPE(0), *dy = PG_GETARG_TENSOR_SHAPE(1), *dx;
	LlmError err = {0};
	int axis, n;

	LLM_CHECK(llm_axis(op, y->ndim, y->dims, PG_GETARG_INT32(2), &axis, &err), &err);
	CheckShape(function, "dy", dy, "y", y->ndim, y->dims);
	y = SwapWithLast(PG_GETARG_TENSOR_REST(0, y), axis);
	dy = SwapWithLast(PG_GETARG_TENSOR_REST(1, dy), axis);
	n = y->dims[y->ndim - 1];
	dx = TensorNew(y->ndim, y->dims);
	if (n > 0)
		LLM_CHECK(f(TensorNumel(y) / n, n, TENSOR_DATA(y), TENSOR_DATA(dy), TENSOR_DATA(dx), &err), &err);
	dx = SwapWithLast(dx, axis);
	TensorCanonicalize(dx);
	PG_RETURN_TENSOR(dx);
}

static LlmCode
Softmax(size_t rows, size_t n, const float *x, float *out, LlmError *err)
{
	return llm_softmax(rows, n, 1, x, out, err);
}

static LlmCode
SoftmaxBackward(size_t rows, size_t n, const float *y, const float *dy, float *dx, LlmError *err)
{
	return llm_softmax_backward(rows, n, 1, y, dy, dx, err);
}

Datum
pg_llm_softmax(PG_FUNCTION_ARGS)
{
	return AlongAxis(fcinfo, "softmax", Softmax);
}

Datum
pg_llm_softmax_backward(PG_FUNCTION_ARGS)
{
	return BackAlongAxis(fcinfo, "softmax", "softmax_backward", SoftmaxBackward);
}

Datum
pg_llm_log_softmax(PG_FUNCTION_ARGS)
{
	return AlongAxis(fcinfo, "log_softmax", llm_log_softmax);
}

Datum
pg_llm_log_softmax_backward(PG_FUNCTION_ARGS)
{
	return BackAlongAxis(fcinfo, "log_softmax", "log_softmax_backward", llm_log_softmax_backward);
}

Datum
tensor_cumsum(PG_FUNCTION_ARGS)
{
	return AlongAxis(fcinfo, "cumsum", llm_cumsum);
}
