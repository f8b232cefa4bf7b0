/*
 * llm_bpe_train: trains a tokenizer on the documents of a query and writes it as rows.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "formats/bpe_train.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/progress.h"
#include "src/tokenizer/text_query.h"
#include "src/tokenizer/tokenizer.h"
#include "src/tokenizer/tokenizer_rows.h"

PG_FUNCTION_INFO_V1(llm_bpe_train);

typedef struct Training
{
	char *corpus, *model;
	int vocab_size;
	Datum *specials; /* text */
	int special_count;
	bool truncate;
} Training;

/* ---- arguments ---- */

static void
CheckSpecial(const Training *t, int i)
{
	text *special = DatumGetTextPP(t->specials[i]);
	Size size = VARSIZE_ANY_EXHDR(special);

	if (size < 2 || size > LLM_BPE_LONGEST)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("\"%s\" cannot be a special token", TextDatumGetCString(t->specials[i])),
				errhint("A special token, such as <|endoftext|>, has from 2 to %d bytes.", LLM_BPE_LONGEST)));
	for (int j = 0; j < i; j++)
		if (strcmp(TextDatumGetCString(t->specials[j]), TextDatumGetCString(t->specials[i])) == 0)
			ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("special token \"%s\" is given twice", TextDatumGetCString(t->specials[i]))));
}

static void
ReadSpecials(Training *t, ArrayType *array)
{
	if (array_contains_nulls(array))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("a special token is NULL"),
						   errhint("Leave it out; '{}' is no special tokens.")));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &t->specials, NULL, &t->special_count);
	for (int i = 0; i < t->special_count; i++)
		CheckSpecial(t, i);
}

static Training
ReadArguments(FunctionCallInfo fcinfo)
{
	Training t = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						   errmsg("corpus, vocab_size and model must not be NULL")));
	t.corpus = text_to_cstring(PG_GETARG_TEXT_PP(0));
	t.vocab_size = PG_GETARG_INT32(1);
	t.model = TokenizerNameArgument(fcinfo, 2);
	if (!PG_ARGISNULL(3))
		ReadSpecials(&t, PG_GETARG_ARRAYTYPE_P(3));
	t.truncate = !PG_ARGISNULL(4) && PG_GETARG_BOOL(4);
	if (t.vocab_size < 256 + t.special_count)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("a vocabulary of %d tokens has no room for the 256 bytes and %d special token%s",
					t.vocab_size, t.special_count, t.special_count == 1 ? "" : "s"),
				errhint(
					"Ask for %d tokens or more; what is beyond them are merges.", 256 + t.special_count)));
	return t;
}

/* ---- training and writing ---- */

static LlmBpePieces *
CountPieces(const Training *t, const LlmAllocator *allocator, Progress *progress)
{
	LlmError err;
	LlmBpePieces *pieces = llm_bpe_pieces_new(allocator, &err);
	Corpus *corpus;
	const char *document;
	Size size;

	if (pieces == NULL)
		RaiseError(&err);
	for (int i = 0; i < t->special_count; i++)
	{
		char *special = TokenizerUtf8(DatumGetTextPP(t->specials[i]), &size);

		LLM_CHECK(llm_bpe_pieces_special(pieces, special, size, &err), &err);
	}
	corpus = CorpusOpen(t->corpus);
	while ((document = CorpusNext(corpus, &size)) != NULL)
	{
		LLM_CHECK(llm_bpe_pieces_add(pieces, document, size, &CancelStop, &err), &err);
		ProgressStep(progress, corpus->documents, 0);
	}
	CorpusClose(corpus);
	return pieces;
}

/* Merges are counted at each poll for a cancel request. */
typedef struct Learning
{
	const LlmBpeLearned *learned;
	Progress *progress;
} Learning;

static bool
CountMerges(void *context)
{
	const Learning *l = context;

	ProgressStep(l->progress, (int64) l->learned->merge_count, 0);
	return CancelStop.requested(CancelStop.context);
}

