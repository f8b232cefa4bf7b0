/*
 * Leaves, the tensors with respect to which gradients are computed: values named by llm_var, and parameters
 * of models.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "engine/layout.h"
#include "src/base/arguments.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/tape/tape.h"

/* A leaf of llm_var is neither the result of an operation nor a parameter. */
static SpiQuery find_var = {
	.text =
		"SELECT r.id, r.data FROM %s.llm_tensor_rt AS r WHERE r.run = $1 AND r.name = $2 AND r.requires_grad"
		" AND NOT EXISTS (SELECT FROM %s.llm_tape AS t WHERE t.id = r.id)"
		" AND NOT EXISTS (SELECT FROM %s.llm_tensor_map AS m WHERE m.id = r.id)",
	.nargs = 2,
	.types = {INT8OID, TEXTOID},
	.columns = "lt"};
static SpiQuery find_mapped = {
	.text = "SELECT m.id, r.data FROM %s.llm_tensor_map AS m JOIN %s.llm_tensor_rt AS r USING (id) WHERE "
			"m.run = $1"
			" AND m.model = $2 AND m.name = $3 AND m.token_id IS NOT DISTINCT FROM $4 AND r.shape = $5"
			" AND r.data IS NOT NULL",
	.nargs = 5,
	.types = {INT8OID, TEXTOID, TEXTOID, INT4OID, INT4ARRAYOID},
	.columns = "lt"};
#define PARAMETERS                                                                                           \
	"(SELECT name, model AS source_model, name AS source_name FROM %s.llm_param WHERE model = $1 UNION ALL"  \
	" SELECT target_name, source_model, source_name FROM %s.llm_param_share WHERE target_model = $1)"
/* A parameter that the graph says is frozen gets no gradient. */
#define FROZEN                                                                                               \
	"EXISTS (SELECT FROM %s.llm_graph AS g WHERE g.model = $1 AND g.name = n.name AND g.op = 'param'"        \
	" AND g.attrs OPERATOR(pg_catalog.@>) '{\"trainable\": false}')"
static SpiQuery read_params = {.text =
								   "SELECT n.name, %s.shape(p.data), %s._llm_tensor_version(p.data), " FROZEN
								   " FROM " PARAMETERS " AS n JOIN %s.llm_param AS p"
								   " ON p.model = n.source_model AND p.name = n.source_name"
								   " WHERE p.data IS NOT NULL ORDER BY n.name COLLATE \"C\"",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "sIlb"};
static SpiQuery read_shape = {
	.text =
		"SELECT %s.shape(p.data), " FROZEN " FROM " PARAMETERS " AS n JOIN %s.llm_param AS p"
		" ON p.model = n.source_model AND p.name = n.source_name WHERE n.name = $2 AND p.data IS NOT NULL",
	.nargs = 2,
	.types = {TEXTOID, TEXTOID},
	.columns = "Ib"};
static SpiQuery read_leaves = {
	.text = "SELECT m.name, m.version, m.id FROM %s.llm_tensor_map AS m JOIN %s.llm_tensor_rt AS r USING (id)"
			" WHERE m.run = $1 AND m.model = $2 AND m.token_id IS NULL AND r.data IS NULL",
	.nargs = 2,
	.types = {INT8OID, TEXTOID},
	.columns = "sll"};

static Tensor *
Stamped(const Tensor *t, int ndim, const int *dims, const TapeRun *run, uint32 number)
{
	Tensor *out = TensorNew(ndim, dims);

	CopyMemory(TENSOR_DATA(out), TENSOR_DATA(t), TensorNumel(t) * sizeof(float));
	if (run)
	{
		out->tape_run = run->key;
		out->tape_id = number;
	}
	return out;
}

/* Describes how a value differs from that of the leaf with the same name; NULL if it does not. */
static char *
Difference(const Tensor *old, const Tensor *new)
{
	int64 n = TensorNumel(new);

	if (old->ndim != new->ndim || memcmp(old->dims, new->dims, sizeof(int) * new->ndim) != 0)
		return psprintf("shape %s there, shape %s here", TensorShape(old), TensorShape(new));
	for (int64 i = 0; i < n; i++)
	{
		LLM_POLL(i);
		if (memcmp(&TENSOR_DATA(old)[i], &TENSOR_DATA(new)[i], sizeof(float)) != 0)
			return psprintf("element %lld is %.9g there, %.9g here", (long long) i + 1, TENSOR_DATA(old)[i],
				TENSOR_DATA(new)[i]);
	}
	return NULL;
}

/*
 * The leaf that the last query found, whose value must be identical; 0 if the query found none. Call inside
 * SPI.
 */
