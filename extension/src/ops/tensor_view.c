/*
 * The shape of a tensor, and the same elements or some of them in another shape.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"

#include "engine/broadcast.h"
#include "engine/layout.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(tensor_shape);
PG_FUNCTION_INFO_V1(tensor_ndim);
PG_FUNCTION_INFO_V1(tensor_numel);
PG_FUNCTION_INFO_V1(tensor_reshape);
PG_FUNCTION_INFO_V1(tensor_transpose);
PG_FUNCTION_INFO_V1(tensor_slice);
PG_FUNCTION_INFO_V1(tensor_slice_axes);
PG_FUNCTION_INFO_V1(tensor_row);
PG_FUNCTION_INFO_V1(tensor_concat);
PG_FUNCTION_INFO_V1(tensor_get);

Datum
tensor_shape(PG_FUNCTION_ARGS)
{
	Tensor *header = DatumGetTensorHeader(PG_GETARG_DATUM(0));
	Datum dims[LLM_MAX_DIMS];

	for (int i = 0; i < header->ndim; i++)
		dims[i] = Int32GetDatum(header->dims[i]);
	PG_RETURN_ARRAYTYPE_P(construct_array(dims, header->ndim, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

Datum
tensor_ndim(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(DatumGetTensorHeader(PG_GETARG_DATUM(0))->ndim);
}

Datum
tensor_numel(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(TensorNumel(DatumGetTensorHeader(PG_GETARG_DATUM(0))));
}

Datum
tensor_reshape(PG_FUNCTION_ARGS)
{
	Tensor *t = PG_GETARG_TENSOR_SHAPE(0);
	LlmError err = {0};
	int dims[LLM_MAX_DIMS];
	int ndim = IntsFromArray(PG_GETARG_DATUM(1), "a shape", dims);
	Tensor *out;

	LLM_CHECK(llm_reshape_shape(t->ndim, t->dims, ndim, dims, &err), &err);
	t = PG_GETARG_TENSOR_REST(0, t);
	out = TensorNew(ndim, dims);
	CopyMemory(TENSOR_DATA(out), TENSOR_DATA(t), TensorNumel(t) * sizeof(float));
	if (pg_llm_autograd)
	{
		LlmAttr attr = TapeAttrInts("shape", ndim, dims);

		TapeStart();
		TapeRecord(out, "reshape", 1, &t, 1, &attr);
	}
	PG_RETURN_TENSOR(out);
}

Datum
tensor_transpose(PG_FUNCTION_ARGS)
{
	Tensor *t;
	LlmError err = {0};
	int axes[LLM_MAX_DIMS], order[LLM_MAX_DIMS], dims[LLM_MAX_DIMS];
	int n = 0;
	bool all = PG_NARGS() > 1 && !PG_ARGISNULL(1);
	Tensor *out;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	t = PG_GETARG_TENSOR_SHAPE(0);
	if (pg_llm_autograd)
		TapeStart();
	if (all)
		n = IntsFromArray(PG_GETARG_DATUM(1), "a list of axes", axes);
	LLM_CHECK(llm_permute_shape(t->ndim, t->dims, n, all ? axes : NULL, order, dims, &err), &err);
	t = PG_GETARG_TENSOR_REST(0, t);
	out = TensorNew(t->ndim, dims);
	LLM_CHECK(llm_permute(t->ndim, t->dims, order, TENSOR_DATA(t), TENSOR_DATA(out), &err), &err);
	if (pg_llm_autograd)
	{
		LlmAttr attr = TapeAttrInts("axes", t->ndim, order);

		TapeRecord(out, "transpose", 1, &t, all, &attr);
	}
	PG_RETURN_TENSOR(out);
}

/*
 * Records a slice of a tensor that is on the tape. A slice of any other tensor is a constant, too, and the
 * rest of the tensor need not be read.
 */
