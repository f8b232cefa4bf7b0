/*
 * Loading a tokenizer's files into llm_bpe_vocab and llm_bpe_merges: read, check, one INSERT each. The caller
 * needs the rights to write the tables; to have the server open a file, also those of pg_read_server_files.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "src/pg_llm.h"
#include "src/query.h"
#include "src/tokenizer.h"

PG_FUNCTION_INFO_V1(pg_llm_load_bpe_vocab);
PG_FUNCTION_INFO_V1(pg_llm_load_bpe_merges);
PG_FUNCTION_INFO_V1(pg_llm_load_bpe);

/* The bytes of a file, and what to call them in messages. */
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
						"llm_bpe_merges can send the files from the client: pg-llm ingest-tokenizer.")));
	/* Looked at before it is opened: opening a pipe would wait. */
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
	LlmReserve(file.size);
	file.data = palloc(file.size + 1);
	stream = AllocateFile(path, PG_BINARY_R);
	if (stream == NULL)
		ereport(
			ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\" on the server: %m", path)));
	file.size = fread(file.data, 1, file.size, stream);
	if (ferror(stream))
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not read file \"%s\": %m", path)));
	FreeFile(stream);
	return file;
}

static FileBytes
BytesArgument(FunctionCallInfo fcinfo, int n, const char *name)
{
	bytea *data = PG_GETARG_BYTEA_PP(n);

	return (FileBytes){name, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data)};
}

static text *
ServerText(const char *utf8, Size size)
{
	return cstring_to_text(pg_any_to_server(pnstrdup(utf8, size), (int) size, PG_UTF8));
}

/* ---- rows ---- */

/* $1 is the tokenizer's name throughout. */
#define RESULTS /* each merge's result and the lowest rank that makes it */                                  \
	"(SELECT left_token || right_token AS token, min(rank) AS rank FROM %s.llm_bpe_merges"                   \
	" WHERE model = $1 GROUP BY 1)"
static LlmQuery count_tokens = {
	.text = "SELECT count(*) FROM %s.llm_bpe_vocab WHERE model = $1", .nargs = 1, .types = {TEXTOID}};
static LlmQuery count_merges = {
	.text = "SELECT count(*) FROM %s.llm_bpe_merges WHERE model = $1", .nargs = 1, .types = {TEXTOID}};
static LlmQuery delete_tokens = {
	.text = "DELETE FROM %s.llm_bpe_vocab WHERE model = $1", .nargs = 1, .types = {TEXTOID}};
static LlmQuery delete_merges = {
	.text = "DELETE FROM %s.llm_bpe_merges WHERE model = $1", .nargs = 1, .types = {TEXTOID}};
static LlmQuery insert_tokens = {.text = "INSERT INTO %s.llm_bpe_vocab (model, token_id, token, bytes, rank)"
										 " SELECT $1, v.token_id, v.token, v.bytes, m.rank"
										 " FROM unnest($2, $3, $4) AS v(token_id, token, bytes)"
										 " LEFT JOIN " RESULTS " m ON m.token = v.token ORDER BY v.token_id",
	.nargs = 4,
	.types = {TEXTOID, INT4ARRAYOID, TEXTARRAYOID, BYTEAARRAYOID}};
static LlmQuery insert_merges = {.text =
									 "INSERT INTO %s.llm_bpe_merges (model, rank, left_token, right_token)"
									 " SELECT $1, (m.n - 1)::pg_catalog.int4, m.l, m.r FROM"
									 " unnest($2, $3) WITH ORDINALITY AS m(l, r, n) ORDER BY m.n",
	.nargs = 3,
	.types = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID}};
/* llm_bpe_vocab.rank says which merge makes the token */
static LlmQuery update_ranks = {.text = "UPDATE %s.llm_bpe_vocab v SET rank = n.rank"
										" FROM (SELECT w.token_id, m.rank FROM %s.llm_bpe_vocab w"
										" LEFT JOIN " RESULTS " m ON m.token = w.token WHERE w.model = $1) n"
										" WHERE v.model = $1 AND v.token_id = n.token_id"
										" AND v.rank IS DISTINCT FROM n.rank",
	.nargs = 1,
	.types = {TEXTOID}};

/*
 * For the rest of this function operators are PostgreSQL's own, and joins go by hash: the planner takes a
 * name that its statistics have not seen for one row, and a nested loop over 50,000 by 50,000 takes half an
 * hour. Returns what EndLoad wants.
 */
static int
BeginLoad(void)
{
	int level = NewGUCNestLevel();

	SPI_connect();
	set_config_option(
		"search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	set_config_option("enable_nestloop", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

static void
EndLoad(int level)
{
	AtEOXact_GUC(true, level);
	SPI_finish();
}

static int64
Count(LlmQuery *query, Datum model)
{
	bool null;

	LlmRun(query, &model, NULL, false, 0);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
}

/* Rows of a tokenizer that are there are kept unless truncate says otherwise. */
static void
MakeRoom(const char *model, bool merges, bool truncate)
{
	Datum value = CStringGetTextDatum(model);
	int64 count;

	if (truncate)
		LlmRun(merges ? &delete_merges : &delete_tokens, &value, NULL, false, 0);
	else if ((count = Count(merges ? &count_merges : &count_tokens, value)) > 0)
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
						   errmsg("tokenizer \"%s\" already has %lld %s", model, (long long) count,
							   merges ? "merges" : "tokens"),
						   errhint("Replace them with truncate => true, or load under another name.")));
}