static uint32
FoundLeaf(const TapeRun *run, const Tensor *t, const char *name)
{
	int64 run_number = run->run; /* of the run that the error ends */
	char *difference;
	bool null;
	int64 id;

	if (SPI_processed == 0)
		return 0;
	id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
	difference =
		Difference(DatumGetTensor(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null)), t);
	if (difference)
	{
		TapeAbandon(); /* or every later statement with the new value would fail, too */
		ereport(
			ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					   errmsg("the leaf \"%s\" of run %lld has another value: %s", name,
						   (long long) run_number, difference),
					   errhint("Within a run a name stands for one value. llm_backward ends a run; as it did "
							   "not, this error has: run the statement again. Two values in one expression "
							   "need two names.")));
	}
	return (uint32) (id - run->run * TAPE_RUN_SIZE);
}

PG_FUNCTION_INFO_V1(llm_var);
Datum
llm_var(PG_FUNCTION_ARGS)
{
	Tensor *t;
	char *name;
	TapeRun *run;
	uint32 number;
	Datum values[2];

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	name = NameArgument(fcinfo, 1, "name");
	if (name[0] == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the name of a leaf is empty"),
						   errhint("Gradients are listed by it: llm_var(w, 'w').")));
	if (!pg_llm_autograd)
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	t = PG_GETARG_TENSOR(0);
	run = TapeOpen("expression", NULL, (Datum) 0);
	values[0] = Int64GetDatum(run->run);
	values[1] = CStringGetTextDatum(name);
	SPI_connect();
	SpiRun(&find_var, values, NULL, false, 1);
	number = FoundLeaf(run, t, name);
	SPI_finish();
	if (number == 0)
	{
		number = TapeNext(run);
		TapeWriteTensor(run, number, name, t->ndim, t->dims, t, true);
	}
	PG_RETURN_TENSOR(Stamped(t, t->ndim, t->dims, run, number));
}

/* ---- parameters of models ---- */

static void
DimsOfArray(Datum array, int *ndim, int *dims)
{
	ArrayType *a = DatumGetArrayTypeP(array);

	*ndim = Min(ArrayGetNItems(ARR_NDIM(a), ARR_DIMS(a)), LLM_MAX_DIMS);
	memcpy(dims, ARR_DATA_PTR(a), sizeof(int) * *ndim);
}

/* The value must have the shape of the parameter, or of one of its rows. Returns whether that is frozen. */
static bool
CheckMapped(const char *model, const char *name, int token_id, int ndim, const int *dims)
{
	Datum values[2] = {CStringGetTextDatum(model), CStringGetTextDatum(name)};
	int wanted[LLM_MAX_DIMS], n;
	bool null, row, frozen;

	SPI_connect();
	SpiRun(&read_shape, values, NULL, false, 1);
	if (SPI_processed == 0)
		ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("model \"%s\" has no parameter \"%s\"", model, name),
				errhint("SELECT name, shape(data) FROM llm_param WHERE model = '%s'.", model)));
	DimsOfArray(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null), &n, wanted);
	frozen = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null));
	SPI_finish();
	row = token_id >= 0;
	if (row && (n != 2 || token_id >= wanted[0]))
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						   errmsg("parameter \"%s\" of model \"%s\" is %s: it has no row %d", name, model,
							   ShapeToString(n, wanted), token_id),
						   errhint("token_id counts from 0; NULL is the whole parameter.")));
	if (ndim != n - row || memcmp(dims, wanted + row, sizeof(int) * ndim) != 0)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("the tensor is %s, %s \"%s\" of model \"%s\" is %s",
							   ShapeToString(ndim, dims), row ? "a row of parameter" : "parameter", name,
							   model, ShapeToString(n - row, wanted + row)),
						   errhint("dims gives the tensor the parameter's shape.")));
	return frozen;
}

