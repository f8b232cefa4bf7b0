/*
 * See train_run.h.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "src/base/catalog.h"
#include "src/base/spi.h"
#include "src/training/train_run.h"

static SpiQuery read_run = {.text = "SELECT r FROM %s.llm_train_run AS r WHERE run = $1",
	.nargs = 1,
	.types = {INT8OID},
	.columns = "r"};
static SpiQuery begin_run = {.text = "SELECT run, first_step FROM %s._llm_train_begin($1, $2, $3, $4)",
	.nargs = 4,
	.columns = "ll",
	.one = true};

/* ---- fields of the row ---- */

/* The table may have been altered: a column of another type is rejected, never reinterpreted. */
static Datum
Field(HeapTupleHeader row, const char *name, Oid type, bool *null)
{
	TupleDesc desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(row), HeapTupleHeaderGetTypMod(row));
	Oid found = InvalidOid;
	Datum value;

	for (int i = 0; i < desc->natts; i++)
		if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) == 0)
			found = TupleDescAttr(desc, i)->atttypid;
	ReleaseTupleDesc(desc);
	if (found != type)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						   errmsg("column \"%s\" of llm_train_run is %s; %s was expected", name,
							   OidIsValid(found) ? format_type_be(found) : "missing", format_type_be(type))));
	value = GetAttributeByName(row, name, null);
	return *null ? (Datum) 0 : value;
}

static Datum
Given(HeapTupleHeader row, const char *name, Oid type)
{
	bool null;
	Datum value = Field(row, name, type, &null);

	if (null)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						   errmsg("%s of a training call must not be NULL", name)));
	return value;
}

static double
Number(HeapTupleHeader row, const char *name, double least, double most)
{
	double x = DatumGetFloat8(Given(row, name, FLOAT8OID));
	char given[32];

	if (!(x >= least && x <= most))
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("%s is %s; it must be from %g to %g", name, llm_decimal(x, given), least, most)));
	return x;
}

static int64
Whole(int64 x, const char *name, int64 least, int64 most)
{
	if (x < least || x > most)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("%s is %lld; it must be from %lld to %lld", name, (long long) x,
							   (long long) least, (long long) most)));
	return x;
}

static char *
Text(HeapTupleHeader row, const char *name)
{
	bool null;
	Datum value = Field(row, name, TEXTOID, &null);

	return null ? NULL : TextDatumGetCString(value);
}

static void
Positions(HeapTupleHeader row, Recipe *r)
{
	bool null;
	Datum value = Field(row, "positions", INT4ARRAYOID, &null);
	ArrayType *a;

	if (null)
		return;
	a = DatumGetArrayTypePCopy(value);
	if (ARR_NDIM(a) != 1 || array_contains_nulls(a))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("positions must be a one-dimensional array without NULL"),
						   errhint("One position for each token of the row: ARRAY[0,1,2].")));
	r->positions = (const int32 *) ARR_DATA_PTR(a);
	r->n_positions = ARR_DIMS(a)[0];
}

/* NULL: float32 */
static bool
InBf16(const char *activations)
{
	if (activations && strcmp(activations, "float32") != 0 && strcmp(activations, "bf16") != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("activations is \"%.100s\"; it must be float32 or bf16", activations)));
	return activations && strcmp(activations, "bf16") == 0;
}

Recipe *
RecipeOfRow(Datum datum)
{
	HeapTupleHeader row = DatumGetHeapTupleHeader(datum);
	Recipe *r = palloc0(sizeof(Recipe));
	bool null;

	r->model = text_to_cstring(DatumGetTextPP(Given(row, "model", TEXTOID)));
	r->dataset = Text(row, "dataset");
	r->lr_max = Number(row, "lr_max", 0, 1e6);
	r->min_lr = Number(row, "min_lr", 0, 1e6);
	r->hyper.beta1 = Number(row, "beta1", 0, 0.999999999);
	r->hyper.beta2 = Number(row, "beta2", 0, 0.999999999);
	r->hyper.eps = Number(row, "eps", 0, 1e6);
	r->hyper.weight_decay = Number(row, "wd", 0, 1e6);
	Field(row, "grad_clip", FLOAT8OID, &null);
	r->hyper.clip = null ? 0 : Number(row, "grad_clip", 1e-30, 1e30);
	r->dropout_p = Number(row, "dropout_p", 0, 0.999999);
	r->n_steps = Whole(DatumGetInt64(Given(row, "n_steps", INT8OID)), "n_steps", 1, INT64CONST(1) << 40);
	r->warmup = Whole(DatumGetInt64(Given(row, "warmup", INT8OID)), "warmup", 0, INT64CONST(1) << 40);
	r->batch_size = (int) Whole(DatumGetInt32(Given(row, "batch_size", INT4OID)), "batch_size", 1, 1000000);
	r->accumulation = (int) Whole(
		DatumGetInt32(Given(row, "accumulation", INT4OID)), "accumulation", 1, 1000000 / r->batch_size);
	r->seed = (uint64) DatumGetInt64(Given(row, "seed", INT8OID));
	Positions(row, r);
	r->keeping.bf16 = InBf16(Text(row, "activations"));
	r->keeping.recompute = DatumGetBool(Field(row, "recompute", BOOLOID, &null)); /* NULL: false */
	r->run = DatumGetInt64(Field(row, "run", INT8OID, &null));
	if (null)
		r->run = -1;
	r->first_step = DatumGetInt64(Field(row, "first_step", INT8OID, &null));
	if (null)
		r->first_step = -1;
	return r;
}

/* ---- runs ---- */

Recipe *
RecipeOfRun(int64 run)
{
	MemoryContext caller = CurrentMemoryContext, spi;
	Datum value = Int64GetDatum(run);
	Recipe *r;
	bool null;

	SPI_connect();
	SpiRun(&read_run, &value, NULL, true, 1);
	if (SPI_processed == 0)
		ereport(ERROR, (errcode(ERRCODE_NO_DATA), errmsg("there is no training run %lld", (long long) run),
						   errhint("SELECT run, model, first_step, n_steps FROM llm_train_run lists them.")));
	spi = MemoryContextSwitchTo(caller);
	r = RecipeOfRow(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
	MemoryContextSwitchTo(spi);
	SPI_finish();
	return r;
}

void
RecipeBegin(Recipe *r, Datum row, int64 step, bool resume, bool quiet)
{
	Datum values[4] = {row, Int64GetDatum(step), BoolGetDatum(resume), BoolGetDatum(quiet)};
	bool null;

	begin_run.types[0] = get_rel_type_id(get_relname_relid("llm_train_run", ExtensionNamespace()));
	begin_run.types[1] = INT8OID;
	begin_run.types[2] = begin_run.types[3] = BOOLOID;
	SPI_connect();
	SpiRun(&begin_run, values, NULL, false, 1);
	r->run = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
	r->first_step = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null));
	SPI_finish();
}
