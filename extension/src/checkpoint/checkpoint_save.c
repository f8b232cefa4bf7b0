/*
 * Saving: every tensor of a model with the statement's own snapshot, one at a time in memory, ordered by
 * name; and the hash of a model.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "formats/tensor_file.h"
#include "src/base/catalog.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/checkpoint/checkpoint.h"
#include "src/checkpoint/export_file.h"
#include "src/checkpoint/import_file.h"
#include "src/checkpoint/tensor_source.h"
#include "src/checkpoint/tokenizer_files.h"
#include "src/tensor/digest.h"
#include "src/tensor/tensor.h"

typedef struct Entry
{
	char *name, *utf8;        /* in the checkpoint */
	char *owner, *owner_name; /* the row of llm_param that holds it */
	char part;                /* 'd' data, 'm', 'v' */
	int ndim, dims[LLM_MAX_DIMS];
} Entry;

typedef struct Save
{
	int64 id;
	Entry *entries;
	TensorSource source; /* source of the tensors */
	Digest *model;       /* hash of the weights: llm_model_sha256 */
	Digest *stored;      /* hash of the file's bytes, or of all rows */
	int64 bytes;
	void (*produce)(const LlmSink *sink, void *arg);
	const LlmSink *file;
} Save;

/* ---- reading the model ---- */

static int
ByName(const void *a, const void *b)
{
	return strcmp(((const Entry *) a)->utf8, ((const Entry *) b)->utf8);
}

/* Fetches a tensor of the model; the data of a parameter is added to the model's hash on the way. */
static const Tensor *
Fetch(void *context, int i)
{
	static SpiQuery data = {"SELECT data FROM %s.llm_param WHERE model = $1 AND name = $2", 2,
						{TEXTOID, TEXTOID}, .columns = "t"},
					m = {"SELECT m FROM %s.llm_param WHERE model = $1 AND name = $2", 2, {TEXTOID, TEXTOID},
						.columns = "t"},
					v = {"SELECT v FROM %s.llm_param WHERE model = $1 AND name = $2", 2, {TEXTOID, TEXTOID},
						.columns = "t"};
	const Save *save = context;
	const Entry *entry = &save->entries[i];
	Datum args[2] = {CStringGetTextDatum(entry->owner), CStringGetTextDatum(entry->owner_name)};
	const Tensor *tensor;

	SpiRun(entry->part == 'd' ? &data : entry->part == 'm' ? &m : &v, args, NULL, true, 1);
	tensor = SpiTensorField();
	if (entry->part == 'd')
		DigestTensor(save->model, entry->utf8, tensor);
	return tensor;
}

/* Lists the tensors to be saved. Call inside SPI; everything is allocated in the given context. */
static void
ListEntries(Save *save, const char *model, bool moments, MemoryContext context)
{
	static SpiQuery list = {"SELECT name, owner_model, owner_name, part, shape FROM "
							"%s._llm_checkpoint_tensors($1) WHERE part = 'data' OR $2",
		2, {TEXTOID, BOOLOID}, .columns = "ssssI"};
	Datum args[2] = {CStringGetTextDatum(model), BoolGetDatum(moments)};
	TensorSource *source = &save->source;
	MemoryContext old;

	SpiRun(&list, args, NULL, true, 0);
	old = MemoryContextSwitchTo(context);
	source->count = (int) SPI_processed;
	source->tensors = palloc0(sizeof(LlmSafetensorsTensor) * (Size) (source->count + 1));
	source->fetch = Fetch;
	source->context = save;
	save->entries = palloc0(sizeof(Entry) * (Size) (source->count + 1));
	for (int i = 0; i < source->count; i++)
	{
		Entry *entry = &save->entries[i];
		bool null;

		entry->name = SpiField(i, 1);
		entry->utf8 = ServerToUtf8(entry->name);
		entry->owner = SpiField(i, 2);
		entry->owner_name = SpiField(i, 3);
		entry->part = SpiField(i, 4)[0];
		entry->ndim = ShapeFromArray(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 5, &null), entry->dims);
	}
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
	qsort(save->entries, source->count, sizeof(Entry), ByName);
	for (int i = 0; i < source->count; i++)
	{
		Entry *entry = &save->entries[i];

		source->tensors[i] = (LlmSafetensorsTensor){entry->utf8, entry->ndim, entry->dims};
		if (i > 0 && strcmp(save->entries[i - 1].utf8, entry->utf8) == 0)
			ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
							   errmsg("two tensors of the checkpoint would be named \"%s\"", entry->name),
							   errhint("Rename the parameter: names that begin with " SAVED_M " and " SAVED_V
									   " are the moments'.")));
	}
}

/* ---- as a file ---- */

