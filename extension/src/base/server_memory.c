/*
 * The counters of all sessions' memory take a kilobyte of the shared memory that PostgreSQL reserves for late
 * requests, so the library need not be preloaded. After a crash PostgreSQL creates all shared memory anew,
 * the counters included.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/memutils.h"

#include "src/base/server_memory.h"

int pg_llm_server_memory_limit_mb = 0;

typedef struct Counters
{
	pg_atomic_uint64 total;
	pg_atomic_uint64 held[FLEXIBLE_ARRAY_MEMBER]; /* one per process, in the order of ProcGlobal->allProcs */
} Counters;

static Counters *counters = NULL;
static pg_atomic_uint64 *mine; /* written only by this process */

/* The server's counters, created by the first session that needs them. Raises if shared memory has no room
 * for them. */
static Counters *
FindCounters(void)
{
	Size size = offsetof(Counters, held) + sizeof(pg_atomic_uint64) * ProcGlobal->allProcCount;
	bool found;
	Counters *c = ShmemInitStruct("pg_llm memory", size, &found);

	if (found)
		return c;
	pg_atomic_init_u64(&c->total, 0);
	for (uint32 i = 0; i < ProcGlobal->allProcCount; i++)
		pg_atomic_init_u64(&c->held[i], 0);
	return c;
}

static void
Leave(int code, Datum arg)
{
	ServerMemoryTell(0);
	counters = NULL;
}

static bool
Attach(void)
{
	static bool tried = false;
	MemoryContext caller = CurrentMemoryContext;
	ErrorData *error;

	if (tried)
		return counters != NULL;
	tried = true;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	PG_TRY();
	{
		counters = FindCounters();
		LWLockRelease(AddinShmemInitLock);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS(); /* the error has already reset the hold that came with the lock */
		LWLockRelease(AddinShmemInitLock);
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		ereport(WARNING, (errmsg("pg_llm.server_memory_limit is not kept: %s", error->message),
							 errdetail("pg_llm.memory_limit, the limit of each session, is.")));
		return false;
	}
	PG_END_TRY();
	mine = &counters->held[MyProc - ProcGlobal->allProcs];
	ServerMemoryTell(0); /* an earlier process in this slot may have left a value */
	on_shmem_exit(Leave, 0);
	return true;
}

static uint64
LimitBytes(void)
{
	return pg_llm_server_memory_limit_mb ? (uint64) pg_llm_server_memory_limit_mb << 20 : UINT64_MAX;
}

bool
ServerMemoryAsk(Size bytes)
{
	uint64 total, held;

	if (!Attach())
		return true;
	held = pg_atomic_read_u64(mine);
	total = pg_atomic_read_u64(&counters->total);
	do
		if (bytes > held && total - held + bytes > LimitBytes())
			return false;
	while (!pg_atomic_compare_exchange_u64(&counters->total, &total, total - held + bytes));
	pg_atomic_write_u64(mine, bytes);
	return true;
}

void
ServerMemoryTell(Size bytes)
{
	if (counters == NULL)
		return;
	pg_atomic_fetch_add_u64(&counters->total, (int64) (bytes - pg_atomic_read_u64(mine)));
	pg_atomic_write_u64(mine, bytes);
}

Size
ServerMemoryHeld(void)
{
	return counters ? pg_atomic_read_u64(&counters->total) : 0;
}

bool
ServerMemoryScarce(void)
{
	return ServerMemoryHeld() > LimitBytes() / 2;
}

/* () -> (pid, bytes) of the sessions that hold memory and whose statistics the role may read */
PG_FUNCTION_INFO_V1(llm_memory);
Datum
llm_memory(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	bool all = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);

	InitMaterializedSRF(fcinfo, 0);
	for (uint32 i = 0; Attach() && i < ProcGlobal->allProcCount; i++)
	{
		const PGPROC *process = &ProcGlobal->allProcs[i];
		uint64 held = pg_atomic_read_u64(&counters->held[i]);
		Datum values[2] = {Int32GetDatum(process->pid), Int64GetDatum((int64) held)};
		bool nulls[2] = {0};

		if (held > 0 && (all || has_privs_of_role(GetUserId(), process->roleId)))
			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
