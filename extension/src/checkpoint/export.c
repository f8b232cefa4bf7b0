/*
 * Export to a path: the model's parameters in graph order, all from one snapshot, one at a time in memory.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "formats/tensor_file.h"
#include "src/base/spi.h"
#include "src/checkpoint/export_file.h"
#include "src/checkpoint/import_file.h"
#include "src/checkpoint/tensor_source.h"
#include "src/checkpoint/tokenizer_files.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(pg_llm_export_safetensors);
PG_FUNCTION_INFO_V1(pg_llm_export_npz);

typedef struct Export
{
	const char *model;
	TensorSource source;
	char **owners, **owner_names; /* whose rows hold the values, in the server's encoding */
	int64 parameters;
} Export;

/* One parameter's value. */
static const Tensor *
Fetch(void *context, int i)
{
	static SpiQuery fetch = {"SELECT data FROM %s.llm_param WHERE model = $1 AND name = $2", 2,
		{TEXTOID, TEXTOID}, .columns = "t"};
	Export *export = context;
	Datum args[2] = {CStringGetTextDatum(export->owners[i]), CStringGetTextDatum(export->owner_names[i])};
	const Tensor *tensor;

	SpiRun(&fetch, args, NULL, true, 1);
	tensor = SpiTensorField();
	export->parameters += TensorNumel(tensor);
	return tensor;
}

/* Names, shapes and config; ERROR if the model is incomplete. Call inside SPI; results are in the given
 * context. */
static void
BeginExport(Export *export, MemoryContext context)
{
	static SpiQuery begin = {
		"SELECT name, shape, config, owner_model, owner_name FROM %s._llm_export_begin($1)", 1, {TEXTOID},
		.columns = "sIsss"};
	Datum args[1] = {CStringGetTextDatum(export->model)};
	TensorSource *source = &export->source;
	MemoryContext old;

	SpiRun(&begin, args, NULL, true, 0);
	old = MemoryContextSwitchTo(context);
	source->count = (int) SPI_processed;
	source->fetch = Fetch;
	source->context = export;
	source->tensors = palloc0(sizeof(LlmSafetensorsTensor) * (Size) (source->count + 1));
	export->owners = palloc0(sizeof(char *) * (Size) (source->count + 1));
	export->owner_names = palloc0(sizeof(char *) * (Size) (source->count + 1));
	for (int i = 0; i < source->count; i++)
	{
		bool isnull;
		int *dims = palloc0(sizeof(int) * LLM_MAX_DIMS);

		export->owners[i] = SpiField((uint64) i, 4);
		export->owner_names[i] = SpiField((uint64) i, 5);
		source->tensors[i].name = ServerToUtf8(SpiField((uint64) i, 1));
		source->tensors[i].ndim =
			ShapeFromArray(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull), dims);
		source->tensors[i].dims = dims;
		if (i == 0)
			source->config = ServerToUtf8(SpiField(0, 3));
	}
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
}

static Datum
ExportModel(FunctionCallInfo fcinfo, void (*produce)(const LlmSink *sink, void *arg), const char *name)
{
	Export export = {0};
	MemoryContext outer = CurrentMemoryContext;
	Datum result[2];
	char *path;

	ServerFileAllow(true);
	path = ServerFilePath(PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0), PG_ARGISNULL(0));
	export.model = PG_ARGISNULL(1) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(1));

	export.source.progress = ProgressBegin(CurrentMemoryContext, "export", export.model, "tensor", 0);
	SPI_connect();
	BeginExport(&export, outer);
	if (ServerFileKind(path) == 'd')
	{
		WriteServerFile(psprintf("%s/%s", path, LLM_CONFIG_NAME), ProduceConfig, &export.source);
		WriteTokenizer(path, export.model);
		path = psprintf("%s/%s", path, name);
	}
	WriteServerFile(path, produce, &export.source);
	SPI_finish();
	ProgressEnd(export.source.progress);
	result[0] = Int32GetDatum(export.source.count);
	result[1] = Int64GetDatum(export.parameters);
	return RowResult(fcinfo, result, NULL);
}

Datum
pg_llm_export_safetensors(PG_FUNCTION_ARGS)
{
	return ExportModel(fcinfo, ProduceSafetensors, "model.safetensors");
}

Datum
pg_llm_export_npz(PG_FUNCTION_ARGS)
{
	return ExportModel(fcinfo, ProduceNpz, "model.npz");
}
