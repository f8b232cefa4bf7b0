/*
 * Writes the rows of the tape.
 */
#include "postgres.h"

#include <math.h>

#include "access/detoast.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "src/base/catalog.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/tape/tape.h"

static SpiQuery write_run = {
	.text = "INSERT INTO %s.llm_run (run, key, model, kind, tokens, open) VALUES"
			" (pg_catalog.nextval('%s.llm_run_seq'::pg_catalog.regclass), $1, $2, $3, $4, $5)"
			" ON CONFLICT (key) DO NOTHING RETURNING run",
	.nargs = 5,
	.types = {INT4OID, TEXTOID, TEXTOID, INT4ARRAYOID, BOOLOID},
	.columns = "l"};
/* A session has one open run: another row still marked open is left from a run that could not be closed. */
static SpiQuery close_others = {
	.text = "UPDATE %s.llm_run SET open = false WHERE open AND pid = pg_catalog.pg_backend_pid()"};
static SpiQuery close_run = {
	.text = "UPDATE %s.llm_run SET open = false WHERE run = $1 AND open", .nargs = 1, .types = {INT8OID}};
static SpiQuery write_tensor = {.text = "INSERT INTO %s.llm_tensor_rt (id, run, name, shape, data, "
										"requires_grad) VALUES ($1, $2, $3, $4, $5, $6)",
	.nargs = 6,
	.types = {INT8OID, INT8OID, TEXTOID, INT4ARRAYOID, InvalidOid, BOOLOID},
	.one = true};
static SpiQuery write_op = {
	.text = "INSERT INTO %s.llm_tape (id, run, op, node, inputs, outputs, extra) VALUES ($1, $2, $3, $4, $5, "
			"$6, $7)",
	.nargs = 7,
	.types = {INT8OID, INT8OID, TEXTOID, TEXTOID, INT8ARRAYOID, INT8ARRAYOID, JSONBOID},
	.one = true};
static SpiQuery write_map = {.text =
								 "INSERT INTO %s.llm_tensor_map (id, run, model, name, token_id, version) "
								 "VALUES ($1, $2, $3, $4, $5, $6)",
	.nargs = 6,
	.types = {INT8OID, INT8OID, TEXTOID, TEXTOID, INT4OID, INT8OID},
	.one = true};

/* Rows written by this transaction disappear if it is rolled back. */
static void
NoteWrite(TapeRun *run)
{
	run->wrote = Max(run->wrote, GetCurrentTransactionNestLevel());
}

static int32
RandomKey(void)
{
	int32 key;

	do
		if (!pg_strong_random(&key, sizeof(key)))
			ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("the system has no random numbers")));
	while (key == 0);
	return key;
}

void
TapeWriteRun(TapeRun *run, const char *kind, const char *model, Datum tokens, bool open)
{
	Datum values[5] = {0};
	char nulls[6] = "     ";
	bool null;
	int32 key;

	SPI_connect();
	if (open)
		SpiRun(&close_others, NULL, NULL, false, 0);
	values[1] = model ? CStringGetTextDatum(model) : (Datum) 0;
	values[2] = CStringGetTextDatum(kind);
	values[3] = tokens;
	values[4] = BoolGetDatum(open);
	nulls[1] = model ? ' ' : 'n';
	nulls[3] = tokens ? ' ' : 'n';
	/* The first key is almost always unused. */
	for (int tries = 0; tries == 0 || SPI_processed == 0; tries++)
	{
		if (tries == 100)
			ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("the run could not be written to llm_run"),
					errhint("A trigger, a rule or a row security policy on llm_run keeps its row out.")));
		key = RandomKey();
		values[0] = Int32GetDatum(key);
		SpiRun(&write_run, values, nulls, false, 0);
	}
	run->run = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
	if (run->run < 1 || run->run >= PG_INT64_MAX / TAPE_RUN_SIZE)
		ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				errmsg("%lld cannot be the number of a run", (long long) run->run),
				errhint("Ids are run * %d + n: set llm_run_seq back to the last run.", TAPE_RUN_SIZE)));
	run->key = (uint32) key;
	run->count = 0;
	run->extension = TensorTypeOid();
	run->wrote = 0;
	if (open)
		NoteWrite(run);
	SPI_finish();
}

void
TapeWriteClosed(int64 run)
{
	Datum value = Int64GetDatum(run);

	SPI_connect();
	SpiRun(&close_run, &value, NULL, false, 0);
	SPI_finish();
}

/* ---- numbers ---- */

uint32
TapeNext(TapeRun *run)
{
	if (run->count >= TAPE_RUN_SIZE - 1)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						   errmsg("run %lld is full: a run has at most %d tensors", (long long) run->run,
							   TAPE_RUN_SIZE - 1),
						   errhint("Call llm_backward more often, or switch recording off with SET "
								   "pg_llm.autograd = off.")));
	return ++run->count;
}

bool
TapeWanted(const TapeRun *run, uint32 number)
{
	return number < run->room && (run->wanted[number / 8] >> number % 8 & 1) != 0;
}

static void
NoteWanted(TapeRun *run, uint32 number, bool wanted)
{
	if (number >= run->room)
	{
		uint32 room = Max(number + 1, run->room * 2 + 4096);
		Size bytes = room / 8 + 1;

		room = bytes * 8;
		run->wanted = run->wanted ? repalloc(run->wanted, bytes) : MemoryContextAlloc(run->context, bytes);
		run->room = room;
	}
	if (wanted)
		run->wanted[number / 8] |= 1 << number % 8;
	else
		run->wanted[number / 8] &= ~(1 << number % 8);
}

