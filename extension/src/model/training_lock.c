/*
 * A heavyweight lock decides which session trains a model; row locks keep hand-made changes out until the
 * next commit. A change by hand locks rows in any order, and the model's version last. To avoid deadlocks,
 * training never waits for a row while it holds another: it locks all rows or none, and waits for a row held
 * by others only after it has released its own.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"
#include "utils/rls.h"

#include "src/base/arguments.h"
#include "src/base/catalog.h"
#include "src/base/spi.h"
#include "src/model/inputs.h"
#include "src/model/training_lock.h"
#include "src/model/version_row.h"
#include "src/tensor/digest.h"

/* in a fixed order, so that two waiting sessions cannot deadlock */
static SpiQuery models_to_lock = {
	.text =
		"SELECT $1 COLLATE \"C\" UNION SELECT source_model FROM %s.llm_param_share WHERE target_model = $1"
		" ORDER BY 1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "s"};
static SpiQuery holder_of_lock = {
	/* application_name is a notebook's or another program's; NULL where this role may not see it. */
	.text = "SELECT coalesce(nullif(a.application_name, '') || ' (' || s.session || ')', s.session)"
			" FROM pg_catalog.pg_locks AS l"
			" JOIN pg_catalog.pg_stat_activity AS a USING (pid)"
			" CROSS JOIN LATERAL (SELECT 'process ' || a.pid || ' of ' || a.usename) AS s (session)"
			" WHERE l.locktype = 'userlock' AND l.granted"
			" AND l.classid::bigint = $1 AND l.objid::bigint = $2 AND l.objsubid::int & 65535 = $3"
			" AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
			" LIMIT 1",
	.nargs = 3,
	.types = {INT8OID, INT8OID, INT4OID},
	.columns = "s"};

#define PARAMS                                                                                               \
	"SELECT p.model, p.name FROM %s.llm_param AS p WHERE p.model = $1 OR (p.model, p.name) IN"               \
	" (SELECT source_model, source_name FROM %s.llm_param_share WHERE target_model = $1)"

/* Locks all rows that no other transaction holds, and returns the first row that it could not lock. */
static SpiQuery lock_params = {
	.text = "WITH locked AS MATERIALIZED (" PARAMS " ORDER BY 1, 2 FOR NO KEY UPDATE OF p SKIP LOCKED)"
			" SELECT p.model, p.name FROM (" PARAMS
			") AS p, (SELECT count(*) AS n FROM locked) AS c WHERE c.n >= 0"
			" AND NOT EXISTS (SELECT FROM locked AS l WHERE (l.model, l.name) = (p.model, p.name))"
			" ORDER BY 1, 2 LIMIT 1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "ss"};
static SpiQuery wait_param = {
	.text = "SELECT name FROM %s.llm_param WHERE model = $1 AND name = $2 FOR NO KEY UPDATE",
	.nargs = 2,
	.types = {TEXTOID, TEXTOID},
	.columns = "s"};
static SpiQuery versions_to_lock = {
	.text =
		"WITH source AS (SELECT $1 COLLATE \"C\" AS model UNION SELECT source_model FROM %s.llm_param_share"
		" WHERE target_model = $1) SELECT model FROM source UNION SELECT s.target_model FROM"
		" %s.llm_param_share AS s JOIN source ON s.source_model = source.model ORDER BY 1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "s"};
/* Can the role lock one of the model's rows; and does it see the model, which may have no rows yet? */
static SpiQuery may_change = {
	.text = "SELECT EXISTS (SELECT FROM (SELECT FROM %s.llm_param WHERE model = $1 LIMIT 1 FOR KEY SHARE SKIP"
			" LOCKED) AS p), EXISTS (SELECT FROM %s.llm_model_config WHERE model = $1)",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "bb",
	.one = true};

/* ---- the right to train ---- */

/*
 * Not an advisory lock: any role can take those and so prevent others from training. The key is a prefix of
 * the name's SHA-256, so that no other name can be constructed that takes the same lock.
 */
static LOCKTAG
LockOf(const char *model)
{
	LOCKTAG tag = {.locktag_field1 = MyDatabaseId,
		.locktag_type = LOCKTAG_USERLOCK,
		.locktag_lockmethodid = USER_LOCKMETHOD};
	Digest *digest = DigestBegin();
	unsigned high, low, rest;

	DigestAdd(digest, model, strlen(model));
	sscanf(DigestEnd(digest), "%8x%8x%4x", &high, &low, &rest);
	tag.locktag_field2 = high;
	tag.locktag_field3 = low;
	tag.locktag_field4 = (uint16) rest;
	return tag;
}

static void
RefuseSecond(const char *model, const char *locked, const LOCKTAG *key)
{
	Datum values[3] = {Int64GetDatum(key->locktag_field2), Int64GetDatum(key->locktag_field3),
		Int32GetDatum(key->locktag_field4)};
	bool shared = strcmp(model, locked) != 0;
	char *who;

	SPI_connect();
	SpiRun(&holder_of_lock, values, NULL, false, 1);
	who = SPI_processed == 1 ? SpiField(0, 1) : "another session";
	ereport(ERROR,
		(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			shared ? errmsg("model \"%s\" shares parameters of model \"%s\", which is being trained by %s",
						 model, locked, who)
				   : errmsg("model \"%s\" is being trained by %s", model, who),
			errhint("Wait until it has ended (wait => true does), or train a copy under another name.")));
}

/* A role that may not change a model must not be able to block others from training it. */
static void
CheckMayChange(const char *model)
{
	Oid params = get_relname_relid("llm_param", ExtensionNamespace());
	Datum value = CStringGetTextDatum(model);
	bool null, rows, seen;

	if (pg_class_aclcheck(params, GetUserId(), ACL_UPDATE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, "llm_param");
	if (check_enable_rls(params, InvalidOid, true) != RLS_ENABLED)
		return;
	SPI_connect();
	SpiRun(&may_change, &value, NULL, false, 1);
	rows = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
	seen = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null));
	SPI_finish();
	if (!rows && (!seen || VersionHasParams(model)))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						   errmsg("row security keeps role \"%s\" from changing model \"%s\"",
							   GetUserNameFromId(GetUserId(), false), model)));
}

