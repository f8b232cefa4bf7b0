/*
 * Creating and reading tensor values for the SQL functions.
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/memutils.h"

#include "engine/parallel.h"
#include "src/base/errors.h"
#include "src/base/machine.h"
#include "src/base/memory.h"
#include "src/tensor/tensor.h"

/*
 * Number of elements; -1 if the product of the non-zero lengths overflows int64, because the strides of an
 * empty tensor must be representable too.
 */
static int64
CountElements(int ndim, const int *dims)
{
	int64 numel = 1;
	bool empty = false;

	for (int i = 0; i < ndim; i++)
	{
		empty |= dims[i] == 0;
		if (dims[i] < 0 || __builtin_mul_overflow(numel, (int64) Max(dims[i], 1), &numel))
			return -1;
	}
	return empty ? 0 : numel;
}

/* size: of the whole value, even if only a part of it is in memory. */
static void
CheckHeader(const Tensor *t, Size size)
{
	int64 numel;

	if (size < offsetof(Tensor, dims) || t->format != TENSOR_FORMAT || t->dtype != TENSOR_FLOAT32 ||
		t->ndim > LLM_MAX_DIMS || size < TENSOR_HEADER_SIZE(t->ndim))
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("this value is not a tensor")));
	numel = CountElements(t->ndim, t->dims);
	if (numel < 0 || numel > (int64) MaxAllocSize / 4 ||
		size != TENSOR_HEADER_SIZE(t->ndim) + numel * sizeof(float))
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
						   errmsg("this tensor's %zu bytes do not fit its shape %s", size, TensorShape(t))));
}

Tensor *
DatumGetTensor(Datum datum)
{
	Tensor *t = (Tensor *) DetoastWhole(datum);

	CheckHeader(t, VARSIZE(t));
	return t;
}

Tensor *
DatumGetTensorHeader(Datum datum)
{
	Tensor *t = (Tensor *) DatumGetPointer(datum);

	if (VARATT_IS_EXTENDED(t))
		t = (Tensor *) PG_DETOAST_DATUM_SLICE(datum, 0, TENSOR_HEADER_SIZE(LLM_MAX_DIMS) - VARHDRSZ);
	CheckHeader(t, toast_raw_datum_size(datum));
	return t;
}

/* Stored values up to this size are read whole: that takes no longer than reading the header alone. */
#define SOON ((Size) 1 << 20)

Tensor *
DatumGetTensorShape(Datum datum)
{
	return toast_raw_datum_size(datum) > SOON ? DatumGetTensorHeader(datum) : DatumGetTensor(datum);
}

Tensor *
DatumGetTensorRest(Datum datum, Tensor *seen)
{
	return VARSIZE(seen) == toast_raw_datum_size(datum) ? seen : DatumGetTensor(datum);
}

const float *
DatumGetTensorElements(Datum datum, const Tensor *header, int64 first, int64 count)
{
	Tensor *t = (Tensor *) DatumGetPointer(datum);
	Size offset = TENSOR_HEADER_SIZE(header->ndim) + first * sizeof(float);

	if (!VARATT_IS_EXTENDED(t))
		return (const float *) ((const char *) t + offset);
	return (const float *) VARDATA(DetoastSlice(datum, offset - VARHDRSZ, count * sizeof(float)));
}

void
CopyTensorElements(Datum datum, const Tensor *header, int64 first, int64 count, float *out)
{
	const float *x = DatumGetTensorElements(datum, header, first, count);

	CopyMemory(out, x, count * sizeof(float));
	if (VARATT_IS_EXTENDED(DatumGetPointer(datum)))
		pfree((char *) x - VARHDRSZ);
}

