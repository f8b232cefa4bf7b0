/*
 * Loads a tokenizer's files into llm_bpe_vocab and llm_bpe_merges: reads them, checks them and writes the
 * rows (tokenizer_rows.c). Reading a file on the server requires the rights of pg_read_server_files.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "src/base/catalog.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/tokenizer/tokenizer.h"
#include "src/tokenizer/tokenizer_rows.h"

PG_FUNCTION_INFO_V1(pg_llm_load_bpe_vocab);
PG_FUNCTION_INFO_V1(pg_llm_load_bpe_merges);
PG_FUNCTION_INFO_V1(pg_llm_load_bpe);

/* The bytes of a file, and its name for messages. */
typedef struct FileBytes
{
	const char *name;
	char *data;
	Size size;
} FileBytes;

/* ---- reading ---- */

static FileBytes
ReadServerFile(const char *path)
{
	FileBytes file = {path};
	struct stat status;
	FILE *stream;

	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("permission denied to read file \"%s\" on the server", path),
				errhint("Members of pg_read_server_files may. Anybody who may write llm_bpe_vocab and "
						"llm_bpe_merges can send the files from the client: pg-llm ingest-tokenizer %s.",
					DatabaseOption())));
	/* Checked before it is opened: opening a pipe would block. */
	if (stat(path, &status) != 0)
		ereport(
			ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\" on the server: %m", path)));
	if (!S_ISREG(status.st_mode))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is not a regular file", path)));
	file.size = (Size) status.st_size;
	if (file.size > MaxAllocSize - 1)
		ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				errmsg("file \"%s\" has %zu bytes; a tokenizer's file has at most 1 GB", path, file.size)));
	ReserveMemory(file.size);
	file.data = palloc(file.size + 1);
	stream = AllocateFile(path, PG_BINARY_R);
	if (stream == NULL)
		ereport(
			ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\" on the server: %m", path)));
	for (Size at = 0, done = 1; done > 0 && at < status.st_size; at += done)
	{
		CHECK_FOR_INTERRUPTS();
		done = fread(file.data + at, 1, Min(LLM_POLL_BYTES, status.st_size - at), stream);
		file.size = at + done;
	}
	if (ferror(stream))
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not read file \"%s\": %m", path)));
	FreeFile(stream);
	return file;
}

static FileBytes
BytesArgument(FunctionCallInfo fcinfo, int n, const char *name)
{
	bytea *data = DetoastWhole(PG_GETARG_DATUM(n));

	return (FileBytes){name, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data)};
}

static LlmBpe *
ReadVocab(FileBytes file, LlmAllocator *allocator)
{
	LlmError err;
	LlmBpe *bpe = llm_bpe_new(allocator, file.name, &err);

	if (bpe == NULL)
		RaiseError(&err);
	LLM_CHECK(llm_bpe_read_vocab(bpe, file.name, file.data, file.size, &CancelStop, &err), &err);
	LLM_CHECK(llm_bpe_finish(bpe, &err), &err);
	return bpe;
}

static int64
InsertVocab(FileBytes file, const char *model)
{
	LlmBpe *bpe = ReadVocab(file, ContextAllocator());
	Size count = llm_bpe_count(bpe);
	Datum *ids = palloc(count * sizeof(Datum) + 1), *texts = palloc(count * sizeof(Datum) + 1);
	Datum *bytes = palloc(count * sizeof(Datum) + 1);

	if (count == 0)
		ereport(
			ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION), errmsg("%s has no tokens", file.name)));
	for (Size i = 0; i < count; i++)
	{
		LlmBpeToken token = llm_bpe_token(bpe, (uint32) i);

		LLM_POLL(i);
		ids[i] = Int32GetDatum(token.id);
		texts[i] = PointerGetDatum(TokenizerServerText(token.text, token.text_size));
		bytes[i] = PointerGetDatum(cstring_to_text_with_len((const char *) token.bytes, (int) token.size));
	}
	TokenizerInsertTokens(model, ids, texts, bytes, count, 0);
	return (int64) count;
}

static int64
InsertMerges(FileBytes file, const char *model)
{
	LlmBpeMergeFile merges = llm_bpe_merge_file(file.name, file.data, file.size);
	Size count = 0, capacity = 1024;
	Datum *left = palloc(capacity * sizeof(Datum)), *right = palloc(capacity * sizeof(Datum));
	LlmError err;

	merges.stop = &CancelStop;
	for (;; count++)
	{
		LLM_CHECK(llm_bpe_next_merge(&merges, &err), &err);
		if (merges.left == NULL)
			break;
		if (count == capacity)
		{
			capacity *= 2;
			left = repalloc_huge(left, capacity * sizeof(Datum));
			right = repalloc_huge(right, capacity * sizeof(Datum));
		}
		left[count] = PointerGetDatum(TokenizerServerText(merges.left, merges.left_size));
		right[count] = PointerGetDatum(TokenizerServerText(merges.right, merges.right_size));
	}
	TokenizerInsertMerges(model, left, right, count);
	return (int64) count;
}

/* (path text, model text, truncate boolean) -> number of tokens */
Datum
pg_llm_load_bpe_vocab(PG_FUNCTION_ARGS)
{
	FileBytes file = ReadServerFile(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char *model = TokenizerNameArgument(fcinfo, 1);
	bool truncate = PG_GETARG_BOOL(2);
	int64 count;
	int level;

	level = TokenizerBeginWrite();
	TokenizerMakeRoom(model, false, truncate);
	if (truncate) /* the old merges refer to deleted tokens */
		TokenizerMakeRoom(model, true, true);
	count = InsertVocab(file, model);
	TokenizerWritten(model);
	TokenizerEndWrite(level);
	PG_RETURN_INT32((int32) count);
}

/* (path text, model text, truncate boolean) -> number of merges */
Datum
pg_llm_load_bpe_merges(PG_FUNCTION_ARGS)
{
	FileBytes file = ReadServerFile(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char *model = TokenizerNameArgument(fcinfo, 1);
	int64 count;
	int level;

	level = TokenizerBeginWrite();
	TokenizerMakeRoom(model, true, PG_GETARG_BOOL(2));
	count = InsertMerges(file, model);
	if (TokenizerUpdateRanks(model))
		TokenizerWritten(model);
	TokenizerEndWrite(level);
	PG_RETURN_INT32((int32) count);
}

/* (vocab bytea, merges bytea, model text, truncate boolean) -> number of tokens; merges may be NULL */
Datum
pg_llm_load_bpe(PG_FUNCTION_ARGS)
{
	char *model;
	bool truncate;
	int64 count;
	int level;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(3))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						   errmsg("the vocabulary, the tokenizer's name and truncate cannot be NULL")));
	model = TokenizerNameArgument(fcinfo, 2);
	truncate = PG_GETARG_BOOL(3);
	level = TokenizerBeginWrite();
	TokenizerMakeRoom(model, false, truncate);
	TokenizerMakeRoom(model, true, truncate);
	if (!PG_ARGISNULL(1))
		InsertMerges(BytesArgument(fcinfo, 1, "merges"), model);
	count = InsertVocab(BytesArgument(fcinfo, 0, "vocab"), model);
	TokenizerWritten(model);
	TokenizerEndWrite(level);
	PG_RETURN_INT32((int32) count);
}
