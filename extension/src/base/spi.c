#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "src/base/catalog.h"
#include "src/base/machine.h"
#include "src/base/memory.h"
#include "src/base/spi.h"

SPIPlanPtr
SpiPlan(SpiQuery *query)
{
	StringInfoData text;
	const char *schema;

	/* the type's OID distinguishes one CREATE EXTENSION from the next, even in the same schema */
	if (query->plan && query->extension == TensorTypeOid())
		return query->plan;
	if (query->plan)
		SPI_freeplan(query->plan);
	query->plan = NULL;
	schema = ExtensionSchemaName();
	initStringInfo(&text);
	for (const char *c = query->text; *c; c++)
		if (c[0] == '%' && c[1] == 's')
		{
			appendStringInfoString(&text, schema);
			c++;
		}
		else
			appendStringInfoChar(&text, *c);
	/*
	 * A custom plan would hold copies of its parameter values, and a value may be a tensor of hundreds of MB.
	 */
	query->plan = SPI_prepare_cursor(text.data, query->nargs, query->types, CURSOR_OPT_GENERIC_PLAN);
	if (query->plan == NULL)
		elog(ERROR, "pg_llm: cannot prepare \"%s\": %s", text.data, SPI_result_code_string(SPI_result));
	SPI_keepplan(query->plan);
	query->extension = TensorTypeOid();
	return query->plan;
}

/* Table names carry their schema, but operators do not: schemas before pg_catalog in search_path must not be
 * searched. */
static int
SafePath(void)
{
	int level = NewGUCNestLevel();

	set_config_option(
		"search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

/* ---- checks of the result ---- */

static Oid
TypeOfLetter(char letter)
{
	switch (letter)
	{
		case 'i':
			return INT4OID;
		case 'l':
			return INT8OID;
		case 'f':
			return FLOAT4OID;
		case 'd':
			return FLOAT8OID;
		case 'b':
			return BOOLOID;
		case 'x':
			return XIDOID;
		case 's':
			return TEXTOID;
		case 'n':
			return NAMEOID;
		case 'j':
			return JSONBOID;
		case 'y':
			return BYTEAOID;
		case 't':
			return TensorTypeOid();
		case 'I':
			return INT4ARRAYOID;
		case 'L':
			return INT8ARRAYOID;
		case 'S':
			return TEXTARRAYOID;
		case 'T':
			return get_array_type(TensorTypeOid());
		default:
			elog(ERROR, "pg_llm: no type is meant by \"%c\"", letter);
	}
}

static void Refuse(const SpiQuery *query, int column, const char *what) __attribute__((noreturn));

static void
Refuse(const SpiQuery *query, int column, const char *what)
{
	ereport(ERROR,
		(errcode(ERRCODE_DATA_CORRUPTED),
			errmsg("column %d, \"%s\", of what pg_llm read from its tables %s", column + 1,
				NameStr(TupleDescAttr(SPI_tuptable->tupdesc, column)->attname), what),
			errdetail("It was read by: %s", query->text),
			errhint(
				"A table or function of the extension was altered, or a constraint dropped. Undo that and "
				"mend the row, or restore the database from a backup.")));
}

static void
CheckColumn(const SpiQuery *query, int column, char letter, bool nullable)
{
	Oid type = TupleDescAttr(SPI_tuptable->tupdesc, column)->atttypid;
	bool null = false;

	if (letter == 'r' ? !type_is_rowtype(type) : type != TypeOfLetter(letter))
		Refuse(query, column,
			psprintf("is of type %s; %s was expected", format_type_be(type),
				letter == 'r' ? "a row" : format_type_be(TypeOfLetter(letter))));
	for (uint64 i = 0; i < SPI_processed && !nullable; i++)
	{
		(void) SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, column + 1, &null);
		if (null)
			Refuse(query, column, "is NULL");
	}
}

static void
CheckRows(const SpiQuery *query)
{
	const char *c = query->columns ? query->columns : "";
	int n = 0;

	if (query->one && SPI_processed != 1)
		ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("a statement of pg_llm %s %llu rows instead of one", SPI_tuptable ? "read" : "wrote",
					(unsigned long long) SPI_processed),
				errdetail("It was: %s", query->text),
				errhint("A trigger, a rule or a row security policy on the table changes what it does.")));
	if (SPI_tuptable == NULL)
		return;
	for (; *c && n < SPI_tuptable->tupdesc->natts; n++)
	{
		bool nullable = c[1] == '?';

		CheckColumn(query, n, *c, nullable);
		c += nullable ? 2 : 1;
	}
	if (*c || n != SPI_tuptable->tupdesc->natts)
		elog(ERROR, "pg_llm: \"%s\" brought %d columns; \"%s\" was expected", query->text,
			SPI_tuptable->tupdesc->natts, query->columns ? query->columns : "none");
}

