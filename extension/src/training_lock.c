/*
 * An advisory lock says who trains; row locks keep hand-made changes out until the next commit. Version rows
 * come first, since every change of a model ends by raising its version: whoever has waited for nothing but
 * one of these locks holds nothing that training could wait for in turn.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "src/forward.h"
#include "src/pg_llm.h"
#include "src/query.h"
#include "src/training_lock.h"

/* in one order, so that two that wait cannot wait for one another */
static LlmQuery models_to_lock = {
	.text =
		"SELECT $1 COLLATE \"C\" UNION SELECT source_model FROM %s.llm_param_share WHERE target_model = $1"
		" ORDER BY 1",
	.nargs = 1,
	.types = {TEXTOID}};
static LlmQuery holder_of_lock = {
	.text = "SELECT 'process ' || a.pid || ' of ' || a.usename FROM pg_catalog.pg_locks AS l"
			" JOIN pg_catalog.pg_stat_activity AS a USING (pid) WHERE l.locktype = 'advisory' AND l.granted"
			" AND l.objsubid = 1 AND (l.classid::bigint << 32 | l.objid::bigint) = $1"
			" AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
			" LIMIT 1",
	.nargs = 1,
	.types = {INT8OID}};

/* models whose version a change of this one's parameters raises: all that share one of them */
#define VERSIONS                                                                                             \
	"SELECT FROM %s.llm_model_version AS v WHERE v.model = $1 OR v.model IN (WITH source AS (SELECT $1 AS "  \
	"model UNION SELECT source_model FROM %s.llm_param_share WHERE target_model = $1) SELECT model FROM "    \
	"source UNION SELECT s.target_model FROM %s.llm_param_share AS s JOIN source ON s.source_model = "       \
	"source.model)"
#define PARAMS                                                                                               \
	"SELECT FROM %s.llm_param AS p WHERE p.model = $1 OR (p.model, p.name) IN (SELECT source_model, "        \
	"source_name FROM %s.llm_param_share WHERE target_model = $1)"
#define LOCKED(rows, order, how)                                                                             \
	"SELECT count(*) FROM (" rows " ORDER BY " order " FOR NO KEY UPDATE " how ") AS locked"

static LlmQuery count_versions = {
	.text = "SELECT count(*) FROM (" VERSIONS ") AS all_rows", .nargs = 1, .types = {TEXTOID}};
static LlmQuery lock_versions = {
	.text = LOCKED(VERSIONS, "v.model", "OF v SKIP LOCKED"), .nargs = 1, .types = {TEXTOID}};
static LlmQuery wait_versions = {.text = LOCKED(VERSIONS, "v.model", "OF v"), .nargs = 1, .types = {TEXTOID}};
static LlmQuery count_params = {
	.text = "SELECT count(*) FROM (" PARAMS ") AS all_rows", .nargs = 1, .types = {TEXTOID}};
static LlmQuery lock_params = {
	.text = LOCKED(PARAMS, "p.model, p.name", "OF p SKIP LOCKED"), .nargs = 1, .types = {TEXTOID}};
static LlmQuery wait_params = {
	.text = LOCKED(PARAMS, "p.model, p.name", "OF p"), .nargs = 1, .types = {TEXTOID}};

/* ---- the right to train ---- */

static int64
LockKey(const char *model)
{
	char *text = psprintf("pg_llm %s", model);

	return DatumGetInt64(DirectFunctionCall2Coll(
		hashtextextended, C_COLLATION_OID, CStringGetTextDatum(text), Int64GetDatum(0)));
}

static void
RefuseSecond(const char *model, const char *locked, int64 key)
{
	Datum value = Int64GetDatum(key);
	bool shared = strcmp(model, locked) != 0;
	char *who;

	SPI_connect();
	LlmRun(&holder_of_lock, &value, NULL, false, 1);
	who = SPI_processed == 1 ? LlmField(0, 1) : "another session";
	ereport(ERROR,
		(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			shared ? errmsg("model \"%s\" shares parameters of model \"%s\", which is being trained by %s",
						 model, locked, who)
				   : errmsg("model \"%s\" is being trained by %s", model, who),
			errhint("Wait until it has ended (wait => true does), or train a copy under another name.")));
}

