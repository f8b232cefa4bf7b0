#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "formats/json.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/checkpoint/import_checkpoint.h"
#include "src/tensor/tensor.h"

#define MAX_CONFIG (1024 * 1024)
#define MAX_INDEX (64 * 1024 * 1024)

const CheckpointFormat CheckpointSafetensors = {
	"model.safetensors", "model.safetensors.index.json", llm_safetensors_open};
const CheckpointFormat CheckpointNpz = {"model.npz", NULL, llm_npz_open};

/* Converts UTF-8 from a file to the server's encoding; the caller owns the copy. */
static char *
FromUtf8(const char *text, Size length)
{
	char *copy = pnstrdup(text, length);

	return pg_any_to_server(copy, (int) length, PG_UTF8);
}

/* Parses JSON with the extension's parser first, because its errors name the file and the byte. */
static char *
CheckedJson(const char *name, const char *text, Size length)
{
	LlmJson json;
	LlmError err;

	llm_json_open(&json, name, text, length, ContextAllocator());
	json.stop = &CancelStop;
	LLM_CHECK(llm_json_skip(&json, &err), &err);
	LLM_CHECK(llm_json_expect(&json, LLM_JSON_END, &err), &err);
	llm_json_close(&json);
	if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) /* the server's own parser rejects the mark */
		return FromUtf8(text + 3, length - 3);
	return FromUtf8(text, length);
}

/* Adds the tensors of one file. */
static void
AddFile(
	Checkpoint *checkpoint, const char *path, const CheckpointFormat *format, const LlmAllocator *allocator)
{
	ServerFile *server_file = palloc(sizeof(ServerFile));
	LlmTensorFile *file = palloc(sizeof(LlmTensorFile));
	LlmSource source;
	LlmError err;
	Size room;

	ServerFileOpen(server_file, path);
	source = ServerFileSource(server_file);
	LLM_CHECK(format->open(file, &source, allocator, &err), &err);
	ServerFileClose(server_file); /* a checkpoint may have more files than a process may open */

	room = sizeof(CheckpointTensor) * ((Size) checkpoint->count + file->count + 1);
	ReserveMemory(room);
	checkpoint->tensors = checkpoint->tensors == NULL ? MemoryContextAllocHuge(CurrentMemoryContext, room)
													  : repalloc_huge(checkpoint->tensors, room);
	for (size_t i = 0; i < file->count; i++)
	{
		const LlmTensorEntry *entry = &file->entries[i];

		LLM_POLL(i);
		checkpoint->tensors[checkpoint->count++] =
			(CheckpointTensor){file, server_file, entry, FromUtf8(entry->name, strlen(entry->name))};
	}
	if (file->config != NULL && checkpoint->config == NULL)
		checkpoint->config =
			CheckedJson(psprintf("%s: %s", path, LLM_CONFIG_NAME), file->config, file->config_size);
}

/* Checks that a shard's name is that of a file in the folder of the index. */
static const char *
ShardPath(const char *folder, const char *index, const LlmJson *json)
{
	char *name = FromUtf8(json->text, json->length);

	if (strlen(name) != json->length || name[0] == '\0' || strchr(name, '/') != NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
						   errmsg("%s: \"%s\" is not the name of a file beside it", index, name)));
	return psprintf("%s/%s", folder, name);
}

/* The files named by the index, each once, in the order of their first mention. */
static List *
ReadIndex(const char *folder, const char *index, LlmAllocator *allocator)
{
	char *text = ServerFileText(index, MAX_INDEX);
	List *shards = NIL;
	LlmJson json;
	LlmError err;

	llm_json_open(&json, index, text, strlen(text), allocator);
	json.stop = &CancelStop;
	LLM_CHECK(llm_json_expect(&json, LLM_JSON_OBJECT, &err), &err);
	for (;;)
	{
		LLM_CHECK(llm_json_next(&json, &err), &err);
		if (json.token == LLM_JSON_OBJECT_END)
			break;
		if (json.length != 10 || memcmp(json.text, "weight_map", 10) != 0)
		{
			LLM_CHECK(llm_json_skip(&json, &err), &err);
			continue;
		}
		LLM_CHECK(llm_json_expect(&json, LLM_JSON_OBJECT, &err), &err);
		for (;;)
		{
			const char *path;
			ListCell *cell;
			bool known = false;

			CHECK_FOR_INTERRUPTS();
			LLM_CHECK(llm_json_next(&json, &err), &err);
			if (json.token == LLM_JSON_OBJECT_END)
				break;
			LLM_CHECK(llm_json_expect(&json, LLM_JSON_STRING, &err), &err);
			path = ShardPath(folder, index, &json);
			foreach (cell, shards)
				known |= strcmp(path, lfirst(cell)) == 0;
			if (!known)
				shards = lappend(shards, (void *) path);
		}
	}
	LLM_CHECK(llm_json_expect(&json, LLM_JSON_END, &err), &err);
	llm_json_close(&json);
	if (shards == NIL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
						   errmsg("%s: no \"weight_map\" with file names", index)));
	return shards;
}

static void
NothingToImport(const char *folder, const CheckpointFormat *format)
{
	ereport(
		ERROR, (errcode(ERRCODE_UNDEFINED_FILE),
				   errmsg("folder \"%s\" has no %s%s%s", folder, format->file,
					   format->index ? " and no " : "", format->index ? format->index : ""),
				   ServerFileKind(psprintf("%s/pytorch_model.bin", folder)) == 'f'
					   ? errhint("Convert its pytorch_model.bin: pg-llm convert --source %s --output %s/%s",
							 folder, folder, format->file)
					   : errhint("Give the path of the file itself if it has another name.")));
}

