/*
 * Export by path: the model's parameters in graph order, all by one snapshot, one in memory at a time.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "formats/npz.h"
#include "formats/safetensors.h"
#include "formats/tensor_file.h"
#include "src/export_file.h"
#include "src/import_file.h"
#include "src/pg_llm.h"
#include "src/query.h"
#include "src/tensor.h"

PG_FUNCTION_INFO_V1(pg_llm_export_safetensors);
PG_FUNCTION_INFO_V1(pg_llm_export_npz);

typedef struct Export
{
	const char *model;
	char *config; /* config.json in UTF-8 */
	int count;
	LlmSafetensorsTensor *tensors; /* names in UTF-8 */
	char **owners, **owner_names;  /* whose rows hold the values, in the server's encoding */
	int64 parameters;
} Export;

static char *
ToUtf8(char *text)
{
	return pg_server_to_any(text, (int) strlen(text), PG_UTF8);
}

/* Names, shapes and config; ERROR where the model is not whole. Inside SPI; results in the given context. */
static void
BeginExport(Export *export, MemoryContext context)
{
	static LlmQuery begin = {
		"SELECT name, shape, config, owner_model, owner_name FROM %s.llm_export_begin($1)", 1, {TEXTOID}};
	Datum args[1] = {CStringGetTextDatum(export->model)};
	MemoryContext old;

	LlmRun(&begin, args, NULL, true, 0);
	old = MemoryContextSwitchTo(context);
	export->count = (int) SPI_processed;
	export->tensors = palloc0(sizeof(LlmSafetensorsTensor) * (Size) (export->count + 1));
	export->owners = palloc0(sizeof(char *) * (Size) (export->count + 1));
	export->owner_names = palloc0(sizeof(char *) * (Size) (export->count + 1));
	for (int i = 0; i < export->count; i++)
	{
		bool isnull;
		int *dims = palloc0(sizeof(int) * LLM_MAX_DIMS);

		export->owners[i] = LlmField((uint64) i, 4);
		export->owner_names[i] = LlmField((uint64) i, 5);
		export->tensors[i].name = ToUtf8(LlmField((uint64) i, 1));
		export->tensors[i].ndim =
			ShapeFromArray(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull), dims);
		export->tensors[i].dims = dims;
		if (i == 0)
			export->config = ToUtf8(LlmField(0, 3));
	}
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
}

/* One parameter's value, detoasted in the current context. */
static Tensor *
Fetch(const Export *export, int i)
{
	static LlmQuery fetch = {
		"SELECT data FROM %s.llm_param WHERE model = $1 AND name = $2", 2, {TEXTOID, TEXTOID}};
	Datum args[2] = {CStringGetTextDatum(export->owners[i]), CStringGetTextDatum(export->owner_names[i])};
	Datum value;
	bool isnull;
	Tensor *tensor;

	LlmRun(&fetch, args, NULL, true, 1);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	tensor = DatumGetTensor(value);
	if ((void *) tensor == DatumGetPointer(value)) /* not a copy: it would go with the result */
		tensor = memcpy(palloc(VARSIZE(tensor)), tensor, VARSIZE(tensor));
	SPI_freetuptable(SPI_tuptable);
	return tensor;
}

/* Hands every tensor to write, each in a memory context of its own. */
static void
EachTensor(Export *export, void (*write)(Export *export, int i, const Tensor *tensor, void *arg), void *arg)
{
	MemoryContext one = AllocSetContextCreate(CurrentMemoryContext, "pg_llm export", ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < export->count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(one);
		const Tensor *tensor = Fetch(export, i);

		CHECK_FOR_INTERRUPTS();
		write(export, i, tensor, arg);
		export->parameters += TensorNumel(tensor);
		MemoryContextSwitchTo(old);
		MemoryContextReset(one);
	}
	MemoryContextDelete(one);
}

static void
WriteValues(Export *export, int i, const Tensor *tensor, void *arg)
{
	const LlmSink *sink = arg;
	LlmError err;

	LLM_CHECK(
		sink->write(sink->context, TENSOR_DATA(tensor), (size_t) TensorNumel(tensor) * sizeof(float), &err),
		&err);
}

static void
ProduceSafetensors(const LlmSink *sink, void *arg)
{
	Export *export = arg;
	LlmError err;

	LLM_CHECK(llm_safetensors_write_header(
				  sink, export->tensors, (size_t) export->count, export->config, LlmContextAllocator(), &err),
		&err);
	EachTensor(export, WriteValues, (void *) sink);
}

static void
WriteMember(Export *export, int i, const Tensor *tensor, void *arg)
{
	const LlmSafetensorsTensor *t = &export->tensors[i];
	LlmError err;

	LLM_CHECK(llm_npz_write_tensor(arg, t->name, t->ndim, t->dims, TENSOR_DATA(tensor), &err), &err);
}

static void
ProduceNpz(const LlmSink *sink, void *arg)
{
	Export *export = arg;
	LlmNpzWriter writer;
	LlmError err;

	llm_npz_writer_init(&writer, sink, LlmContextAllocator());
	EachTensor(export, WriteMember, &writer);
	LLM_CHECK(
		llm_npz_write_member(&writer, LLM_CONFIG_NAME, export->config, strlen(export->config), &err), &err);
	LLM_CHECK(llm_npz_finish(&writer, &err), &err);
	llm_npz_writer_close(&writer);
}

static void
ProduceConfig(const LlmSink *sink, void *arg)
{
	const Export *export = arg;
	LlmError err;

	LLM_CHECK(sink->write(sink->context, export->config, strlen(export->config), &err), &err);
}

static Datum
ExportModel(FunctionCallInfo fcinfo, void (*produce)(const LlmSink *sink, void *arg), bool folders)
{
	Export export = {0};
	MemoryContext outer = CurrentMemoryContext;
	TupleDesc desc;
	Datum result[2];
	bool nulls[2] = {false, false};
	char *path;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "pg_llm: the export functions return (tensors, parameters)");
	ServerFileAllow(true);
	path = ServerFilePath(PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0), PG_ARGISNULL(0));
	export.model = PG_ARGISNULL(1) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(1));

	SPI_connect();
	BeginExport(&export, outer);
	if (folders && ServerFileKind(path) == 'd')
	{
		WriteServerFile(psprintf("%s/%s", path, LLM_CONFIG_NAME), ProduceConfig, &export);
		path = psprintf("%s/model.safetensors", path);
	}
	WriteServerFile(path, produce, &export);
	SPI_finish();
	result[0] = Int32GetDatum(export.count);
	result[1] = Int64GetDatum(export.parameters);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), result, nulls)));
}

Datum
pg_llm_export_safetensors(PG_FUNCTION_ARGS)
{
	return ExportModel(fcinfo, ProduceSafetensors, true);
}

Datum
pg_llm_export_npz(PG_FUNCTION_ARGS)
{
	return ExportModel(fcinfo, ProduceNpz, false);
}
