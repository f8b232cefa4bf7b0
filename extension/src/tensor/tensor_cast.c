/*
 * Casts between tensors and PostgreSQL's arrays, numbers and bytea.
 */
#include "postgres.h"

#include <math.h>

#include "access/detoast.h"
#include "access/tupmacs.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "src/base/errors.h"
#include "src/base/machine.h"
#include "src/base/memory.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(array_to_tensor);
PG_FUNCTION_INFO_V1(tensor_to_float4_array);
PG_FUNCTION_INFO_V1(tensor_to_float8_array);
PG_FUNCTION_INFO_V1(tensor_to_int4_array);
PG_FUNCTION_INFO_V1(number_to_tensor);
PG_FUNCTION_INFO_V1(tensor_to_float4);
PG_FUNCTION_INFO_V1(tensor_to_float8);
PG_FUNCTION_INFO_V1(tensor_to_int4);
PG_FUNCTION_INFO_V1(bytea_to_tensor);
PG_FUNCTION_INFO_V1(tensor_to_bytea);

/* Elements of type numeric have no fixed width: each starts where the previous one ends. */
static void
CopyNumerics(ArrayType *array, int64 n, float *out)
{
	const char *data = ARR_DATA_PTR(array);

	for (int64 i = 0; i < n; i++)
	{
		LLM_POLL(i);
		out[i] = FloatFromNumber(DatumGetFloat8(DirectFunctionCall1(numeric_float8, PointerGetDatum(data))));
		data = (const char *) att_align_nominal(att_addlength_pointer(data, -1, data), TYPALIGN_INT);
	}
}

static void
CopyElements(ArrayType *array, int64 n, float *out)
{
	const void *data = ARR_DATA_PTR(array);

	switch (ARR_ELEMTYPE(array))
	{
		case FLOAT4OID:
			CopyMemory(out, data, n * sizeof(float));
			break;
		case FLOAT8OID:
			for (int64 i = 0; i < n; i++)
			{
				LLM_POLL(i);
				out[i] = FloatFromNumber(((const float8 *) data)[i]);
			}
			break;
		case INT4OID:
			for (int64 i = 0; i < n; i++)
			{
				LLM_POLL(i);
				out[i] = (float) ((const int32 *) data)[i];
			}
			break;
		case INT8OID:
			for (int64 i = 0; i < n; i++)
			{
				LLM_POLL(i);
				out[i] = (float) ((const int64 *) data)[i];
			}
			break;
		default:
			CopyNumerics(array, n, out);
	}
}

Datum
array_to_tensor(PG_FUNCTION_ARGS)
{
	ArrayType *array = (ArrayType *) DetoastWhole(PG_GETARG_DATUM(0));
	int none = 0;
	int ndim = ARR_NDIM(array);
	Tensor *t;

	if (array_contains_nulls(array))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("a tensor has no NULL elements"),
						   errhint("array_replace(a, NULL, 0) fills them.")));
	t = ndim > 0 ? TensorNew(ndim, ARR_DIMS(array)) : TensorNew(1, &none);
	CopyElements(array, TensorNumel(t), TENSOR_DATA(t));
	TensorCanonicalize(t);
	PG_RETURN_TENSOR(t);
}

/* An array with a tensor's shape (one element for a scalar), elements uninitialised; NULL for a tensor
 * without elements. */
static ArrayType *
NewArray(const Tensor *t, Oid type, Size width)
{
	int64 n = TensorNumel(t);
	int ndim = Max(t->ndim, 1);
	Size size = ARR_OVERHEAD_NONULLS(ndim) + n * width;
	ArrayType *array;

	if (n == 0)
		return NULL;
	if (ndim > MAXDIM)
		ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				errmsg("an array has at most %d dimensions, shape %s has %d", MAXDIM, TensorShape(t), ndim),
				errhint("reshape() it first.")));
	if (n > MaxArraySize || size > MaxAllocSize)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						   errmsg("a tensor of shape %s is too large for an array", TensorShape(t)),
						   errhint("Convert it slice by slice.")));
	ReserveResult(size, LLM_ELEMENT_SHOWN * n);
	array = palloc(size);
	MachineHugePages(array, size);
	memset(array, 0, ARR_OVERHEAD_NONULLS(ndim));
	SET_VARSIZE(array, size);
	array->ndim = ndim;
	array->elemtype = type;
	for (int i = 0; i < ndim; i++)
	{
		ARR_DIMS(array)[i] = t->ndim > 0 ? t->dims[i] : 1;
		ARR_LBOUND(array)[i] = 1;
	}
	return array;
}

