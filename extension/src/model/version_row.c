/*
 * Row locking follows the executor's UPDATE: READ COMMITTED continues with the row's latest version; if a
 * snapshot of the whole transaction does not see that version, it is a serialization failure.
 */
#include "src/model/version_row.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "src/base/catalog.h"

/* ---- the tables, checked to be as CREATE EXTENSION made them ---- */

static void Altered(const char *table, const char *what) __attribute__((noreturn));

static void
Altered(const char *table, const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					   errmsg("table \"%s\" of extension pg_llm was altered: %s", table, what),
					   errhint("Undo the change, or restore the database from a backup.")));
}

static Relation
OpenTable(const char *name, LOCKMODE lock)
{
	Oid id = get_relname_relid(name, ExtensionNamespace());
	Relation rel = OidIsValid(id) ? table_open(id, lock) : NULL;

	if (rel == NULL || rel->rd_rel->relkind != RELKIND_RELATION)
		Altered(name, rel ? "it is not a table" : "it is missing");
	return rel;
}

static AttrNumber
ColumnOf(Relation rel, const char *name, Oid type)
{
	AttrNumber number = get_attnum(RelationGetRelid(rel), name);

	if (number == InvalidAttrNumber || TupleDescAttr(rel->rd_att, number - 1)->atttypid != type)
		Altered(RelationGetRelationName(rel),
			psprintf("it has no column \"%s\" of type %s", name, format_type_be(type)));
	return number;
}

typedef struct VersionTable
{
	Relation rel;
	Oid index; /* the primary key's */
	AttrNumber model, version;
} VersionTable;

/*
 * Rows are written without the executor, so anything that the executor would have to do for them must be
 * absent: an index could call a user's functions, and an added NOT NULL column would receive a NULL.
 */
static void
CheckPlain(const VersionTable *t)
{
	const char *name = RelationGetRelationName(t->rel);
	TupleDesc desc = RelationGetDescr(t->rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (!column->attisdropped && i != t->model - 1 && i != t->version - 1 &&
			(column->attnotnull || column->attgenerated != '\0'))
			Altered(name, "a column was added that is NOT NULL or generated");
	}
	if (desc->constr && desc->constr->num_check > 0)
		Altered(name, "it has a CHECK constraint");
	if (list_length(RelationGetIndexList(t->rel)) > 1)
		Altered(name, "it has another index than its primary key");
}

static VersionTable
OpenVersions(void)
{
	VersionTable t = {.rel = OpenTable("llm_model_version", RowExclusiveLock)};
	Relation key;

	t.model = ColumnOf(t.rel, "model", TEXTOID);
	t.version = ColumnOf(t.rel, "version", INT8OID);
	CheckPlain(&t);
	t.index = t.rel->rd_pkindex;
	if (!OidIsValid(t.index))
		Altered("llm_model_version", "its primary key is missing");
	key = index_open(t.index, AccessShareLock);
	if (IndexRelationGetNumberOfKeyAttributes(key) != 1 || key->rd_index->indkey.values[0] != t.model)
		Altered("llm_model_version", "its primary key is not (model)");
	index_close(key, AccessShareLock);
	return t;
}

static void
CloseVersions(VersionTable *t)
{
	table_close(t->rel, NoLock);
}

/* ---- finding and locking ---- */

static ScanKeyData
KeyOf(AttrNumber column, const char *model)
{
	ScanKeyData key;

	ScanKeyInit(&key, column, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(model));
	key.sk_collation = C_COLLATION_OID;
	return key;
}

/* The place where a snapshot sees the model's row; false if it sees none. */
static bool
FindRow(const VersionTable *t, const char *model, Snapshot snapshot, ItemPointer at)
{
	ScanKeyData key = KeyOf(t->model, model);
	SysScanDesc scan = systable_beginscan(t->rel, t->index, true, snapshot, 1, &key);
	HeapTuple row = systable_getnext(scan);

	if (HeapTupleIsValid(row))
		*at = row->t_self;
	systable_endscan(scan);
	return HeapTupleIsValid(row);
}

static void CannotSerialize(void) __attribute__((noreturn));

static void
CannotSerialize(void)
{
	ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					   errmsg("could not serialize access due to concurrent update")));
}

/* The snapshot of the next command of this transaction, which sees its own changes. */
static Snapshot
NowSnapshot(void)
{
	CommandCounterIncrement();
	return RegisterSnapshot(GetTransactionSnapshot());
}

typedef enum RowState
{
	ROW_LOCKED,
	ROW_HELD, /* held by another transaction, and the policy is not to wait */
	ROW_MISSING
} RowState;

static RowState
LockRow(const VersionTable *t, const char *model, LockWaitPolicy policy, TupleTableSlot *slot)
{
	Snapshot snapshot = NowSnapshot();
	uint8 flags = TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS;
	ItemPointerData at;
	TM_FailureData failure;
	TM_Result result;

	if (!FindRow(t, model, snapshot, &at))
	{
		UnregisterSnapshot(snapshot);
		if (!IsolationUsesXactSnapshot())
			return ROW_MISSING;
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		if (FindRow(t, model, snapshot, &at))
			CannotSerialize();
		UnregisterSnapshot(snapshot);
		return ROW_MISSING;
	}
	if (!IsolationUsesXactSnapshot())
		flags |= TUPLE_LOCK_FLAG_FIND_LAST_VERSION;
	result = table_tuple_lock(t->rel, &at, snapshot, slot, GetCurrentCommandId(false),
		LockTupleNoKeyExclusive, policy, flags, &failure);
	UnregisterSnapshot(snapshot);
	switch (result)
	{
		case TM_Ok:
			return ROW_LOCKED;
		case TM_WouldBlock:
			return ROW_HELD;
		case TM_Deleted:
		case TM_Updated:
			if (IsolationUsesXactSnapshot())
				CannotSerialize();
			return ROW_MISSING;
		default:
			elog(ERROR, "pg_llm: the version row of model \"%s\" cannot be locked (%d)", model, (int) result);
	}
}

