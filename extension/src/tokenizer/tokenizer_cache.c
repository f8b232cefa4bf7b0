/*
 * The session's tokenizers. A copy is valid exactly when its version is the one that the statement's
 * own snapshot sees, so uncommitted and rolled-back changes and REPEATABLE READ need nothing further.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "src/pg_llm.h"
#include "src/base/spi.h"
#include "src/tokenizer/tokenizer.h"
#include "src/tokenizer/tokenizer_compile.h"
#include "src/model/version.h"
#include "src/base/visible.h"

typedef struct Tokenizer
{
	struct Tokenizer *next;
	char *name;
	int64 version;
	uint64 epoch;
	Visible visible; /* of which rows it is */
	LlmBpe *bpe;
	SharedCopy shared; /* where its tables lie, unless they are this session's own */
	bool alone;        /* private by the setting, or made in the transaction that changed it */
	int pins;
	bool outdated; /* out of the list; the last pin frees it */
} Tokenizer;

static Tokenizer *tokenizers = NULL;

/* ---- which snapshot ---- */

/* Two statements with the same mark see the same rows. */
typedef struct SnapshotMark
{
	LocalTransactionId transaction;
	SubTransactionId subtransaction;
	CommandId command;
	uint64 completions;
	TransactionId xmin, xmax;
	uint32 xcnt;
	Oid user; /* not the snapshot's, but rights are looked at again for another role */
} SnapshotMark;

/* What model names meant at the last mark: a query over many rows asks the tables once. */
#define REMEMBERED 8
static SnapshotMark last_mark;
static struct
{
	char model[NAMEDATALEN];
	Tokenizer *tokenizer;
} remembered[REMEMBERED];
static int remembered_count = 0;

static SnapshotMark
CurrentMark(void)
{
	Snapshot snapshot = GetActiveSnapshot();
	SnapshotMark mark;

	memset(&mark, 0, sizeof(mark)); /* compared as bytes */
#if PG_VERSION_NUM >= 170000
	mark.transaction = MyProc->vxid.lxid;
#else
	mark.transaction = MyProc->lxid;
#endif
	mark.subtransaction = GetCurrentSubTransactionId();
	mark.command = snapshot->curcid;
	mark.completions = snapshot->snapXactCompletionCount;
	mark.xmin = snapshot->xmin;
	mark.xmax = snapshot->xmax;
	mark.xcnt = snapshot->xcnt;
	mark.user = GetUserId();
	return mark;
}

/* ---- the list ---- */

static void
TokenizerFree(Tokenizer *tokenizer)
{
	llm_bpe_free(tokenizer->bpe);
	SharedRelease(&tokenizer->shared);
	if (tokenizer->name)
		pfree(tokenizer->name);
	pfree(tokenizer);
}

/* Takes a tokenizer out of the list; freed now or with its last pin. */
static void
TokenizerForget(Tokenizer *tokenizer)
{
	Tokenizer **link = &tokenizers;

	while (*link != tokenizer)
		link = &(*link)->next;
	*link = tokenizer->next;
	remembered_count = 0;
	tokenizer->outdated = true;
	if (tokenizer->pins == 0)
		TokenizerFree(tokenizer);
}

static LlmQuery read_name = {.text = "SELECT tokenizer FROM %s.llm_model_config WHERE model = $1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "s?"};

/* ---- finding ---- */

/* Is it what this role would read from the rows itself? */
static bool
MayUse(const Tokenizer *tokenizer)
{
	if (tokenizer->shared.map ? !pg_llm_share_weights
							  : tokenizer->alone && !LlmChanging() && pg_llm_share_weights)
		return false;
	return VisibleStill(VISIBLE_TOKENIZER, tokenizer->name, &tokenizer->visible);
}

/* The model's tokenizer by its config, else the name itself. In the caller's SPI memory. */
static char *
TokenizerName(const char *model)
{
	Datum value = CStringGetTextDatum(model);
	char *name;

	LlmRun(&read_name, &value, NULL, true, 1);
	name = SPI_processed == 1 ? LlmField(0, 1) : NULL;
	return name != NULL ? name : pstrdup(model);
}

static void
RaiseNoTokenizer(const char *model, const char *name)
{
	bool own = strcmp(model, name) == 0;

	ereport(
		ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
				   own ? errmsg("there is no tokenizer for model \"%s\"", model)
					   : errmsg("the tokenizer of model \"%s\", \"%s\", is not loaded", model, name),
				   errhint("Load its files: SELECT pg_llm_load_bpe_vocab('/path/vocab.json', '%s'), "
						   "pg_llm_load_bpe_merges('/path/merges.txt', '%s'); or from a client: pg-llm "
						   "ingest-tokenizer. SELECT DISTINCT model FROM llm_bpe_vocab lists what there is.",
					   name, name)));
}