static void
RecordSlice(Tensor *out, const Tensor *whole, int n, const int *starts, const int *stops, const int *steps)
{
	uint32 number = TapeKnown(whole);
	LlmAttr attrs[3];

	if (number == 0)
		return;
	attrs[0] = TapeAttrInts("starts", n, starts);
	attrs[1] = TapeAttrInts("stops", n, stops);
	if (steps)
		attrs[2] = TapeAttrInts("steps", n, steps);
	TapeRecordNumbers(out, "slice", 1, &number, whole, TensorNumel(out), steps ? 3 : 2, attrs);
}

/*
 * The elements between starts and stops, or every steps-th of them. Of a stored value only the rows of the
 * first axis between them are read.
 */
static Tensor *
Slice(Datum datum, int n, int *starts, int *stops, const int *steps)
{
	Tensor *header = DatumGetTensorHeader(datum);
	LlmError err = {0};
	int dims[LLM_MAX_DIMS], rows_dims[LLM_MAX_DIMS];
	int64 row = 1;
	const float *x;
	int from[LLM_MAX_DIMS], to[LLM_MAX_DIMS];
	Tensor *out;

	if (pg_llm_autograd)
		TapeStart();
	LLM_CHECK(llm_slice_shape(header->ndim, header->dims, n, starts, stops, steps, dims, &err), &err);
	memcpy(from, starts, sizeof(int) * n);
	memcpy(to, stops, sizeof(int) * n);
	out = TensorNew(header->ndim, dims);
	memcpy(rows_dims, header->dims, sizeof(int) * header->ndim);
	if (n > 0)
	{
		for (int i = 1; i < header->ndim; i++)
			row *= header->dims[i];
		rows_dims[0] = stops[0] - starts[0];
		x = DatumGetTensorElements(datum, header, starts[0] * row, rows_dims[0] * row);
		stops[0] = rows_dims[0];
		starts[0] = 0;
	}
	else
		x = DatumGetTensorElements(datum, header, 0, TensorNumel(header));
	LLM_CHECK(llm_slice(header->ndim, rows_dims, n, starts, stops, steps, x, TENSOR_DATA(out), &err), &err);
	if (pg_llm_autograd)
		RecordSlice(out, header, n, from, to, steps);
	return out;
}

/* slice(t, start, stop): rows of the first axis; stop NULL is the end. */
Datum
tensor_slice(PG_FUNCTION_ARGS)
{
	Tensor *header;
	int start, stop;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	header = DatumGetTensorHeader(PG_GETARG_DATUM(0));
	start = PG_GETARG_INT32(1);
	stop = !PG_ARGISNULL(2) ? PG_GETARG_INT32(2) : header->ndim > 0 ? header->dims[0] : 0;
	PG_RETURN_TENSOR(Slice(PG_GETARG_DATUM(0), 1, &start, &stop, NULL));
}

/* slice(t, starts, stops [, steps]) */
Datum
tensor_slice_axes(PG_FUNCTION_ARGS)
{
	int starts[LLM_MAX_DIMS], stops[LLM_MAX_DIMS], steps[LLM_MAX_DIMS];
	bool stepping = PG_NARGS() > 3;
	int n = IntsFromArray(PG_GETARG_DATUM(1), "a list of starts", starts);
	int m = IntsFromArray(PG_GETARG_DATUM(2), "a list of stops", stops);
	int k = stepping ? IntsFromArray(PG_GETARG_DATUM(3), "a list of steps", steps) : n;

	if (n != m)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("slice: %d starts but %d stops", n, m),
						   errhint("Give one start and one stop for each of the first axes.")));
	if (n != k)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("slice: %d starts but %d steps", n, k),
						   errhint("Give one step for each start; a step of 1 leaves out nothing.")));
	PG_RETURN_TENSOR(Slice(PG_GETARG_DATUM(0), n, starts, stops, stepping ? steps : NULL));
}

