/*
 * The session's tokenizers; versioned_cache.h says when a copy is valid.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "src/base/catalog.h"
#include "src/base/spi.h"
#include "src/base/versioned_cache.h"
#include "src/tokenizer/tokenizer.h"
#include "src/tokenizer/tokenizer_compile.h"

typedef struct Tokenizer
{
	VersionedCopy copy;
	LlmBpe *bpe;
} Tokenizer;

static void
RaiseNoTokenizer(const char *model, const char *name)
{
	bool own = strcmp(model, name) == 0;

	ereport(ERROR,
		(errcode(ERRCODE_UNDEFINED_OBJECT),
			own ? errmsg("there is no tokenizer for model \"%s\"", model)
				: errmsg("the tokenizer of model \"%s\", \"%s\", is not loaded", model, name),
			errhint("Load its files: SELECT pg_llm_load_bpe_vocab('/path/vocab.json', '%s'), "
					"pg_llm_load_bpe_merges('/path/merges.txt', '%s'); or from a client: pg-llm "
					"ingest-tokenizer %s. SELECT DISTINCT model FROM llm_bpe_vocab lists what there is.",
				name, name, DatabaseOption())));
}

static void
Release(VersionedCopy *copy)
{
	llm_bpe_free(((Tokenizer *) copy)->bpe);
}

/* argument: the model for which it is loaded, named in errors */
static void
Load(VersionedCopy *copy, bool may_share, void *argument)
{
	Tokenizer *tokenizer = (Tokenizer *) copy;

	SPI_connect();
	if (may_share)
		tokenizer->bpe = TokenizerShared(copy->name, copy->version, &copy->shared);
	if (tokenizer->bpe == NULL)
		tokenizer->bpe = TokenizerCompile(copy->name);
	if (llm_bpe_count(tokenizer->bpe) == 0)
		RaiseNoTokenizer(argument, copy->name);
	SPI_finish();
}

static const VersionedCache tokenizers = {
	.rows = VISIBLE_TOKENIZER, .size = sizeof(Tokenizer), .load = Load, .release = Release};

/* ---- the tokenizer of a model ---- */

static SpiQuery read_name = {
	.text = "SELECT %s.llm_tokenizer($1)", .nargs = 1, .types = {TEXTOID}, .columns = "s?", .one = true};

/* The name under which the model's tokenizer has rows, or would have them. In the caller's SPI memory. */
static char *
TokenizerName(const char *model)
{
	Datum value = CStringGetTextDatum(model);
	char *name;

	SpiRun(&read_name, &value, NULL, true, 1);
	name = SpiField(0, 1);
	return name != NULL ? name : pstrdup(model);
}

/* Tokenizer names resolved within one snapshot: a query over many rows reads the tables once. */
#define REMEMBERED 8
static struct
{
	char model[NAMEDATALEN], tokenizer[NAMEDATALEN];
} remembered[REMEMBERED];
static int remembered_count = 0;

/* The name of the model's tokenizer in this snapshot, or NULL. */
static const char *
Remembered(const char *model)
{
	static uint64 last = 0;
	uint64 snapshot = SnapshotNumber();

	/* rights and policies may change within a snapshot */
	if (snapshot != last || !VisibleAll(VISIBLE_TOKENIZER))
		remembered_count = 0;
	last = snapshot;
	for (int i = 0; i < remembered_count; i++)
		if (strcmp(remembered[i].model, model) == 0)
			return remembered[i].tokenizer;
	return NULL;
}

static void
Remember(const char *model, const char *tokenizer)
{
	if (remembered_count == REMEMBERED || strlen(model) >= NAMEDATALEN || strlen(tokenizer) >= NAMEDATALEN)
		return;
	strcpy(remembered[remembered_count].model, model);
	strcpy(remembered[remembered_count++].tokenizer, tokenizer);
}

static Tokenizer *
Get(const char *model, const char *name, MemoryContext pin)
{
	return (Tokenizer *) VersionedGet(&tokenizers, name, (void *) model, pin);
}

LlmBpe *
TokenizerOf(const char *model, MemoryContext pin)
{
	const char *name = Remembered(model);
	Tokenizer *tokenizer;

	if (name != NULL)
		return Get(model, name, pin)->bpe;
	VisibleCheckRights(VISIBLE_TOKENIZER);
	SPI_connect();
	name = TokenizerName(model);
	tokenizer = Get(model, name, pin);
	Remember(model, name);
	SPI_finish();
	return tokenizer->bpe;
}

void
TokenizerCheck(const char *name)
{
	Get(name, name, CurrentMemoryContext);
}