/* Writes to the file and adds the bytes to its hash. */
static LlmCode
HashAndWrite(void *context, const void *bytes, size_t size, LlmError *err)
{
	Save *save = context;

	DigestAdd(save->stored, bytes, size);
	save->bytes += (int64) size;
	return save->file->write(save->file->context, bytes, size, err);
}

static void
ProduceHashed(const LlmSink *sink, void *arg)
{
	Save *save = arg;
	LlmSink hashed = {HashAndWrite, save};

	save->file = sink;
	save->produce(&hashed, &save->source);
}

/* The folder is in a form that HuggingFace's from_pretrained reads. */
static char *
SaveFile(Save *save, const char *model, bool npz)
{
	char *folder = CheckpointFolderMake(save->id, model);
	char *path = psprintf("%s/%s", folder, npz ? "model.npz" : "model.safetensors");

	save->produce = npz ? ProduceNpz : ProduceSafetensors;
	WriteServerFile(psprintf("%s/%s", folder, LLM_CONFIG_NAME), ProduceConfig, &save->source);
	WriteTokenizer(folder, model);
	WriteServerFile(path, ProduceHashed, save);
	return path;
}

/* ---- as rows ---- */

static void
WriteRow(TensorSource *source, int i, const Tensor *tensor, void *arg)
{
	static SpiQuery insert = {
		"INSERT INTO %s.llm_checkpoint_param (checkpoint, name, data) VALUES ($1, $2, $3)", 3,
		{INT8OID, TEXTOID}, .one = true};
	Save *save = arg;
	const Entry *entry = &save->entries[i];
	Datum args[3] = {Int64GetDatum(save->id), CStringGetTextDatum(entry->name), PointerGetDatum(tensor)};

	insert.types[2] = TensorTypeOid();
	DigestTensor(save->stored, entry->utf8, tensor);
	save->bytes += TensorNumel(tensor) * (int64) sizeof(float);
	ReserveMemory(VARSIZE(tensor)); /* for the row formed from it */
	SpiRun(&insert, args, NULL, false, 0);
}

/* ---- functions ---- */

/* llm_checkpoint_write(id, model, format, config) → (location, bytes, sha256, model_sha256) */
PG_FUNCTION_INFO_V1(llm_checkpoint_write);
Datum
llm_checkpoint_write(PG_FUNCTION_ARGS)
{
	Save save = {.id = PG_GETARG_INT64(0)};
	char *model = text_to_cstring(PG_GETARG_TEXT_PP(1)), *format = text_to_cstring(PG_GETARG_TEXT_PP(2));
	char *location = SAVED_IN_DATABASE;
	bool rows = strcmp(format, "rows") == 0;
	MemoryContext outer = CurrentMemoryContext;
	Datum result[4];

	if (!rows)
		ServerFileAllow(true);
	save.source.progress = ProgressBegin(CurrentMemoryContext, "checkpoint save", model, "tensor", 0);
	save.source.config = ServerToUtf8(text_to_cstring(PG_GETARG_TEXT_PP(3)));
	save.model = DigestBegin();
	save.stored = DigestBegin();
	SPI_connect();
	ListEntries(&save, model, true, outer);
	if (rows)
		EachTensor(&save.source, WriteRow, &save);
	else
	{
		MemoryContext spi = MemoryContextSwitchTo(outer);

		location = SaveFile(&save, model, strcmp(format, "npz") == 0);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	ProgressEnd(save.source.progress);
	result[0] = CStringGetTextDatum(location);
	result[1] = Int64GetDatum(save.bytes);
	result[2] = CStringGetTextDatum(DigestEnd(save.stored));
	result[3] = CStringGetTextDatum(DigestEnd(save.model));
	return RowResult(fcinfo, result, NULL);
}

PG_FUNCTION_INFO_V1(llm_model_digest);
Datum
llm_model_digest(PG_FUNCTION_ARGS)
{
	Save save = {0};
	MemoryContext outer = CurrentMemoryContext;

	save.model = DigestBegin();
	SPI_connect();
	ListEntries(&save, text_to_cstring(PG_GETARG_TEXT_PP(0)), false, outer);
	EachTensor(&save.source, NULL, NULL);
	SPI_finish();
	PG_RETURN_TEXT_P(cstring_to_text(DigestEnd(save.model)));
}

/*
 * llm_checkpoint_remove(id, location): removes the file at commit; false if it is not one of this database.
 */
PG_FUNCTION_INFO_V1(llm_checkpoint_remove);
Datum
llm_checkpoint_remove(PG_FUNCTION_ARGS)
{
	ServerFileAllow(true);
	PG_RETURN_BOOL(CheckpointFolderDrop(PG_GETARG_INT64(0), text_to_cstring(PG_GETARG_TEXT_PP(1))));
}