Size
TensorDataSize(int ndim, const int *dims)
{
	int64 numel;

	if (ndim < 0 || ndim > LLM_MAX_DIMS)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						   errmsg("a tensor has at most %d dimensions, not %d", LLM_MAX_DIMS, ndim)));
	for (int i = 0; i < ndim; i++)
		if (dims[i] < 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							   errmsg("shape %s has a negative length", ShapeToString(ndim, dims))));
	numel = CountElements(ndim, dims);
	if (numel < 0 || numel > (int64) ((MaxAllocSize - TENSOR_HEADER_SIZE(ndim)) / sizeof(float)))
		ereport(
			ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					   errmsg("a tensor of shape %s is too large", ShapeToString(ndim, dims)),
					   errdetail("One SQL value holds at most %zu elements.", MaxAllocSize / sizeof(float))));
	return numel * sizeof(float);
}

Tensor *
TensorNew(int ndim, const int *dims)
{
	Size size = TensorDataSize(ndim, dims) + TENSOR_HEADER_SIZE(ndim);
	Tensor *t;

	ReserveResult(size, size);
	t = palloc(size);
	MachineHugePages(t, size);
	memset(t, 0, TENSOR_HEADER_SIZE(ndim));
	SET_VARSIZE(t, size);
	t->format = TENSOR_FORMAT;
	t->dtype = TENSOR_FLOAT32;
	t->ndim = ndim;
	for (int i = 0; i < ndim; i++)
		t->dims[i] = dims[i];
	return t;
}

Tensor *
TensorNewFilled(int ndim, const int *dims, float value)
{
	Tensor *t = TensorNew(ndim, dims);
	LlmError err;

	LLM_CHECK(llm_fill(TensorNumel(t), value, TENSOR_DATA(t), &err), &err);
	return t;
}

Tensor *
TensorNewZero(int ndim, const int *dims)
{
	return TensorNewFilled(ndim, dims, 0);
}

Tensor *
TensorCopy(const Tensor *t)
{
	Tensor *out = TensorNew(t->ndim, t->dims);

	CopyMemory(TENSOR_DATA(out), TENSOR_DATA(t), TensorNumel(t) * sizeof(float));
	return out;
}

float
FloatFromNumber(double value)
{
	float rounded = (float) value;

	if (isinf(rounded) && !isinf(value))
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						   errmsg("%g is out of range for the elements of a tensor", value),
						   errdetail("They are float32: at most %g.", (double) FLT_MAX)));
	return rounded;
}

Tensor *
TensorFromNumber(double value)
{
	Tensor *t = TensorNew(0, NULL);

	TENSOR_DATA(t)[0] = FloatFromNumber(value);
	TensorCanonicalize(t);
	return t;
}

int64
TensorNumel(const Tensor *t)
{
	return CountElements(t->ndim, t->dims);
}

char *
ShapeToString(int ndim, const int *dims)
{
	char *text = palloc(3 + 12 * Max(ndim, 0));
	char *end = text;

	*end++ = '(';
	for (int i = 0; i < ndim; i++)
		end += sprintf(end, i ? ",%d" : "%d", dims[i]);
	strcpy(end, ")");
	return text;
}

int
IntsFromArray(Datum array, const char *what, int *numbers)
{
	ArrayType *a = (ArrayType *) DetoastWhole(array);
	int n = ArrayGetNItems(ARR_NDIM(a), ARR_DIMS(a));

	if (ARR_NDIM(a) > 1 || array_contains_nulls(a) || ARR_ELEMTYPE(a) != INT4OID)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("%s is a one-dimensional integer array without NULLs", what),
						   errhint("Write ARRAY[2,3].")));
	if (n > LLM_MAX_DIMS)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						   errmsg("a tensor has at most %d dimensions, not %d", LLM_MAX_DIMS, n)));
	memcpy(numbers, ARR_DATA_PTR(a), n * sizeof(int));
	return n;
}

int
ShapeFromArray(Datum array, int *dims)
{
	int n = IntsFromArray(array, "a shape", dims);

	TensorDataSize(n, dims);
	return n;
}

void
TensorCanonicalize(Tensor *t)
{
	LlmError err;

	LLM_CHECK(llm_canonicalize(TensorNumel(t), TENSOR_DATA(t), &err), &err);
}
