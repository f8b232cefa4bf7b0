/*
 * Writes a tokenizer's rows.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/tokenizer/tokenizer.h"
#include "src/tokenizer/tokenizer_rows.h"

/* In all queries $1 is the tokenizer's name. */
#define RESULTS /* each merge's result and the lowest rank that makes it */                                  \
	"(SELECT left_token || right_token AS token, min(rank) AS rank FROM %s.llm_bpe_merges"                   \
	" WHERE model = $1 GROUP BY 1)"
static SpiQuery count_tokens = {.text = "SELECT count(*) FROM %s.llm_bpe_vocab WHERE model = $1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "l",
	.one = true};
static SpiQuery count_merges = {.text = "SELECT count(*) FROM %s.llm_bpe_merges WHERE model = $1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "l",
	.one = true};
static SpiQuery delete_tokens = {
	.text = "DELETE FROM %s.llm_bpe_vocab WHERE model = $1", .nargs = 1, .types = {TEXTOID}};
static SpiQuery delete_merges = {
	.text = "DELETE FROM %s.llm_bpe_merges WHERE model = $1", .nargs = 1, .types = {TEXTOID}};
/* Only if there is one: most tokenizers need no right on the table. */
static SpiQuery count_configs = {.text = "SELECT count(*) FROM %s.llm_bpe_config WHERE model = $1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "l",
	.one = true};
static SpiQuery delete_configs = {
	.text = "DELETE FROM %s.llm_bpe_config WHERE model = $1", .nargs = 1, .types = {TEXTOID}};
static SpiQuery insert_tokens = {
	.text = "INSERT INTO %s.llm_bpe_vocab (model, token_id, token, bytes, rank, added, special)"
			" SELECT $1, v.token_id, v.token, v.bytes, m.rank, v.n > $5,"
			" v.n > $5 OR (m.rank IS NULL AND v.token LIKE '<|_%|>')"
			" FROM unnest($2, $3, $4) WITH ORDINALITY AS v(token_id, token, bytes, n)"
			" LEFT JOIN " RESULTS " m ON m.token = v.token ORDER BY v.token_id",
	.nargs = 5,
	.types = {TEXTOID, INT4ARRAYOID, TEXTARRAYOID, BYTEAARRAYOID, INT8OID}};
static SpiQuery insert_merges = {.text =
									 "INSERT INTO %s.llm_bpe_merges (model, rank, left_token, right_token)"
									 " SELECT $1, (m.n - 1)::pg_catalog.int4, m.l, m.r FROM"
									 " unnest($2, $3) WITH ORDINALITY AS m(l, r, n) ORDER BY m.n",
	.nargs = 3,
	.types = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID}};
/* Sets llm_bpe_vocab.rank, the merge that makes the token, which then is no special one by its form. */
static SpiQuery update_ranks = {.text = "UPDATE %s.llm_bpe_vocab v SET rank = n.rank,"
										" special = v.special AND (v.added OR n.rank IS NULL)"
										" FROM (SELECT w.token_id, m.rank FROM %s.llm_bpe_vocab w"
										" LEFT JOIN " RESULTS " m ON m.token = w.token WHERE w.model = $1) n"
										" WHERE v.model = $1 AND v.token_id = n.token_id"
										" AND v.rank IS DISTINCT FROM n.rank",
	.nargs = 1,
	.types = {TEXTOID}};

int
TokenizerBeginWrite(void)
{
	int level = NewGUCNestLevel();

	SPI_connect();
	set_config_option(
		"search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	set_config_option("enable_nestloop", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

void
TokenizerEndWrite(int level)
{
	AtEOXact_GUC(true, level);
	SPI_finish();
}

static int64
Count(SpiQuery *query, Datum model)
{
	bool null;

	SpiRun(query, &model, NULL, false, 0);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
}

void
TokenizerMakeRoom(const char *model, bool merges, bool truncate)
{
	Datum value = CStringGetTextDatum(model);
	int64 count;

	if (truncate && !merges && Count(&count_configs, value) > 0)
		SpiRun(&delete_configs, &value, NULL, false, 0);
	if (truncate)
		SpiRun(merges ? &delete_merges : &delete_tokens, &value, NULL, false, 0);
	else if ((count = Count(merges ? &count_merges : &count_tokens, value)) > 0)
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
						   errmsg("tokenizer \"%s\" already has %lld %s", model, (long long) count,
							   merges ? "merges" : "tokens"),
						   errhint("Replace them with truncate => true, or load under another name.")));
}

static Datum
ArrayOf(Datum *values, Size count, Oid type, int length, bool by_value)
{
	Size size = (Size) Max(length, 0) * count;

	for (Size i = 0; !by_value && i < count; i++)
		size += VARSIZE_ANY(DatumGetPointer(values[i]));
	ReserveMemory(size);
	return PointerGetDatum(construct_array(values, (int) count, type, length, by_value, TYPALIGN_INT));
}

/* Says so if a model uses these rows from now on in place of another tokenizer. */
static void
NoticeOwn(const char *model, Datum value)
{
	static SpiQuery read_other = {.text = "SELECT tokenizer FROM %s.llm_model_config WHERE model = $1"
										  " AND tokenizer <> $1",
		.nargs = 1,
		.types = {TEXTOID},
		.columns = "s"};

	SpiRun(&read_other, &value, NULL, false, 0);
	if (SPI_processed == 1)
		ereport(NOTICE,
			(errmsg("model \"%s\" now has a tokenizer of its own, and no longer uses \"%s\"", model,
				 SpiField(0, 1)),
				errhint("To undo it, delete the rows of model '%s' from llm_bpe_vocab and llm_bpe_merges.",
					model)));
}

void
TokenizerInsertTokens(const char *model, Datum *ids, Datum *texts, Datum *bytes, Size count, Size specials)
{
	Datum values[5] = {CStringGetTextDatum(model), ArrayOf(ids, count, INT4OID, 4, true),
		ArrayOf(texts, count, TEXTOID, -1, false), ArrayOf(bytes, count, BYTEAOID, -1, false),
		Int64GetDatum((int64) (count - specials))};

	SpiRun(&insert_tokens, values, NULL, false, 0);
	NoticeOwn(model, values[0]);
}

void
TokenizerInsertMerges(const char *model, Datum *left, Datum *right, Size count)
{
	Datum values[3] = {CStringGetTextDatum(model), ArrayOf(left, count, TEXTOID, -1, false),
		ArrayOf(right, count, TEXTOID, -1, false)};

	SpiRun(&insert_merges, values, NULL, false, 0);
}

bool
TokenizerUpdateRanks(const char *model)
{
	Datum value = CStringGetTextDatum(model);

	if (Count(&count_tokens, value) == 0)
		return false;
	SpiRun(&update_ranks, &value, NULL, false, 0);
	return true;
}

text *
TokenizerServerText(const char *utf8, Size size)
{
	ReserveMemory(3 * size + 2 * sizeof(Datum)); /* two copies in conversion, and its entry in a list */
	return cstring_to_text(pg_any_to_server(pnstrdup(utf8, size), (int) size, PG_UTF8));
}

void
TokenizerWritten(const char *model)
{
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	TokenizerCheck(model);
	PopActiveSnapshot();
}

char *
TokenizerNameArgument(FunctionCallInfo fcinfo, int n)
{
	char *model = text_to_cstring(PG_GETARG_TEXT_PP(n));

	if (model[0] == '\0')
		ereport(
			ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("a tokenizer's name cannot be empty")));
	return model;
}
