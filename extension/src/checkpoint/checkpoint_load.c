/*
 * Loading: the checkpoint is first compared with its recorded SHA-256, then read tensor by tensor.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "formats/tensor_file.h"
#include "src/base/catalog.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/progress.h"
#include "src/base/spi.h"
#include "src/checkpoint/checkpoint.h"
#include "src/checkpoint/import_file.h"
#include "src/model/training_lock.h"
#include "src/tensor/digest.h"
#include "src/tensor/tensor.h"

struct Saved
{
	int64 id;
	bool in_file;
	ServerFile server_file;
	LlmSource source;
	LlmTensorFile file;
};

/* ---- comparing the SHA-256 ---- */

static char *
FileDigest(const LlmSource *source)
{
	Digest *digest = DigestBegin();
	char *buffer = palloc(SERVER_FILE_PIECE);
	LlmError err;

	for (uint64 at = 0; at < source->size; at += SERVER_FILE_PIECE)
	{
		size_t size = (size_t) Min((uint64) SERVER_FILE_PIECE, source->size - at);

		LLM_CHECK(source->read(source->context, at, buffer, size, &err), &err);
		DigestAdd(digest, buffer, size);
	}
	pfree(buffer);
	return DigestEnd(digest);
}

typedef struct SavedName
{
	char *utf8, *name;
} SavedName;

static int
ByName(const void *a, const void *b)
{
	return strcmp(((const SavedName *) a)->utf8, ((const SavedName *) b)->utf8);
}

/* The SHA-256 of the rows' tensors, ordered by name as at the time of saving. */
static char *
RowsDigest(Saved *saved)
{
	static SpiQuery list = {
		"SELECT name FROM %s.llm_checkpoint_param WHERE checkpoint = $1", 1, {INT8OID}, .columns = "s"};
	MemoryContext one =
		AllocSetContextCreate(CurrentMemoryContext, "pg_llm checkpoint", ALLOCSET_DEFAULT_SIZES);
	Datum value = Int64GetDatum(saved->id);
	Digest *digest = DigestBegin();
	uint64 count;
	SavedName *names;

	SpiRun(&list, &value, NULL, true, 0);
	count = SPI_processed;
	names = palloc(sizeof(SavedName) * (count + 1));
	for (uint64 i = 0; i < count; i++)
	{
		names[i].name = SpiField(i, 1);
		names[i].utf8 = ServerToUtf8(names[i].name);
	}
	SPI_freetuptable(SPI_tuptable);
	qsort(names, count, sizeof(SavedName), ByName);
	for (uint64 i = 0; i < count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(one);
		Tensor *tensor = SavedTensor(saved, names[i].name);

		CHECK_FOR_INTERRUPTS();
		if (tensor)
			DigestTensor(digest, names[i].utf8, tensor);
		MemoryContextSwitchTo(old);
		MemoryContextReset(one);
	}
	MemoryContextDelete(one);
	return DigestEnd(digest);
}

static void
Refuse(const Saved *saved, const char *location, const char *recorded, const char *found)
{
	ereport(ERROR,
		(errcode(ERRCODE_DATA_CORRUPTED),
			errmsg("checkpoint %lld is not what was saved: its SHA-256 is %s, recorded is %s",
				(long long) saved->id, found, recorded),
			errdetail("Its location is \"%s\". The model keeps its weights.", location),
			saved->in_file
				? errhint("The file was damaged or replaced: restore it from a backup, or load another "
						  "checkpoint.")
				: errhint("Its rows in llm_checkpoint_param were changed: load another checkpoint.")));
}

/* ---- reading ---- */

Saved *
SavedOpen(int64 id, const char *location, const char *format, const char *sha256)
{
	Saved *saved = palloc0(sizeof(Saved));
	char *found;
	LlmError err;

	saved->id = id;
	saved->in_file = strcmp(location, SAVED_IN_DATABASE) != 0;
	if (saved->in_file)
	{
		bool npz = strcmp(format, "npz") == 0;

		ServerFileAllow(false);
		if (ServerFileKind(location) == '-')
			ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
					errmsg("the file of checkpoint %lld is gone: \"%s\"", (long long) id, location),
					errhint("If it was moved, record its new path: UPDATE llm_checkpoint SET location = "
							"... WHERE id = %lld.",
						(long long) id)));
		/* The same descriptor serves from the hash to the last tensor: a file renamed to this path in between
		 * is not read. */
		ServerFileOpen(&saved->server_file, location);
		saved->source = ServerFileSource(&saved->server_file);
		found = FileDigest(&saved->source);
		if (strcmp(found, sha256) != 0)
			Refuse(saved, location, sha256, found);
		LLM_CHECK((npz ? llm_npz_open : llm_safetensors_open)(
					  &saved->file, &saved->source, ContextAllocator(), &err),
			&err);
		return saved;
	}
	found = RowsDigest(saved);
	if (strcmp(found, sha256) != 0)
		Refuse(saved, location, sha256, found);
	return saved;
}

