/*
 * The type modifier: a declared shape such as tensor(50257,768), packed into one non-negative int32.
 *
 * Two bits hold the number of dimensions minus one; 29 bits hold each dimension minus one, so that the
 * largest fits and 0 (a column that could never hold an element) is not representable:
 *   1-D 29 bits, 2-D 16+13, 3-D 9+10+10, 4-D 5+6+9+9.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"

#include "src/base/errors.h"
#include "src/tensor/tensor.h"

#define MAX_TYPMOD_DIMS 4

static const int width[MAX_TYPMOD_DIMS][MAX_TYPMOD_DIMS] = {{29}, {16, 13}, {9, 10, 10}, {5, 6, 9, 9}};

PG_FUNCTION_INFO_V1(tensor_typmod_in);
PG_FUNCTION_INFO_V1(tensor_typmod_out);
PG_FUNCTION_INFO_V1(tensor_coerce);

int32
TypmodFromShape(int ndim, const int *dims, LlmError *err)
{
	uint32 packed = 0;

	if (ndim < 1 || ndim > MAX_TYPMOD_DIMS)
	{
		llm_fail(err, LLM_LIMIT, "a declared shape has 1 to %d dimensions, not %d", MAX_TYPMOD_DIMS, ndim);
		llm_hint(err, "Use a plain tensor column with CHECK (shape(c) = ARRAY[...]).");
		return -1;
	}
	for (int i = 0; i < ndim; i++)
	{
		int bits = width[ndim - 1][i];

		if (dims[i] < 1)
		{
			llm_fail(err, LLM_INVALID, "dimension %d of a declared shape is %d; it must be at least 1", i,
				dims[i]);
			return -1;
		}
		if (dims[i] > 1 << bits)
		{
			llm_fail(err, LLM_LIMIT, "dimension %d of a declared %d-dimensional shape is at most %d, not %d",
				i, ndim, 1 << bits, dims[i]);
			llm_hint(err, "Use a plain tensor column with CHECK (shape(c) = ARRAY[...]).");
			return -1;
		}
		packed = packed << bits | (uint32) (dims[i] - 1);
	}
	return (int32) ((uint32) (ndim - 1) << 29 | packed);
}

int
TypmodToShape(int32 typmod, int *dims)
{
	int ndim = (typmod >> 29 & 3) + 1;
	uint32 packed = (uint32) typmod;

	for (int i = ndim - 1; i >= 0; i--)
	{
		int bits = width[ndim - 1][i];

		dims[i] = (int) (packed & ((1u << bits) - 1)) + 1;
		packed >>= bits;
	}
	return ndim;
}

bool
TypmodAccepts(int32 typmod, int ndim, const int *dims, LlmError *err)
{
	int declared[LLM_MAX_DIMS];
	int declared_ndim;

	if (typmod < 0)
		return true;
	declared_ndim = TypmodToShape(typmod, declared);
	if (ndim == declared_ndim && memcmp(dims, declared, sizeof(int) * ndim) == 0)
		return true;
	llm_fail(err, LLM_SHAPE, "a tensor of shape %s does not fit tensor%s", ShapeToString(ndim, dims),
		ShapeToString(declared_ndim, declared));
	llm_hint(err, "reshape() and transpose() change a shape; the declared one is part of the column's type.");
	return false;
}

Datum
tensor_typmod_in(PG_FUNCTION_ARGS)
{
	LlmError err = {0};
	int n;
	int32 *dims = ArrayGetIntegerTypmods(PG_GETARG_ARRAYTYPE_P(0), &n);
	int32 typmod = TypmodFromShape(n, dims, &err);

	if (typmod < 0)
		RaiseError(&err);
	PG_RETURN_INT32(typmod);
}

Datum
tensor_typmod_out(PG_FUNCTION_ARGS)
{
	int dims[LLM_MAX_DIMS];
	int32 typmod = PG_GETARG_INT32(0);

	if (typmod < 0)
		PG_RETURN_CSTRING(pstrdup(""));
	PG_RETURN_CSTRING(ShapeToString(TypmodToShape(typmod, dims), dims));
}

/* The cast tensor → tensor(…) checks only the header, so the elements are not even fetched. */
Datum
tensor_coerce(PG_FUNCTION_ARGS)
{
	LlmError err = {0};
	Tensor *header = DatumGetTensorHeader(PG_GETARG_DATUM(0));

	if (!TypmodAccepts(PG_GETARG_INT32(1), header->ndim, header->dims, &err))
		RaiseError(&err);
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}
