/*
 * A tokenizer from its rows in llm_bpe_vocab and llm_bpe_merges: compiled here, or found compiled in memory
 * shared by all sessions.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/tokenizer/tokenizer_compile.h"

#define FETCH 4096 /* rows read between two checks for interrupts */

static SpiQuery read_tokens = {
	.text = "SELECT token_id, token, bytes, added, special FROM %s.llm_bpe_vocab WHERE model = $1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "isybb"};
static SpiQuery read_merges = {
	.text = "SELECT rank, left_token, right_token FROM %s.llm_bpe_merges WHERE model = $1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "iss"};
static SpiQuery read_rules = {
	.text = "SELECT pattern, ignore_merges, normalizer IS NOT NULL FROM %s.llm_bpe_config WHERE model = $1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "sbb"};

static Portal
OpenRows(SpiQuery *query, const char *name)
{
	Datum value = CStringGetTextDatum(name);

	return SpiOpen(query, &value);
}

/* Column n of a row; SPI owns the memory. Columns are NOT NULL. */
static struct varlena *
RowText(uint64 row, int n)
{
	bool null;
	Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, n, &null);

	if (null)
		return cstring_to_text("");
	ReserveMemory(toast_raw_datum_size(value));
	return PG_DETOAST_DATUM_PACKED(value);
}

static int32
RowInt(uint64 row, int n)
{
	bool null;

	return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, n, &null));
}

static bool
RowBool(uint64 row, int n)
{
	bool null;

	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, n, &null));
}

typedef LlmCode (*AddRow)(LlmBpe *bpe, int32_t number, const char *first, size_t first_size,
	const char *second, size_t second_size, LlmError *err);

/* Passes each row (a number and two texts) to the tokenizer. */
static void
AddRows(LlmBpe *bpe, const char *name, SpiQuery *query, AddRow add)
{
	Portal rows = OpenRows(query, name);
	LlmError err;

	while (SpiFetch(query, rows, FETCH))
	{
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			struct varlena *first = RowText(i, 2), *second = RowText(i, 3);

			LLM_CHECK(add(bpe, RowInt(i, 1), VARDATA_ANY(first), VARSIZE_ANY_EXHDR(first),
						  VARDATA_ANY(second), VARSIZE_ANY_EXHDR(second), &err),
				&err);
			if (query == &read_tokens && (RowBool(i, 4) || RowBool(i, 5)))
				llm_bpe_mark(bpe, RowBool(i, 5));
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(rows);
}

/* Reads how the tokenizer differs from GPT-2's, if it does. */
static void
SetRules(LlmBpe *bpe, const char *name)
{
	Portal rows = OpenRows(&read_rules, name);
	LlmError err;

	if (SpiFetch(&read_rules, rows, 1))
	{
		LlmBpeRules rules = {ServerToUtf8(SpiField(0, 1)), RowBool(0, 2), RowBool(0, 3)};

		LLM_CHECK(llm_bpe_set_rules(bpe, &rules, &err), &err);
	}
	SPI_cursor_close(rows);
}

LlmBpe *
TokenizerCompile(const char *name)
{
	LlmError err;
	LlmBpe *bpe = llm_bpe_new(SessionAllocator(), name, &err);

	if (bpe == NULL)
		RaiseError(&err);
	PG_TRY();
	{
		AddRows(bpe, name, &read_tokens, llm_bpe_add_token);
		if (llm_bpe_count(bpe) > 0)
			AddRows(bpe, name, &read_merges, llm_bpe_add_merge);
		SetRules(bpe, name);
		LLM_CHECK(llm_bpe_finish(bpe, &err), &err);
	}
	PG_CATCH();
	{
		llm_bpe_free(bpe);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return bpe;
}

/* ---- shared by all sessions ---- */

static bool
Fill(SharedFile *file, void *context)
{
	LlmBpe *bpe = TokenizerCompile(context);
	volatile bool done = false;

	PG_TRY();
	{
		Size size = llm_bpe_image_size(bpe);
		void *image;

		ReserveMemory(size);
		image = palloc_extended(size, MCXT_ALLOC_HUGE);
		llm_bpe_image(bpe, image);
		done = SharedWrite(file, 0, image, size);
		pfree(image);
	}
	PG_FINALLY();
	{
		llm_bpe_free(bpe);
	}
	PG_END_TRY();
	return done;
}

LlmBpe *
TokenizerShared(const char *name, int64 version, SharedCopy *copy)
{
	SharedKey key;
	LlmBpe *bpe;
	LlmError err;

	if (!SharedKeyOf(SHARED_TOKENIZER, name, version, llm_bpe_image_layout(), &key) ||
		!SharedGet(&key, 0, Fill, (void *) name, copy))
		return NULL;
	bpe = llm_bpe_of_image(SessionAllocator(), copy->data, &err);
	if (bpe == NULL)
	{
		SharedRelease(copy);
		RaiseError(&err);
	}
	return bpe;
}
