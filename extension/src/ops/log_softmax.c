/*
 * log_softmax over tensors, x - log(sum(exp(x))) along an axis, and its gradient.
 */
#include "postgres.h"

#include "fmgr.h"

#include "engine/broadcast.h"
#include "engine/ops/direct.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/ops/kernels_sql.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(pg_llm_log_softmax);
PG_FUNCTION_INFO_V1(pg_llm_log_softmax_backward);

Datum
pg_llm_log_softmax(PG_FUNCTION_ARGS)
{
	Tensor *given = PG_GETARG_TENSOR_SHAPE(0), *x, *out;
	LlmError err = {0};
	int axis, n;

	if (pg_llm_autograd)
		TapeStart();
	LLM_CHECK(llm_axis("log_softmax", given->ndim, given->dims, PG_GETARG_INT32(1), &axis, &err), &err);
	given = PG_GETARG_TENSOR_REST(0, given);
	x = SwapWithLast(given, axis);
	n = x->dims[x->ndim - 1];
	out = TensorNew(x->ndim, x->dims);
	LLM_CHECK(llm_log_softmax(n ? TensorNumel(x) / n : 0, n, TENSOR_DATA(x), TENSOR_DATA(out), &err), &err);
	out = SwapWithLast(out, axis);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
	{
		LlmAttr attr = TapeAttr("axis", axis);

		TapeRecord(out, "log_softmax", 1, &given, axis < given->ndim - 1, &attr);
	}
	PG_RETURN_TENSOR(out);
}

/* dx from y = log_softmax(x, axis) and dy */
Datum
pg_llm_log_softmax_backward(PG_FUNCTION_ARGS)
{
	Tensor *y = PG_GETARG_TENSOR_SHAPE(0), *dy = PG_GETARG_TENSOR_SHAPE(1), *dx;
	LlmError err = {0};
	int axis, n;

	LLM_CHECK(llm_axis("log_softmax", y->ndim, y->dims, PG_GETARG_INT32(2), &axis, &err), &err);
	CheckShape("log_softmax_backward", "dy", dy, "y", y->ndim, y->dims);
	y = SwapWithLast(PG_GETARG_TENSOR_REST(0, y), axis);
	dy = SwapWithLast(PG_GETARG_TENSOR_REST(1, dy), axis);
	n = y->dims[y->ndim - 1];
	dx = TensorNew(y->ndim, y->dims);
	LLM_CHECK(llm_log_softmax_backward(
				  n ? TensorNumel(y) / n : 0, n, TENSOR_DATA(y), TENSOR_DATA(dy), TENSOR_DATA(dx), &err),
		&err);
	dx = SwapWithLast(dx, axis);
	TensorCanonicalize(dx);
	PG_RETURN_TENSOR(dx);
}