bool
VersionLock(const char *model, LockWaitPolicy policy)
{
	VersionTable t = OpenVersions();
	TupleTableSlot *slot = table_slot_create(t.rel, NULL);
	RowState state = LockRow(&t, model, policy, slot);

	ExecDropSingleTupleTableSlot(slot);
	CloseVersions(&t);
	return state != ROW_HELD;
}

/* ---- writing ---- */

static int64
NextVersion(void)
{
	return nextval_internal(get_relname_relid("llm_version_seq", ExtensionNamespace()), false);
}

static void
InsertRow(const VersionTable *t, const char *model, int64 version)
{
	int n = RelationGetNumberOfAttributes(t->rel);
	Datum *values = palloc0(sizeof(Datum) * n);
	bool *nulls = palloc(sizeof(bool) * n);

	memset(nulls, true, sizeof(bool) * n);
	values[t->model - 1] = CStringGetTextDatum(model);
	values[t->version - 1] = Int64GetDatum(version);
	nulls[t->model - 1] = nulls[t->version - 1] = false;
	CatalogTupleInsert(t->rel, heap_form_tuple(RelationGetDescr(t->rel), values, nulls));
}

static void
UpdateRow(const VersionTable *t, TupleTableSlot *slot, int64 version)
{
	bool free_row;
	HeapTuple row = ExecFetchSlotHeapTuple(slot, false, &free_row), changed;
	int column = t->version;
	Datum value = Int64GetDatum(version);
	bool null = false;

	changed = heap_modify_tuple_by_cols(row, RelationGetDescr(t->rel), 1, &column, &value, &null);
	CatalogTupleUpdate(t->rel, &slot->tts_tid, changed);
	heap_freetuple(changed);
	if (free_row)
		heap_freetuple(row);
}

/*
 * Two sessions may both be the first to change rows of a model: one inserts the version row; the other waits
 * until its transaction ends (with a lock that SQL cannot take) and then finds the row.
 */
int64
VersionRaise(const char *model)
{
	VersionTable t = OpenVersions();
	TupleTableSlot *slot = table_slot_create(t.rel, NULL);
	int64 version = NextVersion();
	RowState state = LockRow(&t, model, LockWaitBlock, slot);

	if (state == ROW_MISSING)
	{
		LockPage(t.rel, string_hash(model, strlen(model) + 1) % MaxBlockNumber, ExclusiveLock);
		state = LockRow(&t, model, LockWaitBlock, slot);
	}
	if (state == ROW_MISSING)
		InsertRow(&t, model, version);
	else
		UpdateRow(&t, slot, version);
	ExecDropSingleTupleTableSlot(slot);
	CloseVersions(&t);
	CommandCounterIncrement();
	return version;
}

/* ---- lists ---- */

static int
ByName(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/* Adds the texts of one column to a list: of all rows, or of those whose other column is the model's name. */
static List *
Collect(Relation rel, AttrNumber column, AttrNumber where, const char *model, List *names)
{
	Snapshot snapshot = NowSnapshot();
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple row;

	if (model)
		key = KeyOf(where, model);
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, model ? 1 : 0, &key);
	while (HeapTupleIsValid(row = systable_getnext(scan)))
	{
		bool null;
		Datum name = heap_getattr(row, column, RelationGetDescr(rel), &null);

		if (!null)
			names = lappend(names, TextDatumGetCString(name));
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return names;
}

List *
VersionModels(void)
{
	VersionTable t = OpenVersions();
	List *names = Collect(t.rel, t.model, InvalidAttrNumber, NULL, NIL);

	CloseVersions(&t);
	list_sort(names, ByName);
	return names;
}

bool
VersionHasParams(const char *model)
{
	Relation params = OpenTable("llm_param", AccessShareLock);
	AttrNumber column = ColumnOf(params, "model", TEXTOID);
	bool found = Collect(params, column, column, model, NIL) != NIL;

	table_close(params, AccessShareLock);
	return found;
}

List *
VersionSharers(const char *model)
{
	Relation shares = OpenTable("llm_param_share", AccessShareLock);
	AttrNumber source = ColumnOf(shares, "source_model", TEXTOID);
	AttrNumber target = ColumnOf(shares, "target_model", TEXTOID);
	List *names = Collect(shares, target, source, model, list_make1(pstrdup(model))), *unique = NIL;
	ListCell *cell;

	table_close(shares, AccessShareLock);
	list_sort(names, ByName);
	foreach (cell, names)
		if (unique == NIL || strcmp(llast(unique), lfirst(cell)) != 0)
			unique = lappend(unique, lfirst(cell));
	return unique;
}
