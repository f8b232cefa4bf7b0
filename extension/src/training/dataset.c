/*
 * llm_dataset_load: tokenizes the documents of a query into rows of llm_dataset.
 *
 *   texts --tokenizer--> one stream of ids, each text followed by the end token --> blocks of block_size
 *
 * A row's target is its tokens shifted by one; the targets that the row before has are context only (-1), so
 * that each token is scored once. pg_llm/files/dataset.py cuts files in the same way.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "src/base/memory.h"
#include "src/base/progress.h"
#include "src/base/spi.h"
#include "src/tokenizer/text_query.h"
#include "src/tokenizer/tokenizer.h"

PG_FUNCTION_INFO_V1(llm_dataset_load);

/* Longer rows are rejected: no model reads such a sequence. */
#define LONGEST_BLOCK (1 << 20)
#define HELD_OUT "-validation"

typedef struct Loading
{
	char *dataset, *corpus, *model;
	int block, overlap;
	double validation;
	bool truncate, special;
	LlmBpe *bpe;
	int32 end; /* -1: none */
	/* the stream: ids not yet used up by a block */
	int32 *ids;
	Size count, capacity, at;
	int fresh; /* offset from `at` of the first target that no block has had */
	int64 tokens, rows, held_out;
} Loading;

/* ---- arguments ---- */

static void
CheckRanges(const Loading *l)
{
	if (l->block < 1 || l->block > LONGEST_BLOCK)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("block_size is %d, expected 1 to %d", l->block, LONGEST_BLOCK)));
	if (l->overlap < 0 || l->overlap >= l->block)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("overlap is %d, expected 0 to %d", l->overlap, l->block - 1),
						   errhint("It is the number of tokens that each row repeats from the one before: "
								   "less than block_size, %d.",
							   l->block)));
	if (!(l->validation >= 0 && l->validation < 1))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("validation is %g, expected a fraction from 0 to below 1", l->validation)));
}

/* A NULL block_size means the model's context length, the longest row that the model can read. */
static void
ReadModel(Loading *l, bool no_block)
{
	static SpiQuery read_positions = {.text = "SELECT n_positions FROM %s.llm_model_config WHERE model = $1",
		.nargs = 1,
		.types = {TEXTOID},
		.columns = "i"};
	Datum value = CStringGetTextDatum(l->model);
	char *positions = NULL;

	SpiRun(&read_positions, &value, NULL, true, 1);
	if (SPI_processed == 1)
		positions = SpiField(0, 1);
	if (no_block && positions == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("block_size is missing, and \"%s\" is no model that has one", l->model),
						   errhint("Give block_size, the number of tokens of a row.")));
	if (no_block)
		l->block = atoi(positions);
	else if (positions != NULL && l->block > atoi(positions))
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("block_size is %d, and model \"%s\" reads at most %s tokens", l->block, l->model,
					positions),
				errhint("Leave block_size out to take the model's, or name a tokenizer for any model.")));
}

/* Returns -1 for no end token. */
static int32
ReadEndToken(const char *model)
{
	static SpiQuery read_end = {
		.text = "SELECT %s.llm_end_token($1)", .nargs = 1, .types = {TEXTOID}, .columns = "i?", .one = true};
	Datum value = CStringGetTextDatum(model);
	char *end;

	SpiRun(&read_end, &value, NULL, true, 1);
	end = SpiField(0, 1);
	return end != NULL ? atoi(end) : -1;
}

static Loading
ReadArguments(FunctionCallInfo fcinfo)
{
	Loading l = {.end = -1};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("dataset, corpus and model must not be NULL")));
	l.dataset = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (l.dataset[0] == '\0')
		ereport(
			ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("a dataset's name cannot be empty")));
	l.corpus = text_to_cstring(PG_GETARG_TEXT_PP(1));
	l.model = text_to_cstring(PG_GETARG_TEXT_PP(2));
	l.block = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT32(3);
	l.overlap = PG_ARGISNULL(4) ? 0 : PG_GETARG_INT32(4);
	l.validation = PG_ARGISNULL(5) ? 0 : PG_GETARG_FLOAT8(5);
	l.truncate = !PG_ARGISNULL(6) && PG_GETARG_BOOL(6);
	l.special = !PG_ARGISNULL(7) && PG_GETARG_BOOL(7);
	return l;
}

/* ---- rows ---- */

static ArrayType *
NewRow(int block)
{
	Size size = ARR_OVERHEAD_NONULLS(1) + block * sizeof(int32);
	ArrayType *array = palloc0(size);

	SET_VARSIZE(array, size);
	array->ndim = 1;
	array->elemtype = INT4OID;
	ARR_DIMS(array)[0] = block;
	ARR_LBOUND(array)[0] = 1;
	return array;
}

/* Held-out rows are spread evenly over the stream: after n rows, round(n * validation) are held out. */
static bool
IsHeldOut(const Loading *l, int64 row)
{
	return floor((row + 1) * l->validation + 0.5) > floor(row * l->validation + 0.5);
}

