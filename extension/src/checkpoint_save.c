/*
 * Saving: every tensor of a model by the statement's own snapshot, one in memory at a time, in the order of
 * their names; and the hash of a model.
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
#include "src/checkpoint.h"
#include "src/export_file.h"
#include "src/import_file.h"
#include "src/pg_llm.h"
#include "src/query.h"

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
	int count;
	char *config;   /* config.json in UTF-8 */
	Digest *model;  /* of the weights: llm_model_sha256 */
	Digest *stored; /* of the file's bytes, or of all rows */
	int64 bytes;
	const LlmSink *file;
} Save;

/* ---- reading the model ---- */

static char *
ToUtf8(char *text)
{
	return pg_server_to_any(text, (int) strlen(text), PG_UTF8);
}

static int
ByName(const void *a, const void *b)
{
	return strcmp(((const Entry *) a)->utf8, ((const Entry *) b)->utf8);
}

/* What is to be saved. Inside SPI; everything in the given context. */
static void
ListEntries(Save *save, const char *model, bool moments, MemoryContext context)
{
	static LlmQuery list = {"SELECT name, owner_model, owner_name, part, shape FROM "
							"%s.llm_checkpoint_tensors($1) WHERE part = 'data' OR $2",
		2, {TEXTOID, BOOLOID}};
	Datum args[2] = {CStringGetTextDatum(model), BoolGetDatum(moments)};
	MemoryContext old;

	LlmRun(&list, args, NULL, true, 0);
	old = MemoryContextSwitchTo(context);
	save->count = (int) SPI_processed;
	save->entries = palloc0(sizeof(Entry) * (Size) (save->count + 1));
	for (int i = 0; i < save->count; i++)
	{
		Entry *entry = &save->entries[i];
		bool null;

		entry->name = LlmField(i, 1);
		entry->utf8 = ToUtf8(entry->name);
		entry->owner = LlmField(i, 2);
		entry->owner_name = LlmField(i, 3);
		entry->part = LlmField(i, 4)[0];
		entry->ndim = ShapeFromArray(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 5, &null), entry->dims);
	}
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
	qsort(save->entries, save->count, sizeof(Entry), ByName);
	for (int i = 1; i < save->count; i++)
		if (strcmp(save->entries[i - 1].utf8, save->entries[i].utf8) == 0)
			ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
					errmsg("two tensors of the checkpoint would be named \"%s\"", save->entries[i].name),
					errhint("Rename the parameter: names that begin with " SAVED_M " and " SAVED_V
							" are the moments'.")));
}

static Tensor *
Fetch(const Entry *entry)
{
	static LlmQuery data = {"SELECT data FROM %s.llm_param WHERE model = $1 AND name = $2", 2,
						{TEXTOID, TEXTOID}},
					m = {"SELECT m FROM %s.llm_param WHERE model = $1 AND name = $2", 2, {TEXTOID, TEXTOID}},
					v = {"SELECT v FROM %s.llm_param WHERE model = $1 AND name = $2", 2, {TEXTOID, TEXTOID}};
	Datum args[2] = {CStringGetTextDatum(entry->owner), CStringGetTextDatum(entry->owner_name)};

	LlmRun(entry->part == 'd' ? &data : entry->part == 'm' ? &m : &v, args, NULL, true, 1);
	return SavedResult();
}

/* Hands every tensor to write (NULL: only the hash is wanted), each in a memory context of its own. */
static void
EachEntry(
	Save *save, void (*write)(Save *save, const Entry *entry, const Tensor *tensor, void *arg), void *arg)
{
	MemoryContext one =
		AllocSetContextCreate(CurrentMemoryContext, "pg_llm checkpoint", ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < save->count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(one);
		const Tensor *tensor = Fetch(&save->entries[i]);

		CHECK_FOR_INTERRUPTS();
		if (save->entries[i].part == 'd')
			DigestTensor(save->model, save->entries[i].utf8, tensor);
		if (write)
			write(save, &save->entries[i], tensor, arg);
		MemoryContextSwitchTo(old);
		MemoryContextReset(one);
	}
	MemoryContextDelete(one);
}

/* ---- as a file ---- */

/* Every byte of the file also goes into its hash. */
static LlmCode
HashAndWrite(void *context, const void *bytes, size_t size, LlmError *err)
{
	Save *save = context;

	DigestAdd(save->stored, bytes, size);
	save->bytes += (int64) size;
	return save->file->write(save->file->context, bytes, size, err);
}