static void
TakeLock(const char *model, const char *locked, int64 key, bool session, bool wait)
{
	Datum datum = Int64GetDatum(key);

	if (wait && session)
		DirectFunctionCall1(pg_advisory_lock_int8, datum);
	else if (wait)
		DirectFunctionCall1(pg_advisory_xact_lock_int8, datum);
	else if (!DatumGetBool(session ? DirectFunctionCall1(pg_try_advisory_lock_int8, datum)
								   : DirectFunctionCall1(pg_try_advisory_xact_lock_int8, datum)))
		RefuseSecond(model, locked, key);
}

/* Names of the model and of those it shares with; palloc'd in the caller's context. */
static char **
ModelsToLock(const char *model, int *count)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum value = CStringGetTextDatum(model);
	char **names;

	SPI_connect();
	LlmRun(&models_to_lock, &value, NULL, false, 0);
	*count = (int) SPI_processed;
	names = MemoryContextAlloc(caller, sizeof(char *) * *count);
	for (int i = 0; i < *count; i++)
		names[i] = MemoryContextStrdup(caller, LlmField(i, 1));
	SPI_finish();
	return names;
}

/* A session's locks outlive errors: those taken before one that fails are given back here. */
TrainingKeys *
TrainingLock(const char *model, bool session, bool wait)
{
	int count;
	char **names = ModelsToLock(model, &count);
	TrainingKeys *volatile taken = palloc0(offsetof(TrainingKeys, keys) + sizeof(int64) * count);

	PG_TRY();
	{
		for (int i = 0; i < count; i++)
		{
			taken->keys[i] = LockKey(names[i]);
			TakeLock(model, names[i], taken->keys[i], session, wait);
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
		DirectFunctionCall1(pg_advisory_unlock_int8, Int64GetDatum(taken->keys[i]));
}

/* llm_train_lock(model, wait): for what must not happen while somebody trains. */
PG_FUNCTION_INFO_V1(llm_train_lock);
Datum
llm_train_lock(PG_FUNCTION_ARGS)
{
	TrainingLock(NameArgument(fcinfo, 0, "model"), false, !PG_ARGISNULL(1) && PG_GETARG_BOOL(1));
	PG_RETURN_VOID();
}

/* ---- rows ---- */

static int64
Count(LlmQuery *query, const char *model)
{
	Datum value = CStringGetTextDatum(model);
	bool null;

	LlmRun(query, &value, NULL, false, 1);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
}

/*
 * Version rows are the extension's own: whoever may change parameters may lock them, as the triggers raise
 * them, with the rights of the table's owner.
 */
static bool
LockVersions(const char *model, bool wait)
{
	Oid versions = get_relname_relid("llm_model_version", LlmNamespace());
	Oid params = get_relname_relid("llm_param", LlmNamespace());
	Oid caller, owner;
	Relation rel;
	int context;
	bool all;

	if (pg_class_aclcheck(params, GetUserId(), ACL_UPDATE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, "llm_param");
	rel = relation_open(versions, AccessShareLock);
	owner = rel->rd_rel->relowner;
	relation_close(rel, NoLock);
	GetUserIdAndSecContext(&caller, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_LOCAL_USERID_CHANGE);
	all = wait ? Count(&wait_versions, model) >= 0
			   : Count(&lock_versions, model) >= Count(&count_versions, model);
	SetUserIdAndSecContext(caller, context);
	return all;
}

bool
TrainingLockRows(const char *model, bool wait)
{
	bool all;

	SPI_connect();
	all = LockVersions(model, wait);
	if (wait)
		Count(&wait_params, model);
	else
		all = all && Count(&lock_params, model) >= Count(&count_params, model);
	SPI_finish();
	return all;
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
