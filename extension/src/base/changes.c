/*
 * Tracks what this transaction has changed in the tables from which models and tokenizers are read, and finds
 * the version of a model that a snapshot sees.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "src/base/catalog.h"
#include "src/base/changes.h"
#include "src/base/spi.h"

static SpiQuery read_version = {.text = "SELECT version FROM %s.llm_model_version WHERE model = $1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "l"};

int64
ModelVersion(const char *model)
{
	Datum value = CStringGetTextDatum(model);
	int64 version = 0;
	bool null;

	SPI_connect();
	SpiRun(&read_version, &value, NULL, true, 1);
	if (SPI_processed == 1)
		version = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
	SPI_finish();
	return version;
}

/* ---- models already handled by this command ---- */

typedef struct Seen
{
	struct Seen *next;
	int what;
	char model[FLEXIBLE_ARRAY_MEMBER];
} Seen;

static Seen *seen = NULL;
static int paused = 0;
static bool changing = false; /* this transaction wrote to a table that models read */
static uint64 epoch = 1;

uint64
ChangeEpoch(void)
{
	static Oid extension = InvalidOid;

	if (extension != TensorTypeOid()) /* created again: version numbers restart */
	{
		extension = TensorTypeOid();
		epoch++;
	}
	return epoch;
}

static void
ForgetSeen(void)
{
	while (seen)
	{
		Seen *next = seen->next;

		pfree(seen);
		seen = next;
	}
}

/* A rollback may have undone the work, so a deferred check must run again. */
static void
SubtransactionEnds(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB || !changing)
		return;
	ForgetSeen();
	epoch++;
}

static void
TransactionEnds(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PARALLEL_PRE_COMMIT ||
		event == XACT_EVENT_PRE_PREPARE)
		return;
	if (changing && event == XACT_EVENT_ABORT)
		epoch++;
	ForgetSeen();
	changing = false;
}

void
NoteChange(void)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(TransactionEnds, NULL);
		RegisterSubXactCallback(SubtransactionEnds, NULL);
		registered = true;
	}
	changing = true;
}

bool
ChangePending(void)
{
	return changing;
}

bool
ChangeFirst(int what, const char *model)
{
	Seen *s;

	NoteChange();
	for (s = seen; s; s = s->next)
		if (s->what == what && strcmp(s->model, model) == 0)
			return false;
	s = MemoryContextAlloc(TopMemoryContext, offsetof(Seen, model) + strlen(model) + 1);
	s->what = what;
	strcpy(s->model, model);
	s->next = seen;
	seen = s;
	return true;
}

void
ChangePause(bool on)
{
	paused = on;
}

TriggerData *
ChangeTrigger(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						   errmsg("this function is for the triggers of the extension's tables")));
	return (TriggerData *) fcinfo->context;
}

/* Runs BEFORE and AFTER each statement on a table that models read: entries recorded so far belong to another
 * command. */
PG_FUNCTION_INFO_V1(llm_begin_change);
Datum
llm_begin_change(PG_FUNCTION_ARGS)
{
	ChangeTrigger(fcinfo);
	NoteChange();
	if (!paused)
		ForgetSeen();
	return PointerGetDatum(NULL);
}

char *
ChangedModel(TriggerData *trigger, HeapTuple tuple, const char *column)
{
	int number = SPI_fnumber(trigger->tg_relation->rd_att, column);

	return number > 0 ? SPI_getvalue(tuple, trigger->tg_relation->rd_att, number) : NULL;
}
