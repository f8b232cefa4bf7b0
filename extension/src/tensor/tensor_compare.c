/*
 * Comparisons and hashes of tensors, for =, ORDER BY, DISTINCT, joins and indexes. The tape id of a value
 * takes no part in them.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "engine/compare.h"
#include "src/base/errors.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(tensor_eq);
PG_FUNCTION_INFO_V1(tensor_ne);
PG_FUNCTION_INFO_V1(tensor_lt);
PG_FUNCTION_INFO_V1(tensor_le);
PG_FUNCTION_INFO_V1(tensor_gt);
PG_FUNCTION_INFO_V1(tensor_ge);
PG_FUNCTION_INFO_V1(tensor_lt_number);
PG_FUNCTION_INFO_V1(tensor_le_number);
PG_FUNCTION_INFO_V1(tensor_gt_number);
PG_FUNCTION_INFO_V1(tensor_ge_number);
PG_FUNCTION_INFO_V1(tensor_cmp);
PG_FUNCTION_INFO_V1(tensor_hash);
PG_FUNCTION_INFO_V1(tensor_hash_extended);
PG_FUNCTION_INFO_V1(tensor_close);
PG_FUNCTION_INFO_V1(tensor_close_within);

/* Orders shapes by the number of dimensions, then by the dimensions; 0 for equal shapes. */
static int
CompareShapes(const Tensor *a, const Tensor *b)
{
	if (a->ndim != b->ndim)
		return a->ndim < b->ndim ? -1 : 1;
	for (int i = 0; i < a->ndim; i++)
		if (a->dims[i] != b->dims[i])
			return a->dims[i] < b->dims[i] ? -1 : 1;
	return 0;
}

/* A sort compares each value many times: detoasted copies must not accumulate. */
static void
FreeCopy(Tensor *t, Datum datum)
{
	if ((Pointer) t != DatumGetPointer(datum))
		pfree(t);
}

int
TensorCompare(const Tensor *a, const Tensor *b)
{
	int64 numel = TensorNumel(a);
	int order = 0;

	for (int64 at = 0; at < numel && order == 0; at += LLM_POLL_ELEMENTS)
	{
		CHECK_FOR_INTERRUPTS();
		order =
			llm_compare_total(Min(LLM_POLL_ELEMENTS, numel - at), TENSOR_DATA(a) + at, TENSOR_DATA(b) + at);
	}
	return order;
}

static int
Compare(FunctionCallInfo fcinfo)
{
	Tensor *a = DatumGetTensorHeader(PG_GETARG_DATUM(0));
	Tensor *b = DatumGetTensorHeader(PG_GETARG_DATUM(1));
	int order = CompareShapes(a, b);

	FreeCopy(a, PG_GETARG_DATUM(0));
	FreeCopy(b, PG_GETARG_DATUM(1));
	if (order != 0)
		return order;
	a = PG_GETARG_TENSOR(0);
	b = PG_GETARG_TENSOR(1);
	order = TensorCompare(a, b);
	FreeCopy(a, PG_GETARG_DATUM(0));
	FreeCopy(b, PG_GETARG_DATUM(1));
	return order;
}

Datum
tensor_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(Compare(fcinfo) == 0);
}

Datum
tensor_ne(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(Compare(fcinfo) != 0);
}

Datum
tensor_lt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(Compare(fcinfo) < 0);
}

Datum
tensor_le(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(Compare(fcinfo) <= 0);
}

Datum
tensor_gt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(Compare(fcinfo) > 0);
}

Datum
tensor_ge(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(Compare(fcinfo) >= 0);
}

Datum
tensor_cmp(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(Compare(fcinfo));
}

/* Dimensions and elements are contiguous in the value, so one call hashes both. */
static uint64
Hash(Datum datum, uint64 seed)
{
	Tensor *t = DatumGetTensor(datum);
	uint64 hash = HashWords(t->dims, VARSIZE(t) - offsetof(Tensor, dims), seed + t->ndim);

	FreeCopy(t, datum);
	return hash;
}

Datum
tensor_hash(PG_FUNCTION_ARGS)
{
	PG_RETURN_UINT32((uint32) Hash(PG_GETARG_DATUM(0), 0));
}

Datum
tensor_hash_extended(PG_FUNCTION_ARGS)
{
	PG_RETURN_UINT64(Hash(PG_GETARG_DATUM(0), PG_GETARG_INT64(1)));
}

static bool
Close(FunctionCallInfo fcinfo, double rtol, double atol)
{
	Tensor *a = PG_GETARG_TENSOR_SHAPE(0);
	Tensor *b = PG_GETARG_TENSOR_SHAPE(1);
	int64 numel = TensorNumel(a);
	bool close = CompareShapes(a, b) == 0;

	if (!close)
		return false;
	a = PG_GETARG_TENSOR_REST(0, a);
	b = PG_GETARG_TENSOR_REST(1, b);
	for (int64 at = 0; at < numel && close; at += LLM_POLL_ELEMENTS)
	{
		CHECK_FOR_INTERRUPTS();
		close = llm_close(
			Min(LLM_POLL_ELEMENTS, numel - at), TENSOR_DATA(a) + at, TENSOR_DATA(b) + at, rtol, atol);
	}
	return close;
}

Datum
tensor_close(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(Close(fcinfo, 1e-5, 1e-8));
}

Datum
tensor_close_within(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(Close(fcinfo, PG_GETARG_FLOAT8(2), PG_GETARG_FLOAT8(3)));
}

/* Not recorded: a mask has no gradient. */
static Datum
Mask(FunctionCallInfo fcinfo, LlmOrder order)
{
	Tensor *t = PG_GETARG_TENSOR(0), *out = TensorNew(t->ndim, t->dims);
	int64 numel = TensorNumel(t);

	for (int64 at = 0; at < numel; at += LLM_POLL_ELEMENTS)
	{
		CHECK_FOR_INTERRUPTS();
		llm_mask(order, Min(LLM_POLL_ELEMENTS, numel - at), TENSOR_DATA(t) + at, (float) PG_GETARG_FLOAT8(1),
			TENSOR_DATA(out) + at);
	}
	PG_RETURN_TENSOR(out);
}

Datum
tensor_lt_number(PG_FUNCTION_ARGS)
{
	return Mask(fcinfo, LLM_IS_LESS);
}

Datum
tensor_le_number(PG_FUNCTION_ARGS)
{
	return Mask(fcinfo, LLM_IS_LESS_EQUAL);
}

Datum
tensor_gt_number(PG_FUNCTION_ARGS)
{
	return Mask(fcinfo, LLM_IS_GREATER);
}

Datum
tensor_ge_number(PG_FUNCTION_ARGS)
{
	return Mask(fcinfo, LLM_IS_GREATER_EQUAL);
}