/* Row i of the first axis, which goes. Never recorded: llm_param_row shows stored values. */
Datum
tensor_row(PG_FUNCTION_ARGS)
{
	Tensor *header = DatumGetTensorHeader(PG_GETARG_DATUM(0)), *out;
	int i = PG_GETARG_INT32(1);
	int64 row;

	if (header->ndim == 0 || i < 0 || i >= header->dims[0])
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("a tensor of shape %s has no row %d", TensorShape(header), i)));
	out = TensorNew(header->ndim - 1, header->dims + 1);
	row = TensorNumel(out);
	CopyMemory(TENSOR_DATA(out), DatumGetTensorElements(PG_GETARG_DATUM(0), header, i * row, row),
		row * sizeof(float));
	PG_RETURN_TENSOR(out);
}

static void
RecordConcat(Tensor *out, int n, const Datum *parts, int axis)
{
	LlmAttr attr = TapeAttr("axis", axis);
	Tensor **tensors = palloc(sizeof(Tensor *) * n);

	TapeStart();
	for (int i = 0; i < n; i++)
		tensors[i] = DatumGetTensor(parts[i]);
	TapeRecord(out, "concat", n, tensors, 1, &attr);
}

Datum
tensor_concat(PG_FUNCTION_ARGS)
{
	ArrayType *array = (ArrayType *) DetoastWhole(PG_GETARG_DATUM(0));
	LlmError err = {0};
	Datum *parts;
	bool *nulls;
	int n, axis, dims[LLM_MAX_DIMS];
	int64 outer = 1, inner = 1, at = 0;
	Tensor *out, *first;

	ReserveMemory((sizeof(Datum) + sizeof(bool)) * ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)));
	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_INT, &parts, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (nulls[i])
			ereport(
				ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("concat: tensor %d is NULL", i + 1),
						   errhint("array_remove(tensors, NULL) leaves NULLs out.")));
	if (n == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("concat: the array is empty"),
						   errhint("Without a tensor there is no shape to give the result.")));
	first = DatumGetTensor(parts[0]);
	LLM_CHECK(llm_axis("concat", first->ndim, first->dims, PG_GETARG_INT32(1), &axis, &err), &err);
	memcpy(dims, first->dims, sizeof(int) * first->ndim);
	for (int i = 1; i < n; i++)
	{
		Tensor *t = DatumGetTensor(parts[i]);

		LLM_POLL(i);
		LLM_CHECK(llm_concat_shape(first->ndim, dims, axis, i + 1, t->ndim, t->dims, &err), &err);
	}
	out = TensorNew(first->ndim, dims);
	for (int i = 0; i < first->ndim; i++)
		if (i != axis)
			*(i < axis ? &outer : &inner) *= dims[i];
	for (int i = 0; i < n; i++)
	{
		Tensor *t = DatumGetTensor(parts[i]);

		LLM_CHECK(llm_concat_copy(
					  outer, dims[axis], inner, at, t->dims[axis], TENSOR_DATA(t), TENSOR_DATA(out), &err),
			&err);
		at += t->dims[axis];
	}
	if (pg_llm_autograd)
		RecordConcat(out, n, parts, axis);
	PG_RETURN_TENSOR(out);
}

/* One element: tensor_get(t, i, j, …); no other element is read. */
Datum
tensor_get(PG_FUNCTION_ARGS)
{
	Tensor *header = DatumGetTensorHeader(PG_GETARG_DATUM(0));
	int index[LLM_MAX_DIMS];
	int n = IntsFromArray(PG_GETARG_DATUM(1), "an index", index);
	int64 at = 0;

	if (n != header->ndim)
		ereport(ERROR,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("tensor_get: shape %s needs %d indexes, not %d",
														 TensorShape(header), header->ndim, n)));
	for (int i = 0; i < n; i++)
	{
		int k = index[i] < 0 ? index[i] + header->dims[i] : index[i];

		if (k < 0 || k >= header->dims[i])
			ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
							   errmsg("tensor_get: index %d is not within axis %d of shape %s", index[i], i,
								   TensorShape(header)),
							   errhint("Indexes count from 0; negative ones from the end.")));
		at = at * header->dims[i] + k;
	}
	PG_RETURN_FLOAT4(*DatumGetTensorElements(PG_GETARG_DATUM(0), header, at, 1));
}
