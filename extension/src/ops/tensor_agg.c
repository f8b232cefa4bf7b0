/*
 * Aggregates of tensors. Rows are added in the order in which they arrive, so that with ORDER BY the result
 * is exact: sum is ((a + b) + c) + … in float32 for each element. NULL rows are left out.
 */
#include "postgres.h"

#include "fmgr.h"
#include "nodes/execnodes.h"
#include "utils/memutils.h"

#include "engine/broadcast.h"
#include "src/base/errors.h"
#include "src/base/machine.h"
#include "src/base/memory.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(tensor_sum_step);
PG_FUNCTION_INFO_V1(tensor_sum_final);
PG_FUNCTION_INFO_V1(tensor_avg_final);
PG_FUNCTION_INFO_V1(tensor_stack_step);
PG_FUNCTION_INFO_V1(tensor_stack_final);
PG_FUNCTION_INFO_V1(tensor_max_final);
PG_FUNCTION_INFO_V1(tensor_min_final);

extern Datum tensor_max(PG_FUNCTION_ARGS);
extern Datum tensor_min(PG_FUNCTION_ARGS);

typedef struct State
{
	MemoryContext context;
	int64 seen; /* rows so far, NULLs included: errors name this row number */
	int64 rows; /* rows that are not NULL */
	int ndim;
	int dims[LLM_MAX_DIMS]; /* of each row */
	Tensor *value;          /* the sum, or the rows stacked so far */
	Size room;              /* bytes allocated for value */
	uint32 tape_run;        /* the tape run to which the rows' tape numbers belong; 0: none */
	uint32 *numbers;
	int64 recorded; /* equals `rows`, unless recording was switched on in between */
	Size numbers_room;
} State;

/* The transition state of an aggregate; a new one at its first row. */
static State *
GetState(FunctionCallInfo fcinfo, const char *name)
{
	MemoryContext context;
	State *state;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "%s is an aggregate's step and cannot be called by itself", name);
	if (PG_ARGISNULL(0))
	{
		state = MemoryContextAllocZero(context, sizeof(State));
		state->context = context;
	}
	else
		state = (State *) PG_GETARG_POINTER(0);
	state->seen++;
	return state;
}

static void
CheckRow(State *state, const char *name, const Tensor *t)
{
	if (state->rows++ == 0)
	{
		state->ndim = t->ndim;
		memcpy(state->dims, t->dims, sizeof(int) * t->ndim);
	}
	else if (t->ndim != state->ndim || memcmp(t->dims, state->dims, sizeof(int) * t->ndim) != 0)
		ereport(
			ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					   errmsg("%s: row %lld has shape %s, the rows before it %s", name,
						   (long long) state->seen, TensorShape(t), ShapeToString(state->ndim, state->dims)),
					   errhint("WHERE shape(t) = ... picks rows of one shape.")));
}

/* With recording on, the result will be one operation that reads every row. */
static void
RecordRow(State *state, const Tensor *t)
{
	uint32 number = TapeNumber(t);

	if (state->recorded == 0)
		state->tape_run = TapeCurrent()->key;
	else if (state->tape_run != TapeCurrent()->key)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						   errmsg("the recorded run ended while rows were being aggregated"),
						   errhint("Call llm_backward on the aggregate, not inside of it.")));
	if (state->recorded >= (int64) state->numbers_room)
	{
		state->numbers_room = Max(64, state->numbers_room * 2);
		ReserveMemory(state->numbers_room * sizeof(uint32));
		state->numbers = state->numbers ? repalloc(state->numbers, state->numbers_room * sizeof(uint32))
										: MemoryContextAlloc(state->context, 64 * sizeof(uint32));
	}
	state->numbers[state->recorded++] = number;
}

/* Records out as the op's result if every row is on the tape of the run that is still open. */
static Tensor *
RecordResult(const State *state, Tensor *out, const char *op)
{
	out->tape_run = out->tape_id = 0;
	if (!pg_llm_autograd || state->recorded != state->rows || TapeCurrent() == NULL ||
		TapeCurrent()->key != state->tape_run)
		return out;
	TapeStart();
	TapeRecordNumbers(out, op, (int) state->rows, state->numbers, out,
		state->rows * TensorNumel(out) / (strcmp(op, "stack") == 0 ? state->rows : 1), 0, NULL);
	return out;
}

Datum
tensor_sum_step(PG_FUNCTION_ARGS)
{
	State *state = GetState(fcinfo, "sum");
	LlmError err = {0};
	Tensor *t;

	if (PG_ARGISNULL(1))
		PG_RETURN_POINTER(state);
	t = PG_GETARG_TENSOR_SHAPE(1);
	CheckRow(state, "sum", t);
	t = PG_GETARG_TENSOR_REST(1, t);
	if (pg_llm_autograd)
		RecordRow(state, t);
	if (state->rows == 1)
	{
		MemoryContext old = MemoryContextSwitchTo(state->context);

		state->value = TensorCopy(t);
		MemoryContextSwitchTo(old);
	}
	else
		LLM_CHECK(llm_broadcast_binary(LLM_ADD, t->ndim, t->dims, TENSOR_DATA(state->value), t->ndim, t->dims,
					  TENSOR_DATA(t), TENSOR_DATA(state->value), &err),
			&err);
	PG_RETURN_POINTER(state);
}

/* A window frame continues to grow after a result was returned: that result needs a copy. */
static Datum
Finished(FunctionCallInfo fcinfo, const State *state, const char *op)
{
	Tensor *t = state->value, *out;

	if (AggCheckCallContext(fcinfo, NULL) == AGG_CONTEXT_AGGREGATE)
		PG_RETURN_TENSOR(RecordResult(state, t, op));
	out = TensorCopy(t);
	PG_RETURN_TENSOR(RecordResult(state, out, op));
}