/* At most so many stay in memory; the one compiled longest ago makes room. */
#define TOKENIZERS_MAX 8

static void
MakeRoom(void)
{
	Tokenizer *oldest = NULL;
	int count = 0;

	for (Tokenizer *t = tokenizers; t != NULL; t = t->next)
	{
		count++;
		if (t->pins == 0)
			oldest = t;
	}
	if (count >= TOKENIZERS_MAX && oldest != NULL)
		TokenizerForget(oldest);
}

static Tokenizer *
TokenizerLoad(const char *model, const char *name, int64 version)
{
	Tokenizer *tokenizer = MemoryContextAllocZero(TopMemoryContext, sizeof(Tokenizer));

	PG_TRY();
	{
		tokenizer->name = MemoryContextStrdup(TopMemoryContext, name);
		tokenizer->version = version;
		tokenizer->epoch = LlmEpoch();
		tokenizer->visible = VisibleRows(VISIBLE_TOKENIZER, name);
		tokenizer->alone = LlmChanging() || !pg_llm_share_weights;
		if (VisibleAll(VISIBLE_TOKENIZER))
			tokenizer->bpe = TokenizerShared(name, version, &tokenizer->shared);
		if (tokenizer->bpe == NULL)
			tokenizer->bpe = TokenizerCompile(name);
		if (llm_bpe_count(tokenizer->bpe) == 0)
			RaiseNoTokenizer(model, name);
	}
	PG_CATCH();
	{
		TokenizerFree(tokenizer);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return tokenizer;
}

static Tokenizer *
TokenizerByName(const char *model, const char *name)
{
	int64 version = LlmModelVersion(name);
	Tokenizer *tokenizer = tokenizers;

	while (tokenizer != NULL && strcmp(tokenizer->name, name) != 0)
		tokenizer = tokenizer->next;
	if (tokenizer != NULL && tokenizer->version == version && version != 0 &&
		tokenizer->epoch == LlmEpoch() && MayUse(tokenizer))
		return tokenizer;
	if (tokenizer != NULL)
		TokenizerForget(tokenizer);
	MakeRoom();
	tokenizer = TokenizerLoad(model, name, version);
	tokenizer->next = tokenizers;
	tokenizers = tokenizer;
	return tokenizer;
}

static Tokenizer *
TokenizerFind(const char *model)
{
	SnapshotMark mark = CurrentMark();
	Tokenizer *tokenizer;

	/* rights and policies may have changed within a snapshot */
	if (memcmp(&mark, &last_mark, sizeof(mark)) == 0 && VisibleAll(VISIBLE_TOKENIZER))
	{
		for (int i = 0; i < remembered_count; i++)
			if (strcmp(remembered[i].model, model) == 0)
				return remembered[i].tokenizer;
	}
	else
		remembered_count = 0;
	VisibleCheckRights(VISIBLE_TOKENIZER);
	SPI_connect();
	tokenizer = TokenizerByName(model, TokenizerName(model));
	SPI_finish();
	if (tokenizer->visible.limited) /* a policy may say something else within the same snapshot */
		return tokenizer;
	last_mark = mark;
	if (remembered_count < REMEMBERED && strlen(model) < NAMEDATALEN)
	{
		strcpy(remembered[remembered_count].model, model);
		remembered[remembered_count++].tokenizer = tokenizer;
	}
	return tokenizer;
}

LlmBpe *
TokenizerOf(const char *model)
{
	return TokenizerFind(model)->bpe;
}

void
TokenizerCheck(const char *name)
{
	SPI_connect();
	TokenizerByName(name, name);
	SPI_finish();
}

typedef struct Pin
{
	MemoryContextCallback callback;
	Tokenizer *tokenizer;
} Pin;

static void
Unpin(void *arg)
{
	Tokenizer *tokenizer = ((Pin *) arg)->tokenizer;

	if (--tokenizer->pins == 0 && tokenizer->outdated)
		TokenizerFree(tokenizer);
}

LlmBpe *
TokenizerPin(const char *model, MemoryContext context)
{
	Pin *pin = MemoryContextAllocZero(context, sizeof(Pin));

	pin->tokenizer = TokenizerFind(model);
	pin->tokenizer->pins++;
	pin->callback.func = Unpin;
	pin->callback.arg = pin;
	MemoryContextRegisterResetCallback(context, &pin->callback);
	return pin->tokenizer->bpe;
}