/* The names that a query returns, copied into the caller's context. */
static List *
Names(SpiQuery *query, const char *model)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum value = CStringGetTextDatum(model);
	List *names = NIL;

	SPI_connect();
	SpiRun(query, &value, NULL, false, 0);
	MemoryContextSwitchTo(caller);
	for (uint64 i = 0; i < SPI_processed; i++)
		names = lappend(names, SpiField(i, 1));
	SPI_finish();
	return names;
}

/* Session-level locks outlive errors: if one lock fails, those taken before it are released here. */
TrainingKeys *
TrainingLock(const char *model, bool session, bool wait)
{
	List *names = Names(&models_to_lock, model);
	TrainingKeys *volatile taken =
		palloc0(offsetof(TrainingKeys, keys) + sizeof(LOCKTAG) * list_length(names));

	for (int i = 0; i < list_length(names); i++)
		CheckMayChange(list_nth(names, i));
	PG_TRY();
	{
		for (int i = 0; i < list_length(names); i++)
		{
			LOCKTAG tag = LockOf(list_nth(names, i));

			if (LockAcquire(&tag, ExclusiveLock, session, !wait) == LOCKACQUIRE_NOT_AVAIL)
				RefuseSecond(model, list_nth(names, i), &tag);
			taken->keys[i] = tag;
			taken->count++;
		}
	}
	PG_CATCH();
	{
		if (session)
			TrainingUnlock(taken);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return taken;
}

void
TrainingUnlock(const TrainingKeys *taken)
{
	for (int i = 0; i < taken->count; i++)
		LockRelease(&taken->keys[i], ExclusiveLock, true);
}

/* llm_train_lock(model, wait): excludes training while something else must not be disturbed by it. */
PG_FUNCTION_INFO_V1(llm_train_lock);
Datum
llm_train_lock(PG_FUNCTION_ARGS)
{
	TrainingLock(NameArgument(fcinfo, 0, "model"), false, !PG_ARGISNULL(1) && PG_GETARG_BOOL(1));
	PG_RETURN_VOID();
}

/* ---- rows ---- */

/* A row that another transaction holds; name NULL: the version row of the model. */
typedef struct HeldRow
{
	char *model, *name;
} HeldRow;

/* Locks all rows to be locked, without waiting. False: another transaction has the row `held`, which is
 * allocated in the given context. */
static bool
TryRows(const char *model, HeldRow *held, MemoryContext context)
{
	Datum value = CStringGetTextDatum(model);
	ListCell *cell;
	bool all;

	*held = (HeldRow){NULL, NULL};
	foreach (cell, Names(&versions_to_lock, model))
		if (!VersionLock(lfirst(cell), LockWaitSkip))
		{
			held->model = MemoryContextStrdup(context, lfirst(cell));
			return false;
		}
	SPI_connect();
	SpiRun(&lock_params, &value, NULL, false, 1);
	all = SPI_processed == 0;
	if (!all)
	{
		held->model = MemoryContextStrdup(context, SpiField(0, 1));
		held->name = MemoryContextStrdup(context, SpiField(0, 2));
	}
	SPI_finish();
	return all;
}

/* False if there is no such row (any more) that this role may lock. */
static bool
WaitForRow(const HeldRow *held)
{
	Datum values[2] = {CStringGetTextDatum(held->model), (Datum) 0};
	bool found;

	if (held->name == NULL)
		return VersionLock(held->model, LockWaitBlock);
	values[1] = CStringGetTextDatum(held->name);
	SPI_connect();
	SpiRun(&wait_param, values, NULL, false, 0);
	found = SPI_processed > 0;
	SPI_finish();
	return found;
}

typedef struct Attempt
{
	const char *model;
	bool right, wait;
	HeldRow held;
	MemoryContext context;
} Attempt;

static bool
TakeAll(Attempt *attempt)
{
	if (attempt->right)
		TrainingLock(attempt->model, false, attempt->wait);
	return TryRows(attempt->model, &attempt->held, attempt->context);
}

/* Waits for the holder; the lock it gets is released at once. */
static bool
WaitForHolder(Attempt *attempt)
{
	return WaitForRow(&attempt->held);
}

/* Runs a step in a subtransaction, whose rollback releases its locks; they are kept if the step returns true
 * and `keep` is set. */
static bool
InSubtransaction(bool (*step)(Attempt *), Attempt *attempt, bool keep)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;
	volatile bool result = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		result = step(attempt);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	if (result && keep && error == NULL)
		ReleaseCurrentSubTransaction();
	else
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error)
		ReThrowError(error);
	return result;
}

bool
TrainingLockRows(const char *model, bool right, bool wait)
{
	Attempt attempt = {.model = model, .right = right, .wait = wait, .context = CurrentMemoryContext};
	int missed = 0; /* attempts whose row no longer existed, which is not found again */

	while (!InSubtransaction(TakeAll, &attempt, true))
	{
		if (!wait || missed > 1)
			return false;
		missed = InSubtransaction(WaitForHolder, &attempt, false) ? 0 : missed + 1;
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

void
TrainingRowsHeld(const char *model)
{
	ereport(ERROR,
		(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			errmsg("another transaction has changed rows of model \"%s\" and has not ended", model),
			errhint(
				"Try again when it has committed or rolled back; wait => true waits for it. Where there is "
				"none, a row security policy keeps this role from changing some rows.")));
}

bool
TrainingHasWaiters(void)
{
	TransactionId xid = GetTopTransactionIdIfAny();
	LOCKTAG tag;

	if (!TransactionIdIsValid(xid))
		return false;
	SET_LOCKTAG_TRANSACTION(tag, xid);
	return LockHasWaiters(&tag, ExclusiveLock, false);
}
