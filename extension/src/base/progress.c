/*
 * See progress.h. The reports take some kilobytes of the shared memory that PostgreSQL reserves for late
 * requests, so the library need not be preloaded, and PostgreSQL 15 and 16, which have no DSM registry, need
 * no other code. PostgreSQL's own progress counters hold numbers alone, and each of its commands has a view
 * already. A report ends with its memory context; a process that exits takes its reports with it, and after a
 * crash PostgreSQL creates all shared memory anew: no report outlives its work.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "src/base/progress.h"

/* Reports at one time on the whole server. Those beyond are not shown. */
#define REPORTS 128

typedef struct Report
{
	int pid; /* 0: none */
	Oid role, database;
	ProgressPhase phase;
	char kind[24], unit[16], model[NAMEDATALEN];
	int64 first, step, steps; /* steps 0: unknown */
	int64 tokens;
	TimestampTz started, computing, last; /* the report, its first step, its newest step */
} Report;

/* Its owner alone writes a report; change is odd while it does, as in PostgreSQL's status of a session. */
typedef struct Slot
{
	pg_atomic_uint32 owner; /* a process id; 0: free */
	pg_atomic_uint32 change;
	Report report;
} Slot;

struct Progress
{
	MemoryContextCallback end;
	Slot *slot; /* NULL: not shown */
};

static const char *const phases[] = {"waiting", "loading", "computing", "writing"};
static Slot *slots = NULL;

/* ---- writing ---- */

static Report *
BeginChange(Slot *slot)
{
	pg_atomic_write_u32(&slot->change, pg_atomic_read_u32(&slot->change) + 1);
	pg_write_barrier();
	return &slot->report;
}

static void
EndChange(Slot *slot)
{
	pg_write_barrier();
	pg_atomic_write_u32(&slot->change, pg_atomic_read_u32(&slot->change) + 1);
}

static void
Release(Slot *slot)
{
	BeginChange(slot)->pid = 0;
	EndChange(slot);
	pg_memory_barrier();
	pg_atomic_write_u32(&slot->owner, 0);
}

static void
Leave(int code, Datum arg)
{
	for (int i = 0; slots && i < REPORTS; i++)
		if (pg_atomic_read_u32(&slots[i].owner) == (uint32) MyProcPid)
			Release(&slots[i]);
	slots = NULL;
}

/* ---- shared memory ---- */

static Slot *
FindSlots(void)
{
	bool found;
	Slot *all = ShmemInitStruct("pg_llm progress", sizeof(Slot) * REPORTS, &found);

	for (int i = 0; !found && i < REPORTS; i++)
	{
		pg_atomic_init_u32(&all[i].owner, 0);
		pg_atomic_init_u32(&all[i].change, 0);
		all[i].report.pid = 0;
	}
	return all;
}

static bool
Attach(void)
{
	static bool tried = false;
	MemoryContext caller = CurrentMemoryContext;

	if (tried)
		return slots != NULL;
	tried = true;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	PG_TRY();
	{
		slots = FindSlots();
		LWLockRelease(AddinShmemInitLock);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS(); /* the error has already reset the hold that came with the lock */
		LWLockRelease(AddinShmemInitLock);
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		ereport(DEBUG1, (errmsg("llm_progress does not show this session: shared memory has no room")));
		return false;
	}
	PG_END_TRY();
	on_shmem_exit(Leave, 0);
	return true;
}

/* ---- a report ---- */

static void
EndsWithContext(void *progress)
{
	ProgressEnd(progress);
}

/* Copies what fits, in whole characters. */
static void
CopyName(char *to, const char *from, int size)
{
	int length = from ? pg_mbcliplen(from, (int) strlen(from), size - 1) : 0;

	if (length > 0)
		memcpy(to, from, length);
	to[length] = '\0';
}