Datum
tensor_to_float4_array(PG_FUNCTION_ARGS)
{
	Tensor *t = PG_GETARG_TENSOR_SHAPE(0);
	ArrayType *array = NewArray(t, FLOAT4OID, sizeof(float4));

	if (array == NULL)
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(FLOAT4OID));
	t = PG_GETARG_TENSOR_REST(0, t);
	CopyMemory(ARR_DATA_PTR(array), TENSOR_DATA(t), TensorNumel(t) * sizeof(float));
	PG_RETURN_ARRAYTYPE_P(array);
}

Datum
tensor_to_float8_array(PG_FUNCTION_ARGS)
{
	Tensor *t = PG_GETARG_TENSOR_SHAPE(0);
	ArrayType *array = NewArray(t, FLOAT8OID, sizeof(float8));
	int64 n = TensorNumel(t);

	if (array == NULL)
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(FLOAT8OID));
	t = PG_GETARG_TENSOR_REST(0, t);
	for (int64 i = 0; i < n; i++)
	{
		LLM_POLL(i);
		((float8 *) ARR_DATA_PTR(array))[i] = TENSOR_DATA(t)[i];
	}
	PG_RETURN_ARRAYTYPE_P(array);
}

/* Converts only values that are integers already, such as the indexes of argmax or token ids. Rounding is
 * left to the caller. */
static int32
ExactInteger(float x)
{
	char text[32];

	if (!(x >= -2147483648.0f && x < 2147483648.0f) || x != truncf(x))
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						   errmsg("element %s is not an integer", llm_decimal(x, text))));
	return (int32) x;
}

Datum
tensor_to_int4_array(PG_FUNCTION_ARGS)
{
	Tensor *t = PG_GETARG_TENSOR_SHAPE(0);
	ArrayType *array = NewArray(t, INT4OID, sizeof(int32));
	int64 n = TensorNumel(t);

	if (array == NULL)
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(INT4OID));
	t = PG_GETARG_TENSOR_REST(0, t);
	for (int64 i = 0; i < n; i++)
	{
		LLM_POLL(i);
		((int32 *) ARR_DATA_PTR(array))[i] = ExactInteger(TENSOR_DATA(t)[i]);
	}
	PG_RETURN_ARRAYTYPE_P(array);
}

Datum
number_to_tensor(PG_FUNCTION_ARGS)
{
	PG_RETURN_TENSOR(TensorFromNumber(PG_GETARG_FLOAT8(0)));
}

/* The only element of a tensor of shape (), (1), (1,1)… */
static float
OnlyElement(Datum datum)
{
	Tensor *header = DatumGetTensorHeader(datum);

	if (TensorNumel(header) != 1)
		ereport(ERROR,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				errmsg("a tensor of shape %s has %lld elements, not one", TensorShape(header),
					(long long) TensorNumel(header)),
				errhint(
					"tensor_get(t, i, ...) gives one element, mean(t) or tensor_sum(t) a single number.")));
	return *DatumGetTensorElements(datum, header, 0, 1);
}

Datum
tensor_to_float4(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT4(OnlyElement(PG_GETARG_DATUM(0)));
}

Datum
tensor_to_float8(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(OnlyElement(PG_GETARG_DATUM(0)));
}

Datum
tensor_to_int4(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(ExactInteger(OnlyElement(PG_GETARG_DATUM(0))));
}

Datum
bytea_to_tensor(PG_FUNCTION_ARGS)
{
	int dims[LLM_MAX_DIMS];
	int ndim = ShapeFromArray(PG_GETARG_DATUM(1), dims);
	Size size = TensorDataSize(ndim, dims), given = toast_raw_datum_size(PG_GETARG_DATUM(0)) - VARHDRSZ;
	Tensor *t;

	if (size != given)
		ereport(
			ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					   errmsg("shape %s needs %zu bytes, not %zu", ShapeToString(ndim, dims), size, given),
					   errhint("Elements are little-endian float32, 4 bytes each.")));
	t = TensorNew(ndim, dims);
	CopyMemory(TENSOR_DATA(t), VARDATA(DetoastWhole(PG_GETARG_DATUM(0))), size);
	TensorCanonicalize(t);
	PG_RETURN_TENSOR(t);
}

Datum
tensor_to_bytea(PG_FUNCTION_ARGS)
{
	Tensor *t = PG_GETARG_TENSOR(0);
	Size size = TensorNumel(t) * sizeof(float);
	bytea *raw;

	ReserveResult(VARHDRSZ + size, LLM_BYTES_SHOWN * size);
	raw = palloc(VARHDRSZ + size);
	MachineHugePages(raw, VARHDRSZ + size);
	SET_VARSIZE(raw, VARHDRSZ + size);
	CopyMemory(VARDATA(raw), TENSOR_DATA(t), size);
	PG_RETURN_BYTEA_P(raw);
}