static List *
FilesOf(const char *path, const CheckpointFormat *format, LlmAllocator *allocator)
{
	char *file = psprintf("%s/%s", path, format->file);

	if (ServerFileKind(path) != 'd')
		return list_make1((void *) path);
	if (ServerFileKind(file) == 'f')
		return list_make1(file);
	if (format->index != NULL && ServerFileKind(psprintf("%s/%s", path, format->index)) == 'f')
		return ReadIndex(path, psprintf("%s/%s", path, format->index), allocator);
	NothingToImport(path, format);
	return NIL;
}

void
CheckpointOpen(Checkpoint *checkpoint, const char *path, const CheckpointFormat *format)
{
	LlmAllocator *allocator = ContextAllocator();
	bool folder = ServerFileKind(path) == 'd';
	ListCell *cell;

	*checkpoint = (Checkpoint){0};
	foreach (cell, FilesOf(path, format, allocator))
		AddFile(checkpoint, lfirst(cell), format, allocator);
	if (checkpoint->config == NULL)
	{
		char *beside = pstrdup(path), *text;

		if (!folder)
			get_parent_directory(beside);
		beside = psprintf("%s/%s", beside, LLM_CONFIG_NAME);
		text = ServerFileText(beside, MAX_CONFIG);
		if (text != NULL)
			checkpoint->config = CheckedJson(beside, text, strlen(text));
	}
}

void
CheckpointRead(const CheckpointTensor *tensor, bool transpose, float *out)
{
	LlmTensorEntry entry = *tensor->entry;
	LlmError err;

	if (transpose) /* (out,in) in C order is (in,out) in Fortran's */
	{
		entry.dims[0] = tensor->entry->dims[1];
		entry.dims[1] = tensor->entry->dims[0];
		entry.fortran = !entry.fortran;
	}
	LLM_CHECK(llm_tensor_read(tensor->file, &entry, out, &err), &err);
	ServerFileClose(tensor->server_file);
}

/* The tensors that are the head and the embedding; NULL where there is none. */
static void
FindHead(const Checkpoint *checkpoint, const CheckpointTensor **head, const CheckpointTensor **wte)
{
	static SpiQuery find = {"SELECT head, embedding FROM %s._llm_import_head($1::jsonb, $2::jsonb)", 2,
		{TEXTOID, TEXTOID}, .columns = "i?i?", .one = true};
	Datum args[2] = {CStringGetTextDatum(CheckpointTensorsJson(checkpoint)),
		checkpoint->config ? CStringGetTextDatum(checkpoint->config) : (Datum) 0};
	const CheckpointTensor **found[2] = {head, wte};

	SpiRun(&find, args, checkpoint->config ? "  " : " n", false, 0);
	for (int i = 0; i < 2; i++)
	{
		bool isnull;
		Datum position = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &isnull);

		*found[i] = isnull ? NULL : &checkpoint->tensors[DatumGetInt32(position) - 1];
	}
	SPI_freetuptable(SPI_tuptable);
}

bool
CheckpointHeadIsWte(const Checkpoint *checkpoint)
{
	const CheckpointTensor *head, *wte;
	const LlmTensorEntry *a, *b;
	int dims[2];
	Tensor *values;
	LlmError err;
	bool equal;

	FindHead(checkpoint, &head, &wte);
	if (head == NULL || wte == NULL)
		return false;
	a = head->entry;
	b = wte->entry;
	if (a->dtype == LLM_OTHER_DTYPE || b->dtype == LLM_OTHER_DTYPE || a->ndim != 2 || b->ndim != 2 ||
		a->dims[0] != b->dims[0] || a->dims[1] != b->dims[1] || a->dims[0] > PG_INT32_MAX ||
		a->dims[1] > PG_INT32_MAX)
		return false;
	dims[0] = (int) a->dims[0];
	dims[1] = (int) a->dims[1];
	values = TensorNew(2, dims);
	CheckpointRead(wte, false, TENSOR_DATA(values));
	LLM_CHECK(llm_tensor_equals(head->file, a, TENSOR_DATA(values), &equal, &err), &err);
	ServerFileClose(head->server_file);
	pfree(values);
	return equal;
}

char *
CheckpointTensorsJson(const Checkpoint *checkpoint)
{
	static const char *const dtypes[] = {"F32", "F16", "BF16", "F64"};
	StringInfoData json;

	initStringInfo(&json);
	for (int i = 0; i < checkpoint->count; i++)
	{
		const LlmTensorEntry *entry = checkpoint->tensors[i].entry;

		CHECK_FOR_INTERRUPTS();
		appendStringInfoString(&json, i > 0 ? ",{\"name\":" : "[{\"name\":");
		escape_json(&json, checkpoint->tensors[i].name);
		appendStringInfoString(&json, ",\"dtype\":");
		escape_json(&json, entry->dtype == LLM_OTHER_DTYPE ? entry->dtype_name : dtypes[entry->dtype]);
		appendStringInfoString(&json, ",\"shape\":[");
		for (int d = 0; d < entry->ndim; d++)
			appendStringInfo(&json, d > 0 ? ",%lld" : "%lld", (long long) entry->dims[d]);
		appendStringInfoString(&json, "]}");
	}
	appendStringInfoString(&json, checkpoint->count > 0 ? "]" : "[]");
	return json.data;
}
