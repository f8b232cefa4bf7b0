/*
 * Tensors created from a shape alone.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"

#include "engine/ops/direct.h"
#include "engine/sql_layers.h"
#include "src/base/errors.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(tensor_zeros);
PG_FUNCTION_INFO_V1(tensor_ones);
PG_FUNCTION_INFO_V1(tensor_eye);
PG_FUNCTION_INFO_V1(tensor_randn);
PG_FUNCTION_INFO_V1(tensor_uniform);
PG_FUNCTION_INFO_V1(tensor_randint);

Datum
tensor_zeros(PG_FUNCTION_ARGS)
{
	int dims[LLM_MAX_DIMS];
	int ndim = ShapeFromArray(PG_GETARG_DATUM(0), dims);

	PG_RETURN_TENSOR(TensorNewZero(ndim, dims));
}

Datum
tensor_ones(PG_FUNCTION_ARGS)
{
	int dims[LLM_MAX_DIMS];
	int ndim = ShapeFromArray(PG_GETARG_DATUM(0), dims);

	PG_RETURN_TENSOR(TensorNewFilled(ndim, dims, 1.0f));
}

Datum
tensor_eye(PG_FUNCTION_ARGS)
{
	int n = PG_GETARG_INT32(0);
	Tensor *t = TensorNewZero(2, (int[]){n, n});

	for (int64 i = 0; i < n; i++)
		TENSOR_DATA(t)[i * n + i] = 1.0f;
	PG_RETURN_TENSOR(t);
}

Datum
tensor_randn(PG_FUNCTION_ARGS)
{
	int dims[LLM_MAX_DIMS];
	int ndim = ShapeFromArray(PG_GETARG_DATUM(0), dims);
	LlmStream stream = llm_stream((uint64) PG_GETARG_INT64(1), "randn", 0, 0);
	LlmError err = {0};
	Tensor *t = TensorNew(ndim, dims);

	LLM_CHECK(llm_normal_fill(&stream, 1.0f, TensorNumel(t), TENSOR_DATA(t), &err), &err);
	PG_RETURN_TENSOR(t);
}

Datum
tensor_uniform(PG_FUNCTION_ARGS)
{
	int dims[LLM_MAX_DIMS];
	int ndim = ShapeFromArray(PG_GETARG_DATUM(0), dims);
	LlmStream stream = llm_stream((uint64) PG_GETARG_INT64(1), "uniform", 0, 0);
	float low = FloatFromNumber(PG_GETARG_FLOAT8(2)), high = FloatFromNumber(PG_GETARG_FLOAT8(3));
	LlmError err = {0};
	Tensor *t;

	if (!(low < high && isfinite(low) && isfinite(high)))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("uniform: low is %g and high is %g; low must be below high", low, high)));
	t = TensorNew(ndim, dims);
	LLM_CHECK(llm_uniform_fill(&stream, low, high, TensorNumel(t), TENSOR_DATA(t), &err), &err);
	PG_RETURN_TENSOR(t);
}

Datum
tensor_randint(PG_FUNCTION_ARGS)
{
	int dims[LLM_MAX_DIMS];
	int ndim = ShapeFromArray(PG_GETARG_DATUM(0), dims);
	LlmStream stream = llm_stream((uint64) PG_GETARG_INT64(1), "randint", 0, 0);
	int low = PG_GETARG_INT32(2), high = PG_GETARG_INT32(3);
	LlmError err = {0};
	Tensor *t;

	LLM_CHECK(llm_randint_check("randint", low, high, &err), &err);
	t = TensorNew(ndim, dims);
	LLM_CHECK(llm_randint_fill(&stream, low, high, TensorNumel(t), TENSOR_DATA(t), &err), &err);
	PG_RETURN_TENSOR(t);
}