Progress *
ProgressBegin(MemoryContext context, const char *kind, const char *model, const char *unit, int64 steps)
{
	Progress *p = MemoryContextAllocZero(context, sizeof(Progress));
	Report *r;

	for (int i = 0; Attach() && p->slot == NULL && i < REPORTS; i++)
	{
		uint32 free = 0;

		if (pg_atomic_compare_exchange_u32(&slots[i].owner, &free, (uint32) MyProcPid))
			p->slot = &slots[i];
	}
	if (p->slot == NULL)
		return p;
	p->end.func = EndsWithContext;
	p->end.arg = p;
	MemoryContextRegisterResetCallback(context, &p->end);
	r = BeginChange(p->slot);
	*r = (Report){.pid = MyProcPid, .role = MyProc->roleId, .database = MyDatabaseId, .steps = steps};
	r->started = r->computing = r->last = GetCurrentTimestamp();
	CopyName(r->kind, kind, sizeof(r->kind));
	CopyName(r->unit, unit, sizeof(r->unit));
	CopyName(r->model, model, sizeof(r->model));
	EndChange(p->slot);
	return p;
}

void
ProgressPhaseIs(Progress *p, ProgressPhase phase)
{
	if (p->slot == NULL || p->slot->report.phase == phase)
		return;
	BeginChange(p->slot)->phase = phase;
	EndChange(p->slot);
}

void
ProgressRange(Progress *p, int64 step, int64 steps)
{
	Report *r;

	if (p->slot == NULL)
		return;
	r = BeginChange(p->slot);
	r->phase = PROGRESS_COMPUTING;
	r->first = r->step = step;
	r->steps = steps;
	r->tokens = 0;
	r->computing = r->last = GetCurrentTimestamp();
	EndChange(p->slot);
}

void
ProgressStep(Progress *p, int64 step, int64 tokens)
{
	Report *r;

	if (p->slot == NULL)
		return;
	r = BeginChange(p->slot);
	r->phase = PROGRESS_COMPUTING;
	r->step = step;
	r->tokens += tokens;
	r->last = GetCurrentTimestamp();
	EndChange(p->slot);
}

void
ProgressEnd(Progress *p)
{
	if (p->slot && slots) /* else this process is exiting, and has left */
		Release(p->slot);
	p->slot = NULL;
}

/* ---- reading ---- */

/* A consistent copy; false if there is no report. */
static bool
ReadReport(Slot *slot, Report *copy)
{
	for (;;)
	{
		uint32 before = pg_atomic_read_u32(&slot->change);

		pg_read_barrier();
		memcpy(copy, &slot->report, sizeof(Report));
		pg_read_barrier();
		if (before % 2 == 0 && pg_atomic_read_u32(&slot->change) == before)
			return copy->pid != 0;
		CHECK_FOR_INTERRUPTS();
	}
}

/* Another database may have another encoding: bytes that are no text here become question marks. */
static Datum
NameText(char *name)
{
	if (!pg_verifymbstr(name, (int) strlen(name), true))
		for (char *c = name; *c; c++)
			if (IS_HIGHBIT_SET(*c))
				*c = '?';
	return CStringGetTextDatum(name);
}

/* kind, model, phase, step, steps, unit, tokens_per_second, started, eta */
static void
Describe(Report *r, Datum *values, bool *nulls)
{
	double seconds = (double) (r->last - r->computing) / USECS_PER_SEC;
	double left =
		r->step > r->first ? seconds * (double) (r->steps - r->step) / (double) (r->step - r->first) : 0;
	bool known = r->steps > 0 && r->step > r->first && left < 1e9;

	values[0] = NameText(r->kind);
	values[1] = NameText(r->model);
	nulls[1] = r->model[0] == '\0';
	values[2] = CStringGetTextDatum(phases[r->phase]);
	values[3] = Int64GetDatum(r->step);
	values[4] = Int64GetDatum(r->steps);
	nulls[4] = r->steps == 0;
	values[5] = NameText(r->unit);
	nulls[6] = r->tokens == 0 || seconds <= 0;
	values[6] = Float8GetDatum(nulls[6] ? 0 : (double) r->tokens / seconds);
	values[7] = TimestampTzGetDatum(r->started);
	nulls[8] = !known;
	values[8] = TimestampTzGetDatum(known ? r->last + (TimestampTz) (left * USECS_PER_SEC) : 0);
}