static Tensor *
FromFile(Saved *saved, const char *name)
{
	const LlmTensorEntry *entry = llm_tensor_find(&saved->file, ServerToUtf8(name));
	int dims[LLM_MAX_DIMS];
	Tensor *tensor;
	LlmError err;

	if (entry == NULL)
		return NULL;
	for (int i = 0; i < entry->ndim; i++)
	{
		if (entry->dims[i] > PG_INT32_MAX)
			ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
							   errmsg("%s: tensor \"%s\" is too large", saved->source.name, name)));
		dims[i] = (int) entry->dims[i];
	}
	tensor = TensorNew(entry->ndim, dims);
	LLM_CHECK(llm_tensor_read(&saved->file, entry, TENSOR_DATA(tensor), &err), &err);
	return tensor;
}

Tensor *
SavedTensor(Saved *saved, const char *name)
{
	static SpiQuery read = {"SELECT data FROM %s.llm_checkpoint_param WHERE checkpoint = $1 AND name = $2", 2,
		{INT8OID, TEXTOID}, .columns = "t?"};
	Datum args[2] = {Int64GetDatum(saved->id), CStringGetTextDatum(name)};

	if (saved->in_file)
		return FromFile(saved, name);
	SpiRun(&read, args, NULL, true, 1);
	return SpiTensorField();
}

void
SavedClose(Saved *saved)
{
	if (saved->in_file)
	{
		llm_tensor_file_close(&saved->file);
		ServerFileClose(&saved->server_file);
	}
}

/* ---- into llm_param ---- */

static SpiQuery write_data = {"UPDATE %s.llm_param SET data = $3, grad = NULL WHERE model = $1 AND name = $2",
					3},
				write_m = {"UPDATE %s.llm_param SET m = $3 WHERE model = $1 AND name = $2", 3},
				write_v = {"UPDATE %s.llm_param SET v = $3 WHERE model = $1 AND name = $2", 3};

/* One column per UPDATE: several large ones together would exceed the 1 GB limit of a row in memory. */
static void
WriteColumn(SpiQuery *query, const char *model, const char *name, Tensor *tensor)
{
	Datum args[3] = {CStringGetTextDatum(model), CStringGetTextDatum(name), PointerGetDatum(tensor)};

	query->types[0] = query->types[1] = TEXTOID;
	query->types[2] = TensorTypeOid();
	if (tensor)
		ReserveMemory(VARSIZE(tensor)); /* for the row formed from it */
	SpiRun(query, args, tensor ? NULL : "  n", false, 0);
	if (SPI_processed != 1)
		ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("parameter \"%s\" of model \"%s\" cannot be written", name, model),
				errhint("A row security policy, or a rule or trigger on llm_param, kept its row as it is.")));
	if (tensor)
		pfree(tensor);
}

/*
 * llm_checkpoint_read(id, model, location, format, sha256): reads weights and moments into the existing rows
 * of the model's parameters. It raises an error while the model is being trained, and waits for a change by
 * hand. Returns the number of parameters.
 */
PG_FUNCTION_INFO_V1(llm_checkpoint_read);
Datum
llm_checkpoint_read(PG_FUNCTION_ARGS)
{
	static SpiQuery list = {
		"SELECT name, owner_model, owner_name FROM %s._llm_export_rows($1)", 1, {TEXTOID}, .columns = "sss"};
	Datum model = PG_GETARG_DATUM(1);
	MemoryContext one =
		AllocSetContextCreate(CurrentMemoryContext, "pg_llm checkpoint", ALLOCSET_DEFAULT_SIZES);
	SPITupleTable *rows;
	char *target = TextDatumGetCString(model);
	Progress *progress = ProgressBegin(CurrentMemoryContext, "checkpoint load", target, "tensor", 0);
	uint64 count;
	Saved *saved;

	TrainingLock(target, false, false); /* fails during training, but waits for a change by hand */
	if (!TrainingLockRows(target, false, true))
		TrainingRowsHeld(target);
	SPI_connect();
	ProgressPhaseIs(progress, PROGRESS_LOADING); /* and comparing the hash */
	saved = SavedOpen(PG_GETARG_INT64(0), text_to_cstring(PG_GETARG_TEXT_PP(2)),
		text_to_cstring(PG_GETARG_TEXT_PP(3)), text_to_cstring(PG_GETARG_TEXT_PP(4)));
	SpiRun(&list, &model, NULL, true, 0);
	rows = SPI_tuptable;
	count = SPI_processed;
	ProgressRange(progress, 0, (int64) count);
	for (uint64 i = 0; i < count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(one);
		char *owner = SPI_getvalue(rows->vals[i], rows->tupdesc, 2);
		char *owner_name = SPI_getvalue(rows->vals[i], rows->tupdesc, 3);
		char *name = SPI_getvalue(rows->vals[i], rows->tupdesc, 1);
		Tensor *data = SavedTensor(saved, name);

		CHECK_FOR_INTERRUPTS();
		if (data == NULL)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
							   errmsg("checkpoint %lld has no tensor \"%s\"", (long long) saved->id, name)));
		WriteColumn(&write_data, owner, owner_name, data);
		WriteColumn(&write_m, owner, owner_name, SavedTensor(saved, psprintf(SAVED_M "%s", name)));
		WriteColumn(&write_v, owner, owner_name, SavedTensor(saved, psprintf(SAVED_V "%s", name)));
		MemoryContextSwitchTo(old);
		MemoryContextReset(one);
		ProgressStep(progress, (int64) i + 1, 0);
	}
	SavedClose(saved);
	SPI_finish();
	ProgressEnd(progress);
	PG_RETURN_INT64((int64) count);
}