static uint32
MappedLeaf(TapeRun *run, const char *model, const char *name, int token_id, bool frozen, const Tensor *t)
{
	Datum values[5] = {Int64GetDatum(run->run), CStringGetTextDatum(model), CStringGetTextDatum(name),
		Int32GetDatum(token_id)},
		  lengths[LLM_MAX_DIMS];
	char *leaf = token_id < 0 ? pstrdup(name) : psprintf("%s[%d]", name, token_id);
	uint32 number;

	for (int i = 0; i < t->ndim; i++)
		lengths[i] = Int32GetDatum(t->dims[i]);
	values[4] =
		PointerGetDatum(construct_array(lengths, t->ndim, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	SPI_connect();
	SpiRun(&find_mapped, values, token_id < 0 ? "   n " : "     ", false, 1);
	number = FoundLeaf(run, t, leaf);
	SPI_finish();
	if (number == 0)
	{
		number = TapeNext(run);
		TapeWriteTensor(run, number, leaf, t->ndim, t->dims, t, !frozen);
		TapeWriteMap(run, number, model, name, token_id, 0);
	}
	return number;
}

PG_FUNCTION_INFO_V1(pg_llm_autograd_map_param);
Datum
pg_llm_autograd_map_param(PG_FUNCTION_ARGS)
{
	char *model = NameArgument(fcinfo, 0, "model");
	char *name = NameArgument(fcinfo, 1, "name");
	int token_id = PG_ARGISNULL(2) ? -1 : PG_GETARG_INT32(2);
	int dims[LLM_MAX_DIMS], ndim;
	bool frozen;
	LlmError err = {0};
	Tensor *t;
	TapeRun *run;

	if (PG_ARGISNULL(3))
		PG_RETURN_NULL();
	if (!PG_ARGISNULL(2) && token_id < 0)
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE), errmsg("token_id is %d", token_id),
						   errhint("token_id counts from 0; NULL is the whole parameter.")));
	t = PG_GETARG_TENSOR(3);
	ndim = t->ndim;
	memcpy(dims, t->dims, sizeof(int) * ndim);
	if (!PG_ARGISNULL(4))
	{
		ndim = IntsFromArray(PG_GETARG_DATUM(4), "a shape", dims);
		LLM_CHECK(llm_reshape_shape(t->ndim, t->dims, ndim, dims, &err), &err);
	}
	frozen = CheckMapped(model, name, token_id, ndim, dims);
	t = Stamped(t, ndim, dims, NULL, 0);
	if (pg_llm_autograd)
	{
		run = TapeOpen("expression", NULL, (Datum) 0);
		t->tape_id = MappedLeaf(run, model, name, token_id, frozen, t);
		t->tape_run = run->key;
	}
	PG_RETURN_TENSOR(t);
}

static int
CompareParam(const void *name, const void *param)
{
	return strcmp(name, ((const TapeParam *) param)->name);
}

static void
FindLeaves(const TapeRun *run, const char *model, TapeParam *params, int n)
{
	Datum values[2] = {Int64GetDatum(run->run), CStringGetTextDatum(model)};
	bool null;

	SpiRun(&read_leaves, values, NULL, false, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TapeParam *p = bsearch(SpiField(i, 1), params, n, sizeof(TapeParam), CompareParam);

		if (p && p->version == DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &null)))
			p->number = (uint32) (DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 3, &null)) -
								  run->run * TAPE_RUN_SIZE);
	}
}

TapeParam *
TapeParams(TapeRun *run, const char *model, bool read_only, int *n)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum value = CStringGetTextDatum(model);
	TapeParam *params;
	bool null;

	SPI_connect();
	SpiRun(&read_params, &value, NULL, read_only, 0);
	*n = (int) SPI_processed;
	params = MemoryContextAllocZero(caller, sizeof(TapeParam) * Max(1, *n));
	for (int i = 0; i < *n; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;

		params[i].name = MemoryContextStrdup(caller, SpiField(i, 1));
		DimsOfArray(SPI_getbinval(row, desc, 2, &null), &params[i].ndim, params[i].dims);
		params[i].version = DatumGetInt64(SPI_getbinval(row, desc, 3, &null));
		params[i].frozen = DatumGetBool(SPI_getbinval(row, desc, 4, &null));
	}
	SPI_freetuptable(SPI_tuptable);
	if (run->count > 0)
		FindLeaves(run, model, params, *n);
	SPI_finish();
	return params;
}

uint32
TapeParamLeaf(TapeRun *run, const char *model, TapeParam *p)
{
	if (p->number == 0)
	{
		p->number = TapeNext(run);
		TapeWriteTensor(run, p->number, p->name, p->ndim, p->dims, NULL, !p->frozen);
		TapeWriteMap(run, p->number, model, p->name, -1, p->version);
	}
	return p->number;
}

PG_FUNCTION_INFO_V1(llm_materialize_params);
Datum
llm_materialize_params(PG_FUNCTION_ARGS)
{
	char *model = NameArgument(fcinfo, 0, "model");
	TapeRun *run = TapeOpen("expression", model, (Datum) 0);
	int n;
	TapeParam *params = TapeParams(run, model, false, &n);

	if (n == 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("model \"%s\" has no parameters", model),
						   errhint("SELECT model, count(*) FROM llm_param GROUP BY model lists those that "
								   "have; llm_init_model('%s', seed) makes random ones.",
							   model)));
	for (int i = 0; i < n; i++)
		TapeParamLeaf(run, model, &params[i]);
	PG_RETURN_INT64(n);
}

PG_FUNCTION_INFO_V1(llm_on_tape);
Datum
llm_on_tape(PG_FUNCTION_ARGS)
{
	Tensor *t = PG_GETARG_TENSOR(0);
	TapeRun *run = TapeCurrent();
	int64 number = run ? PG_GETARG_INT64(1) - run->run * TAPE_RUN_SIZE : 0;

	if (number < 1 || number > (run ? run->count : 0))
		PG_RETURN_TENSOR(t);
	PG_RETURN_TENSOR(Stamped(t, t->ndim, t->dims, run, (uint32) number));
}