/*
 * llm_progress_reports() → (pid, database, kind, …): as in pg_stat_activity, the work of other roles is NULL
 * unless this one is a member of theirs, or of pg_read_all_stats.
 */
PG_FUNCTION_INFO_V1(llm_progress_reports);
Datum
llm_progress_reports(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	bool all = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
	Report report;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; Attach() && i < REPORTS; i++)
	{
		Datum values[11];
		bool nulls[11] = {false};

		if (!ReadReport(&slots[i], &report))
			continue;
		values[0] = Int32GetDatum(report.pid);
		values[1] = ObjectIdGetDatum(report.database);
		if (all || has_privs_of_role(GetUserId(), report.role))
			Describe(&report, values + 2, nulls + 2);
		else
			memset(nulls + 2, true, sizeof(nulls) - 2);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---- for functions in SQL, which have one report at a time ---- */

static Progress *sql_report = NULL;
static MemoryContext sql_context; /* sql_report is in it */
static intptr_t sql_serial = 0;   /* number of reports that SQL has begun */

static void
EndSqlReport(void *serial)
{
	if (sql_report && (intptr_t) serial == sql_serial)
	{
		ProgressEnd(sql_report);
		sql_report = NULL;
	}
}

static void
EndSqlReportWith(MemoryContext context)
{
	MemoryContextCallback *end = MemoryContextAlloc(context, sizeof(MemoryContextCallback));

	end->func = EndSqlReport;
	end->arg = (void *) sql_serial;
	MemoryContextRegisterResetCallback(context, end);
}

/* A block whose transaction has failed keeps its memory until its ROLLBACK. */
static void
TransactionEnds(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		EndSqlReport((void *) sql_serial);
}

/*
 * llm_progress_begin(kind, model, unit, steps, transaction): until llm_progress_end, or until the statement
 * or the transaction ends; an error that a block with EXCEPTION catches ends it too
 */
PG_FUNCTION_INFO_V1(llm_progress_begin);
Datum
llm_progress_begin(PG_FUNCTION_ARGS)
{
	static bool registered = false;
	char *names[3] = {NULL};
	int64 steps = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT64(3);
	bool transaction = !PG_ARGISNULL(4) && PG_GETARG_BOOL(4);

	if (!registered)
		RegisterXactCallback(TransactionEnds, NULL);
	registered = true;
	for (int i = 0; i < 3; i++)
		names[i] = PG_ARGISNULL(i) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(i));
	EndSqlReport((void *) sql_serial);
	sql_serial++;
	sql_context = AllocSetContextCreate(
		transaction ? TopTransactionContext : PortalContext, "pg_llm progress", ALLOCSET_SMALL_SIZES);
	EndSqlReportWith(sql_context);
	if (GetCurrentTransactionNestLevel() > 1)
		EndSqlReportWith(CurTransactionContext);
	sql_report = ProgressBegin(sql_context, names[0], names[1], names[2], steps);
	ProgressRange(sql_report, 0, steps);
	PG_RETURN_VOID();
}

void
ProgressSqlStep(const char *kind)
{
	if (sql_report && sql_report->slot && strcmp(sql_report->slot->report.kind, kind) == 0)
		ProgressStep(sql_report, sql_report->slot->report.step + 1, 0);
}

/* llm_progress_step(kind) → true, to stand in a WHERE clause: another step is made */
PG_FUNCTION_INFO_V1(llm_progress_step);
Datum
llm_progress_step(PG_FUNCTION_ARGS)
{
	ProgressSqlStep(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_BOOL(true);
}

PG_FUNCTION_INFO_V1(llm_progress_end);
Datum
llm_progress_end(PG_FUNCTION_ARGS)
{
	if (sql_report)
		MemoryContextDelete(sql_context);
	PG_RETURN_VOID();
}