static Datum
ArrayOf(Datum *values, Size count, Oid type, int length, bool by_value)
{
	return PointerGetDatum(construct_array(values, (int) count, type, length, by_value, TYPALIGN_INT));
}

static LlmBpe *
ReadVocab(FileBytes file, LlmAllocator *allocator)
{
	LlmError err;
	LlmBpe *bpe = llm_bpe_new(allocator, file.name, &err);

	if (bpe == NULL)
		LlmRaise(&err);
	LLM_CHECK(llm_bpe_read_vocab(bpe, file.name, file.data, file.size, &TokenizerStop, &err), &err);
	LLM_CHECK(llm_bpe_finish(bpe, &err), &err);
	return bpe;
}

static int64
InsertVocab(FileBytes file, const char *model)
{
	LlmBpe *bpe = ReadVocab(file, LlmContextAllocator());
	Size count = llm_bpe_count(bpe);
	Datum *ids = palloc(count * sizeof(Datum) + 1), *texts = palloc(count * sizeof(Datum) + 1);
	Datum *bytes = palloc(count * sizeof(Datum) + 1), values[4];

	if (count == 0)
		ereport(
			ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION), errmsg("%s has no tokens", file.name)));
	for (Size i = 0; i < count; i++)
	{
		LlmBpeToken token = llm_bpe_token(bpe, (uint32) i);

		ids[i] = Int32GetDatum(token.id);
		texts[i] = PointerGetDatum(ServerText(token.text, token.text_size));
		bytes[i] = PointerGetDatum(cstring_to_text_with_len((const char *) token.bytes, (int) token.size));
	}
	values[0] = CStringGetTextDatum(model);
	values[1] = ArrayOf(ids, count, INT4OID, 4, true);
	values[2] = ArrayOf(texts, count, TEXTOID, -1, false);
	values[3] = ArrayOf(bytes, count, BYTEAOID, -1, false);
	LlmRun(&insert_tokens, values, NULL, false, 0);
	return (int64) count;
}

static int64
InsertMerges(FileBytes file, const char *model)
{
	LlmBpeMergeFile merges = llm_bpe_merge_file(file.name, file.data, file.size);
	Size count = 0, capacity = 1024;
	Datum *left = palloc(capacity * sizeof(Datum)), *right = palloc(capacity * sizeof(Datum));
	Datum values[3];
	LlmError err;

	for (;; count++)
	{
		LLM_CHECK(llm_bpe_next_merge(&merges, &err), &err);
		if (merges.left == NULL)
			break;
		if (count % 65536 == 65535)
			CHECK_FOR_INTERRUPTS();
		if (count == capacity)
		{
			capacity *= 2;
			left = repalloc_huge(left, capacity * sizeof(Datum));
			right = repalloc_huge(right, capacity * sizeof(Datum));
		}
		left[count] = PointerGetDatum(ServerText(merges.left, merges.left_size));
		right[count] = PointerGetDatum(ServerText(merges.right, merges.right_size));
	}
	values[0] = CStringGetTextDatum(model);
	values[1] = ArrayOf(left, count, TEXTOID, -1, false);
	values[2] = ArrayOf(right, count, TEXTOID, -1, false);
	LlmRun(&insert_merges, values, NULL, false, 0);
	return (int64) count;
}

/* Compiles the rows just written, which checks that merges and vocabulary fit one another. */
static void
CheckTokenizer(const char *model)
{
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	TokenizerCheck(model);
	PopActiveSnapshot();
}

static char *
ModelArgument(FunctionCallInfo fcinfo, int n)
{
	char *model = text_to_cstring(PG_GETARG_TEXT_PP(n));

	if (model[0] == '\0')
		ereport(
			ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("a tokenizer's name cannot be empty")));
	return model;
}

/* (path text, model text, truncate boolean) -> number of tokens */
Datum
pg_llm_load_bpe_vocab(PG_FUNCTION_ARGS)
{
	FileBytes file = ReadServerFile(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char *model = ModelArgument(fcinfo, 1);
	bool truncate = PG_GETARG_BOOL(2);
	int64 count;
	int level;

	level = BeginLoad();
	MakeRoom(model, false, truncate);
	if (truncate) /* the old vocabulary's merges have lost their tokens */
		MakeRoom(model, true, true);
	count = InsertVocab(file, model);
	CheckTokenizer(model);
	EndLoad(level);
	PG_RETURN_INT32((int32) count);
}

/* (path text, model text, truncate boolean) -> number of merges */
Datum
pg_llm_load_bpe_merges(PG_FUNCTION_ARGS)
{
	FileBytes file = ReadServerFile(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char *model = ModelArgument(fcinfo, 1);
	int64 count;
	int level;
	Datum value;

	level = BeginLoad();
	MakeRoom(model, true, PG_GETARG_BOOL(2));
	count = InsertMerges(file, model);
	value = CStringGetTextDatum(model);
	if (Count(&count_tokens, value) > 0)
	{
		LlmRun(&update_ranks, &value, NULL, false, 0);
		CheckTokenizer(model);
	}
	EndLoad(level);
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
	model = ModelArgument(fcinfo, 2);
	truncate = PG_GETARG_BOOL(3);
	level = BeginLoad();
	MakeRoom(model, false, truncate);
	MakeRoom(model, true, truncate);
	if (!PG_ARGISNULL(1))
		InsertMerges(BytesArgument(fcinfo, 1, "merges"), model);
	count = InsertVocab(BytesArgument(fcinfo, 0, "vocab"), model);
	CheckTokenizer(model);
	EndLoad(level);
	PG_RETURN_INT32((int32) count);
}