static void
WriteValues(Save *save, const Entry *entry, const Tensor *tensor, void *arg)
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
	Save *save = arg;
	LlmSink hashed = {HashAndWrite, save};
	LlmSafetensorsTensor *tensors = palloc(sizeof(LlmSafetensorsTensor) * (Size) (save->count + 1));
	LlmError err;

	save->file = sink;
	for (int i = 0; i < save->count; i++)
		tensors[i] =
			(LlmSafetensorsTensor){save->entries[i].utf8, save->entries[i].ndim, save->entries[i].dims};
	LLM_CHECK(llm_safetensors_write_header(
				  &hashed, tensors, (size_t) save->count, save->config, LlmContextAllocator(), &err),
		&err);
	EachEntry(save, WriteValues, &hashed);
}

static void
WriteMember(Save *save, const Entry *entry, const Tensor *tensor, void *arg)
{
	LlmError err;

	LLM_CHECK(
		llm_npz_write_tensor(arg, entry->utf8, entry->ndim, entry->dims, TENSOR_DATA(tensor), &err), &err);
}

static void
ProduceNpz(const LlmSink *sink, void *arg)
{
	Save *save = arg;
	LlmSink hashed = {HashAndWrite, save};
	LlmNpzWriter writer;
	LlmError err;

	save->file = sink;
	llm_npz_writer_init(&writer, &hashed, LlmContextAllocator());
	EachEntry(save, WriteMember, &writer);
	LLM_CHECK(llm_npz_write_member(&writer, LLM_CONFIG_NAME, save->config, strlen(save->config), &err), &err);
	LLM_CHECK(llm_npz_finish(&writer, &err), &err);
	llm_npz_writer_close(&writer);
}

static void
ProduceConfig(const LlmSink *sink, void *arg)
{
	const Save *save = arg;
	LlmError err;

	LLM_CHECK(sink->write(sink->context, save->config, strlen(save->config), &err), &err);
}

/* The folder is one that HuggingFace's from_pretrained reads. */
static char *
SaveFile(Save *save, const char *model, bool npz)
{
	char *folder = CheckpointFolderMake(save->id, model);
	char *path = psprintf("%s/%s", folder, npz ? "model.npz" : "model.safetensors");

	WriteServerFile(psprintf("%s/%s", folder, LLM_CONFIG_NAME), ProduceConfig, save);
	WriteServerFile(path, npz ? ProduceNpz : ProduceSafetensors, save);
	return path;
}

/* ---- as rows ---- */

static void
WriteRow(Save *save, const Entry *entry, const Tensor *tensor, void *arg)
{
	static LlmQuery insert = {
		"INSERT INTO %s.llm_checkpoint_param (checkpoint, name, data) VALUES ($1, $2, $3)", 3,
		{INT8OID, TEXTOID}};
	Datum args[3] = {Int64GetDatum(save->id), CStringGetTextDatum(entry->name), PointerGetDatum(tensor)};

	insert.types[2] = LlmTensorType();
	DigestTensor(save->stored, entry->utf8, tensor);
	save->bytes += TensorNumel(tensor) * (int64) sizeof(float);
	LlmReserve(VARSIZE(tensor)); /* the row that is formed of it */
	LlmRun(&insert, args, NULL, false, 0);
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
	bool rows = strcmp(format, "rows") == 0, nulls[4] = {false};
	MemoryContext outer = CurrentMemoryContext;
	TupleDesc desc;
	Datum result[4];

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "pg_llm: llm_checkpoint_write returns (location, bytes, sha256, model_sha256)");
	if (!rows)
		ServerFileAllow(true);
	save.config = ToUtf8(text_to_cstring(PG_GETARG_TEXT_PP(3)));
	save.model = DigestBegin();
	save.stored = DigestBegin();
	SPI_connect();
	ListEntries(&save, model, true, outer);
	if (rows)
		EachEntry(&save, WriteRow, NULL);
	else
	{
		MemoryContext spi = MemoryContextSwitchTo(outer);

		location = SaveFile(&save, model, strcmp(format, "npz") == 0);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	result[0] = CStringGetTextDatum(location);
	result[1] = Int64GetDatum(save.bytes);
	result[2] = CStringGetTextDatum(DigestEnd(save.stored));
	result[3] = CStringGetTextDatum(DigestEnd(save.model));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), result, nulls)));
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
	EachEntry(&save, NULL, NULL);
	SPI_finish();
	PG_RETURN_TEXT_P(cstring_to_text(DigestEnd(save.model)));
}

/* llm_checkpoint_remove(id, location): the file goes at commit; false where it is not this database's own. */
PG_FUNCTION_INFO_V1(llm_checkpoint_remove);
Datum
llm_checkpoint_remove(PG_FUNCTION_ARGS)
{
	ServerFileAllow(true);
	PG_RETURN_BOOL(CheckpointFolderDrop(PG_GETARG_INT64(0), text_to_cstring(PG_GETARG_TEXT_PP(1))));
}