static Datum
TextForm(const void *bytes, Size size)
{
	char *form = palloc(2 * size + 1);

	return PointerGetDatum(TokenizerServerText(form, llm_bpe_to_text(bytes, size, form)));
}

static Datum
Bytes(const void *bytes, Size size)
{
	return PointerGetDatum(cstring_to_text_with_len(bytes, (int) size)); /* same layout as a text */
}

static void
WriteMerges(const Training *t, const LlmBpeLearned *learned)
{
	Size count = learned->merge_count;
	Datum *left = palloc((count + 1) * sizeof(Datum)), *right = palloc((count + 1) * sizeof(Datum));

	for (Size i = 0; i < count; i++)
	{
		const struct LlmBpeLearnedToken *l = &learned->tokens[learned->merges[i].left];
		const struct LlmBpeLearnedToken *r = &learned->tokens[learned->merges[i].right];

		left[i] = TextForm(learned->bytes + l->at, l->size);
		right[i] = TextForm(learned->bytes + r->at, r->size);
	}
	TokenizerInsertMerges(t->model, left, right, count);
}

/* The tokens in order: single bytes, results of merges, special tokens. Returns their count. */
static Size
WriteTokens(const Training *t, const LlmBpeLearned *learned)
{
	Size count = learned->token_count + t->special_count;
	Datum *ids = palloc(count * sizeof(Datum)), *texts = palloc(count * sizeof(Datum));
	Datum *bytes = palloc(count * sizeof(Datum));

	for (Size i = 0; i < count; i++)
	{
		const char *data;
		Size size;

		if (i < learned->token_count)
		{
			data = (const char *) learned->bytes + learned->tokens[i].at;
			size = learned->tokens[i].size;
		}
		else
			data = TokenizerUtf8(DatumGetTextPP(t->specials[i - learned->token_count]), &size);
		ids[i] = Int32GetDatum((int32) i);
		texts[i] = TextForm(data, size);
		bytes[i] = Bytes(data, size);
	}
	TokenizerInsertTokens(t->model, ids, texts, bytes, count, t->special_count);
	return count;
}

/* (corpus text, vocab_size int, model text, specials text[], truncate boolean) -> number of tokens */
Datum
llm_bpe_train(PG_FUNCTION_ARGS)
{
	Training t = ReadArguments(fcinfo);
	LlmAllocator *allocator = ContextAllocator();
	LlmBpePieces *pieces;
	LlmBpeLearned learned = {0};
	Progress *progress = ProgressBegin(CurrentMemoryContext, "train tokenizer", t.model, "document", 0);
	Learning learning = {&learned, progress};
	LlmStop stop = {CountMerges, &learning};
	LlmError err;
	Size count;
	int level = TokenizerBeginWrite();

	TokenizerMakeRoom(t.model, false, t.truncate);
	TokenizerMakeRoom(t.model, true, t.truncate);
	TokenizerEndWrite(level);

	SPI_connect();
	ProgressPhaseIs(progress, PROGRESS_LOADING);
	pieces = CountPieces(&t, allocator, progress);
	SPI_finish();
	ProgressEnd(progress);
	progress = learning.progress = ProgressBegin(
		CurrentMemoryContext, "train tokenizer", t.model, "merge", t.vocab_size - t.special_count - 256);
	ProgressRange(progress, 0, t.vocab_size - t.special_count - 256);
	LLM_CHECK(llm_bpe_learn(pieces, t.vocab_size - t.special_count, &learned, &stop, &err), &err);

	ProgressPhaseIs(progress, PROGRESS_WRITING);
	level = TokenizerBeginWrite();
	WriteMerges(&t, &learned);
	count = WriteTokens(&t, &learned);
	TokenizerWritten(t.model);
	TokenizerEndWrite(level);
	ProgressEnd(progress);
	if (count < t.vocab_size)
		ereport(NOTICE, (errmsg("no pair of tokens repeats any more: the vocabulary has %zu tokens, not %d",
							 count, t.vocab_size),
							errdetail("The corpus has %zu different words; more text teaches more.",
								llm_bpe_pieces_count(pieces))));
	PG_RETURN_INT32((int32) count);
}