void
TapeWant(TapeRun *run, uint32 number)
{
	NoteWanted(run, number, true);
}

/* ---- rows ---- */

static Datum
Ids(const TapeRun *run, int n, const uint32 *numbers)
{
	Datum *ids = palloc(sizeof(Datum) * Max(1, n));

	for (int i = 0; i < n; i++)
		ids[i] = Int64GetDatum(TapeId(run, numbers[i]));
	return PointerGetDatum(construct_array(ids, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

void
TapeWriteTensor(TapeRun *run, uint32 number, const char *name, int ndim, const int *dims, const Tensor *data,
	bool requires_grad)
{
	Datum values[6], lengths[LLM_MAX_DIMS];
	char nulls[7] = "      ";

	for (int i = 0; i < ndim; i++)
		lengths[i] = Int32GetDatum(dims[i]);
	values[0] = Int64GetDatum(TapeId(run, number));
	values[1] = Int64GetDatum(run->run);
	values[2] = name ? CStringGetTextDatum(name) : (Datum) 0;
	values[3] = PointerGetDatum(construct_array(lengths, ndim, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	values[4] = PointerGetDatum(data);
	values[5] = BoolGetDatum(requires_grad);
	if (data)
		ReserveMemory(VARSIZE(data)); /* for the row formed from it */
	nulls[2] = name ? ' ' : 'n';
	nulls[4] = data ? ' ' : 'n';
	write_tensor.types[4] = TensorTypeOid();
	NoteWrite(run);
	SPI_connect();
	SpiRun(&write_tensor, values, nulls, false, 0);
	SPI_finish();
	NoteWanted(run, number, requires_grad);
}

void
TapeWriteMap(TapeRun *run, uint32 number, const char *model, const char *name, int token_id, int64 version)
{
	Datum values[6] = {Int64GetDatum(TapeId(run, number)), Int64GetDatum(run->run),
		CStringGetTextDatum(model), CStringGetTextDatum(name), Int32GetDatum(token_id),
		Int64GetDatum(version)};

	NoteWrite(run);
	SPI_connect();
	SpiRun(&write_map, values, token_id < 0 ? "    n " : "      ", false, 0);
	SPI_finish();
}

static void
AppendNumber(StringInfo out, double x)
{
	if (!isfinite(x))
		appendStringInfoString(out, "null");
	else
		appendStringInfoString(out, float8out_internal(x));
}

static void
AppendAttr(StringInfo out, const LlmAttr *attr)
{
	switch (attr->kind)
	{
		case LLM_ATTR_NUMBER:
			AppendNumber(out, attr->number);
			break;
		case LLM_ATTR_BOOL:
			appendStringInfoString(out, attr->number != 0 ? "true" : "false");
			break;
		case LLM_ATTR_TEXT:
			escape_json(out, attr->text);
			break;
		case LLM_ATTR_LIST:
			for (int i = 0; i < attr->count; i++)
			{
				appendStringInfoChar(out, i ? ',' : '[');
				AppendAttr(out, &attr->items[i]);
			}
			appendStringInfoString(out, attr->count ? "]" : "[]");
			break;
		default:
			appendStringInfoString(out, "null");
	}
}

/* {"attrs": {…}, "flops": …, "bytes": …, "microseconds": …, "tokens": …} */
static Datum
Extra(const TapeOp *op)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfo(&out, "{\"flops\":%lld,\"bytes\":%lld,\"microseconds\":%.1f", (long long) op->flops,
		(long long) op->bytes, op->microseconds);
	for (int i = 0; op->attrs && i < op->attrs->n_attrs; i++)
	{
		appendStringInfoString(&out, i ? "," : ",\"attrs\":{");
		escape_json(&out, op->attrs->attrs[i].key);
		appendStringInfoChar(&out, ':');
		AppendAttr(&out, &op->attrs->attrs[i]);
	}
	if (op->attrs && op->attrs->n_attrs > 0)
		appendStringInfoChar(&out, '}');
	if (op->tokens)
	{
		appendStringInfo(&out, ",\"tokens\":%lld,\"model\":", (long long) op->tokens);
		escape_json(&out, op->model);
	}
	appendStringInfoChar(&out, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(out.data));
}

void
TapeWriteOp(TapeRun *run, const TapeOp *op)
{
	Datum values[7] = {Int64GetDatum(TapeId(run, op->outputs[0])), Int64GetDatum(run->run),
		CStringGetTextDatum(op->op), op->node ? CStringGetTextDatum(op->node) : (Datum) 0,
		Ids(run, op->n_inputs, op->inputs), Ids(run, op->n_outputs, op->outputs), Extra(op)};

	NoteWrite(run);
	SPI_connect();
	SpiRun(&write_op, values, op->node ? "       " : "   n   ", false, 0);
	SPI_finish();
}

/* ---- values of parameters ---- */

int64
TensorVersion(Datum datum)
{
	struct varlena *v = (struct varlena *) DatumGetPointer(datum);

	/* A large value is always stored out of line, and its location stays the same until it changes. */
	if (VARATT_IS_EXTERNAL_ONDISK(v) && toast_raw_datum_size(datum) > 8192)
	{
		struct varatt_external pointer;

		VARATT_EXTERNAL_GET_POINTER(pointer, v);
		return (int64) pointer.va_toastrelid << 32 | pointer.va_valueid;
	}
	v = PG_DETOAST_DATUM_PACKED(datum);
	return (int64) HashWords(VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v), 0);
}

PG_FUNCTION_INFO_V1(llm_tensor_version);
Datum
llm_tensor_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(TensorVersion(PG_GETARG_DATUM(0)));
}