/*
 * Who writes sum(t) of a single value means its elements. Told once a statement, and only where nothing
 * groups the rows: a group of one row is nothing unusual.
 */
static void
NoticeOneRow(FunctionCallInfo fcinfo, const State *state, const char *name)
{
	if (state->seen != 1 || TensorNumel(state->value) < 2 || fcinfo->flinfo->fn_extra ||
		!IsA(fcinfo->context, AggState) || ((Agg *) ((AggState *) fcinfo->context)->ss.ps.plan)->numCols > 0)
		return;
	fcinfo->flinfo->fn_extra = fcinfo->flinfo;
	ereport(
		NOTICE, (errmsg("%s of one row is that row: the aggregate goes over rows, element by element", name),
					errhint("tensor_%s(t) goes over the elements of a tensor.", name)));
}

Datum
tensor_sum_final(PG_FUNCTION_ARGS)
{
	State *state = PG_ARGISNULL(0) ? NULL : (State *) PG_GETARG_POINTER(0);

	if (state == NULL || state->rows == 0)
		PG_RETURN_NULL();
	NoticeOneRow(fcinfo, state, "sum");
	TensorCanonicalize(state->value);
	return Finished(fcinfo, state, "total");
}

Datum
tensor_avg_final(PG_FUNCTION_ARGS)
{
	State *state = PG_ARGISNULL(0) ? NULL : (State *) PG_GETARG_POINTER(0);
	LlmError err = {0};
	Tensor *out, *rows;

	if (state == NULL || state->rows == 0)
		PG_RETURN_NULL();
	rows = TensorFromNumber((double) state->rows);
	out = TensorNew(state->ndim, state->dims);
	LLM_CHECK(llm_broadcast_binary(LLM_DIV, state->ndim, state->dims, TENSOR_DATA(state->value), 0, NULL,
				  TENSOR_DATA(rows), TENSOR_DATA(out), &err),
		&err);
	TensorCanonicalize(out);
	if (pg_llm_autograd && state->recorded > 0)
	{
		TensorCanonicalize(state->value);
		RecordResult(state, state->value, "total");
		TapeRecord(out, "div", 2, (Tensor *[]){state->value, rows}, 0, NULL);
	}
	PG_RETURN_TENSOR(out);
}

/* Makes room for one more row, growing by half: the stack is built in the tensor that will be returned. */
static void
GrowStack(State *state, Size row)
{
	int dims[LLM_MAX_DIMS];
	Size header = TENSOR_HEADER_SIZE(state->ndim + 1);
	Size needed, room;

	if (state->ndim == LLM_MAX_DIMS)
		ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				errmsg("stack: rows already have %d dimensions, and a tensor has no more", LLM_MAX_DIMS)));
	if (state->rows > PG_INT32_MAX)
		ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("stack: more than %d rows", PG_INT32_MAX)));
	dims[0] = (int) state->rows;
	memcpy(dims + 1, state->dims, sizeof(int) * state->ndim);
	needed = header + TensorDataSize(state->ndim + 1, dims);
	if (needed <= state->room)
		return;
	room = Min(Max(needed + needed / 2, header + 8 * row), MaxAllocSize);
	ReserveMemory(room);
	if (state->value == NULL)
	{
		state->value = MemoryContextAlloc(state->context, room);
		memset(state->value, 0, header);
		state->value->format = TENSOR_FORMAT;
		state->value->dtype = TENSOR_FLOAT32;
		state->value->ndim = state->ndim + 1;
		memcpy(state->value->dims, dims, sizeof(int) * (state->ndim + 1));
	}
	else
		state->value = repalloc(state->value, room);
	MachineHugePages(state->value, room);
	state->room = room;
}

Datum
tensor_stack_step(PG_FUNCTION_ARGS)
{
	State *state = GetState(fcinfo, "stack");
	Tensor *t;
	Size row;

	if (PG_ARGISNULL(1))
		PG_RETURN_POINTER(state);
	t = PG_GETARG_TENSOR_SHAPE(1);
	CheckRow(state, "stack", t);
	t = PG_GETARG_TENSOR_REST(1, t);
	if (pg_llm_autograd)
		RecordRow(state, t);
	row = TensorNumel(t) * sizeof(float);
	GrowStack(state, row);
	CopyMemory((char *) TENSOR_DATA(state->value) + (state->rows - 1) * row, TENSOR_DATA(t), row);
	PG_RETURN_POINTER(state);
}

Datum
tensor_stack_final(PG_FUNCTION_ARGS)
{
	State *state = PG_ARGISNULL(0) ? NULL : (State *) PG_GETARG_POINTER(0);

	if (state == NULL || state->rows == 0)
		PG_RETURN_NULL();
	state->value->dims[0] = (int) state->rows;
	SET_VARSIZE(state->value,
		TENSOR_HEADER_SIZE(state->ndim + 1) + TensorDataSize(state->ndim + 1, state->value->dims));
	return Finished(fcinfo, state, "stack");
}

/* The rows are stacked, then reduced along the new axis: two operations that have gradients. */
static Datum
Extreme(FunctionCallInfo fcinfo, PGFunction reduce, const char *name)
{
	Datum rows = tensor_stack_final(fcinfo);

	if (fcinfo->isnull)
		return (Datum) 0;
	NoticeOneRow(fcinfo, (State *) PG_GETARG_POINTER(0), name);
	return DirectFunctionCall2(reduce, rows, Int32GetDatum(0));
}

Datum
tensor_max_final(PG_FUNCTION_ARGS)
{
	return Extreme(fcinfo, tensor_max, "max");
}

Datum
tensor_min_final(PG_FUNCTION_ARGS)
{
	return Extreme(fcinfo, tensor_min, "min");
}
