/*
 * A tensor as rows: one per element, with its index.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/array.h"

#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(tensor_rows);
PG_FUNCTION_INFO_V1(tensor_matrix);

/* On the first call, keeps the tensor for the later calls. */
static FuncCallContext *
StartRows(FunctionCallInfo fcinfo, int ndim)
{
	FuncCallContext *call = SRF_FIRSTCALL_INIT();
	MemoryContext old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
	TupleDesc row;
	Tensor *t;

	if (get_call_result_type(fcinfo, NULL, &row) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "row type expected");
	call->tuple_desc = BlessTupleDesc(row);
	t = PG_GETARG_TENSOR_SHAPE(0);
	if (ndim >= 0 && t->ndim != ndim)
		ereport(ERROR,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				errmsg("tensor_matrix: shape %s is not a matrix's", TensorShape(t)),
				errhint("tensor_rows(t) lists a tensor of any shape; slice() and reshape() make a matrix.")));
	t = PG_GETARG_TENSOR_REST(0, t);
	if ((Pointer) t == DatumGetPointer(PG_GETARG_DATUM(0)))
		t = TensorCopy(t);
	call->user_fctx = t;
	call->max_calls = TensorNumel(t);
	MemoryContextSwitchTo(old);
	return call;
}

Datum
tensor_rows(PG_FUNCTION_ARGS)
{
	FuncCallContext *call = SRF_IS_FIRSTCALL() ? StartRows(fcinfo, -1) : NULL;
	Datum values[2], index[LLM_MAX_DIMS];
	bool nulls[2] = {false, false};
	Tensor *t;
	uint64 rest;

	call = SRF_PERCALL_SETUP();
	t = call->user_fctx;
	if (call->call_cntr >= call->max_calls)
		SRF_RETURN_DONE(call);
	rest = call->call_cntr;
	for (int i = t->ndim - 1; i >= 0; i--)
	{
		index[i] = Int32GetDatum(rest % t->dims[i]);
		rest /= t->dims[i];
	}
	values[0] = PointerGetDatum(construct_array(index, t->ndim, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	values[1] = Float4GetDatum(TENSOR_DATA(t)[call->call_cntr]);
	SRF_RETURN_NEXT(call, HeapTupleGetDatum(heap_form_tuple(call->tuple_desc, values, nulls)));
}

Datum
tensor_matrix(PG_FUNCTION_ARGS)
{
	FuncCallContext *call = SRF_IS_FIRSTCALL() ? StartRows(fcinfo, 2) : NULL;
	Datum values[3];
	bool nulls[3] = {false, false, false};
	Tensor *t;

	call = SRF_PERCALL_SETUP();
	t = call->user_fctx;
	if (call->call_cntr >= call->max_calls)
		SRF_RETURN_DONE(call);
	values[0] = Int32GetDatum(call->call_cntr / t->dims[1]);
	values[1] = Int32GetDatum(call->call_cntr % t->dims[1]);
	values[2] = Float4GetDatum(TENSOR_DATA(t)[call->call_cntr]);
	SRF_RETURN_NEXT(call, HeapTupleGetDatum(heap_form_tuple(call->tuple_desc, values, nulls)));
}

Tensor *
SpiTensorField(void)
{
	Tensor *tensor = NULL;
	bool null = true;

	if (SPI_processed == 1)
	{
		Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null);

		tensor = null ? NULL : DatumGetTensor(value);
		if (!null && (void *) tensor == DatumGetPointer(value)) /* not a copy: the result's memory owns it */
			tensor = memcpy(palloc(VARSIZE(tensor)), tensor, VARSIZE(tensor));
	}
	SPI_freetuptable(SPI_tuptable);
	return tensor;
}