/* Writes the row at l->at: n tokens, and padding where n is less than a block. Target -1: not scored. */
static void
WriteRow(Loading *l, int n)
{
	static SpiQuery insert = {
		.text = "INSERT INTO %s.llm_dataset (dataset, tokens, target) VALUES ($1, $2, $3)",
		.nargs = 3,
		.types = {TEXTOID, INT4ARRAYOID, INT4ARRAYOID},
		.one = true};
	ArrayType *tokens = NewRow(l->block), *target = NewRow(l->block);
	bool held_out = IsHeldOut(l, l->rows);
	Datum values[3] = {CStringGetTextDatum(held_out ? psprintf("%s" HELD_OUT, l->dataset) : l->dataset),
		PointerGetDatum(tokens), PointerGetDatum(target)};

	memcpy(ARR_DATA_PTR(tokens), l->ids + l->at, n * sizeof(int32));
	memcpy(ARR_DATA_PTR(target), l->ids + l->at + 1, n * sizeof(int32));
	for (int i = 0; i < l->fresh; i++)
		((int32 *) ARR_DATA_PTR(target))[i] = -1;
	for (int i = n; i < l->block; i++)
	{
		((int32 *) ARR_DATA_PTR(tokens))[i] = Max(l->end, 0);
		((int32 *) ARR_DATA_PTR(target))[i] = -1;
	}
	SpiRun(&insert, values, NULL, false, 0);
	l->held_out += held_out;
	l->rows++;
}

/* Writes the complete blocks in the stream. Held-out rows share no overlapping tokens with the others. */
static void
WriteBlocks(Loading *l, MemoryContext row)
{
	while (l->count - l->at > (Size) l->block)
	{
		MemoryContext outer = MemoryContextSwitchTo(row);

		WriteRow(l, l->block);
		MemoryContextSwitchTo(outer);
		MemoryContextReset(row);
		l->fresh = IsHeldOut(l, l->rows - 1) || IsHeldOut(l, l->rows) ? 0 : l->overlap;
		l->at += l->block - l->fresh;
		CHECK_FOR_INTERRUPTS();
	}
	l->count -= l->at;
	memmove(l->ids, l->ids + l->at, l->count * sizeof(int32));
	l->at = 0;
}

/* Appends ids to the stream. */
static void
AppendIds(Loading *l, const int32 *ids, Size count)
{
	if (l->capacity - l->count < count)
	{
		Size capacity = 2 * l->capacity + count;

		ReserveMemory(capacity * sizeof(int32));
		l->ids = repalloc_huge(l->ids, capacity * sizeof(int32));
		l->capacity = capacity;
	}
	CopyMemory(l->ids + l->count, ids, count * sizeof(int32));
	l->count += count;
	l->tokens += count;
}

/* Returns the number of documents. */
static int64
LoadTexts(Loading *l, MemoryContext row, Progress *progress)
{
	Corpus *corpus = CorpusOpen(l->corpus);
	int64 before = l->tokens;
	const char *document;
	Size size, count;
	int64 documents;

	while ((document = CorpusNext(corpus, &size)) != NULL)
	{
		MemoryContext outer = MemoryContextSwitchTo(row);
		int32 *ids = TokenizerEncodeUtf8(l->bpe, document, size, l->special, &count);

		AppendIds(l, ids, count);
		if (l->end >= 0)
			AppendIds(l, &l->end, 1);
		MemoryContextSwitchTo(outer);
		MemoryContextReset(row);
		WriteBlocks(l, row);
		ProgressStep(progress, corpus->documents, l->tokens - before);
		before = l->tokens;
	}
	documents = corpus->documents;
	CorpusClose(corpus);
	if (l->count > (Size) l->fresh + 1)
		WriteRow(l, (int) l->count - 1);
	return documents;
}

static void
DeleteRows(const Loading *l)
{
	static SpiQuery delete_rows = {.text = "DELETE FROM %s.llm_dataset WHERE dataset IN ($1, $2)",
		.nargs = 2,
		.types = {TEXTOID, TEXTOID}};
	Datum values[2] = {
		CStringGetTextDatum(l->dataset), CStringGetTextDatum(psprintf("%s" HELD_OUT, l->dataset))};

	SpiRun(&delete_rows, values, NULL, false, 0);
}

/*
 * (dataset, corpus, model text, block_size, overlap int, validation float8, truncate, special boolean)
 * -> (documents, tokens, rows, validation_rows)
 */
Datum
llm_dataset_load(PG_FUNCTION_ARGS)
{
	Loading l = ReadArguments(fcinfo);
	MemoryContext row =
		AllocSetContextCreate(CurrentMemoryContext, "llm_dataset_load row", ALLOCSET_DEFAULT_SIZES);
	Progress *progress = ProgressBegin(CurrentMemoryContext, "load data", l.dataset, "document", 0);
	Datum values[4];

	l.bpe = TokenizerOf(l.model, CurrentMemoryContext);
	l.ids = palloc(1);
	SPI_connect();
	ReadModel(&l, PG_ARGISNULL(3));
	CheckRanges(&l);
	l.end = ReadEndToken(l.model);
	if (l.truncate)
		DeleteRows(&l);
	values[0] = Int64GetDatum(LoadTexts(&l, row, progress));
	SPI_finish();
	ProgressEnd(progress);
	if (l.end < 0 && DatumGetInt64(values[0]) > 1)
		ereport(NOTICE, (errmsg("the texts follow one another with no end token between them"),
							errhint("Tokenizer \"%s\" has no <|endoftext|>.", llm_bpe_name(l.bpe))));
	values[1] = Int64GetDatum(l.tokens);
	values[2] = Int64GetDatum(l.rows);
	values[3] = Int64GetDatum(l.held_out);
	return RowResult(fcinfo, values, NULL);
}