/* ---- running ---- */

static int
TriggerDepth(void)
{
	return DatumGetInt32(pg_trigger_depth(NULL));
}

/*
 * When a user's trigger fails, its unqualified names may have resolved differently than its author expects.
 */
static void
ExplainTrigger(void *depth)
{
	if (TriggerDepth() > *(int *) depth)
		errcontext("a trigger of a statement of pg_llm; it ran with search_path = pg_catalog, pg_temp");
}

void
SpiRun(SpiQuery *query, Datum *values, const char *nulls, bool read_only, long limit)
{
	int level = SafePath(), depth = TriggerDepth(), code;
	ErrorContextCallback context = {error_context_stack, ExplainTrigger, &depth};

	error_context_stack = &context;
	code = SPI_execute_plan(SpiPlan(query), values, nulls, read_only, limit);
	error_context_stack = context.previous;
	if (code < 0)
		elog(ERROR, "pg_llm: \"%s\" failed: %s", query->text, SPI_result_code_string(code));
	CheckRows(query);
	AtEOXact_GUC(true, level);
}

bool
SpiFetch(SpiQuery *query, Portal portal, long n)
{
	SPI_cursor_fetch(portal, true, n);
	CheckRows(query);
	return SPI_processed > 0;
}

static Portal
Open(SpiQuery *query, Datum *values, bool read_only)
{
	int level = SafePath();
	Portal portal = SPI_cursor_open(NULL, SpiPlan(query), values, NULL, read_only);

	AtEOXact_GUC(true, level);
	return portal;
}

Portal
SpiOpen(SpiQuery *query, Datum *values)
{
	return Open(query, values, true);
}

Portal
SpiOpenLatest(SpiQuery *query, Datum *values)
{
	return Open(query, values, false);
}

char *
SpiField(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

char *
ServerToUtf8(const char *text)
{
	return pg_server_to_any((char *) text, (int) strlen(text), PG_UTF8);
}

Datum
RowResult(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "pg_llm: function %u must return a row type", fcinfo->flinfo->fn_oid);
	if (nulls == NULL)
		nulls = palloc0(sizeof(bool) * desc->natts);
	ReserveMemory(heap_compute_data_size(desc, values, nulls)); /* a row of gradients copies all of them */
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* Bytes of a row besides its elements, rounded up. */
#define ROW_OVERHEAD 4096

void
CheckRowSize(int64 numel)
{
	Size most = (MaxAllocSize - ROW_OVERHEAD) / sizeof(float);

	if (numel > (int64) most)
		ereport(
			ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					   errmsg("the results have %lld elements together, more than the %zu that one row holds",
						   (long long) numel, most),
					   errhint("Work on slices.")));
}

Datum
LargeRowResult(FunctionCallInfo fcinfo, struct varlena *const *values, int n)
{
	Size at = MAXALIGN(SizeofHeapTupleHeader), size = at;
	HeapTupleHeader row;
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != n)
		elog(ERROR, "pg_llm: function %u must return a row of %d", fcinfo->flinfo->fn_oid, n);
	BlessTupleDesc(desc);
	for (int i = 0; i < n; i++)
		size = INTALIGN(size) + VARSIZE(values[i]);
	ReserveMemory(size);
	row = palloc(size);
	MachineHugePages(row, size);
	memset(row, 0, at);
	HeapTupleHeaderSetDatumLength(row, size);
	HeapTupleHeaderSetTypeId(row, desc->tdtypeid);
	HeapTupleHeaderSetTypMod(row, desc->tdtypmod);
	ItemPointerSetInvalid(&row->t_ctid);
	HeapTupleHeaderSetNatts(row, n);
	row->t_infomask = HEAP_HASVARWIDTH;
	row->t_hoff = at;
	for (int i = 0; i < n; i++)
	{
		memset((char *) row + at, 0, INTALIGN(at) - at);
		at = INTALIGN(at);
		CopyMemory((char *) row + at, values[i], VARSIZE(values[i]));
		at += VARSIZE(values[i]);
	}
	return HeapTupleHeaderGetDatum(row);
}
