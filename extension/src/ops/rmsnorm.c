/*
 * rmsnorm over tensors: x (…,C) / sqrt(mean(x^2) + eps) * weight (C), and its gradients.
 */
#include "postgres.h"

#include "fmgr.h"

#include "engine/ops/direct.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/ops/kernels_sql.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(pg_llm_rmsnorm);
PG_FUNCTION_INFO_V1(pg_llm_rmsnorm_backward);

Datum
pg_llm_rmsnorm(PG_FUNCTION_ARGS)
{
	Tensor *x = PG_GETARG_TENSOR_SHAPE(0), *weight = PG_GETARG_TENSOR_SHAPE(1), *out;
	LlmError err = {0};
	int C;

	if (pg_llm_autograd)
		TapeStart();
	LLM_CHECK(llm_rmsnorm_shape(x->ndim, x->dims, weight->ndim, weight->dims, &err), &err);
	x = PG_GETARG_TENSOR_REST(0, x);
	weight = PG_GETARG_TENSOR_REST(1, weight);
	C = x->dims[x->ndim - 1];
	out = TensorNew(x->ndim, x->dims);
	LLM_CHECK(llm_rmsnorm(C ? TensorNumel(x) / C : 0, C, TENSOR_DATA(x), TENSOR_DATA(weight),
				  PG_GETARG_FLOAT4(2), TENSOR_DATA(out), &err),
		&err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
	{
		LlmAttr attr = TapeAttrFloat("eps", PG_GETARG_FLOAT4(2));

		TapeRecord(out, "rmsnorm", 2, (Tensor *[]){x, weight}, 1, &attr);
	}
	PG_RETURN_TENSOR(out);
}

/* (dx, dweight) */
Datum
pg_llm_rmsnorm_backward(PG_FUNCTION_ARGS)
{
	Tensor *x = PG_GETARG_TENSOR_SHAPE(0), *dy = PG_GETARG_TENSOR_SHAPE(1);
	Tensor *weight = PG_GETARG_TENSOR_SHAPE(2), *out[2];
	LlmError err = {0};
	int C;

	LLM_CHECK(llm_rmsnorm_shape(x->ndim, x->dims, weight->ndim, weight->dims, &err), &err);
	CheckShape("rmsnorm_backward", "dy", dy, "x", x->ndim, x->dims);
	CheckRow(2, (Tensor *[]){x, weight});
	x = PG_GETARG_TENSOR_REST(0, x);
	dy = PG_GETARG_TENSOR_REST(1, dy);
	weight = PG_GETARG_TENSOR_REST(2, weight);
	C = x->dims[x->ndim - 1];
	out[0] = TensorNew(x->ndim, x->dims);
	out[1] = TensorNewZero(1, &C);
	LLM_CHECK(llm_rmsnorm_backward(C ? TensorNumel(x) / C : 0, C, TENSOR_DATA(x), TENSOR_DATA(weight),
				  PG_GETARG_FLOAT4(3), TENSOR_DATA(dy), TENSOR_DATA(out[0]), TENSOR_DATA(out[1]),
				  ContextAllocator(), &err),
		&err);
	return TensorRow(fcinfo, out, 2);
}
