/*
 * llm_train_loop: a training run that commits as it goes. Weights stay in memory from one transaction to the
 * next unless their version changes. The right to train is held for the whole loop, the row locks only until
 * each commit, when sessions waiting for the rows get their turn.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "src/base/changes.h"
#include "src/base/wait.h"
#include "src/model/training_lock.h"
#include "src/training/train.h"
#include "src/training/training.h"

/*
 * Computing takes at least this many times as long as writing. Also, each write leaves the previous weights
 * as dead rows, and vacuum, which PostgreSQL throttles, needs time to remove them: a small model committed
 * ten times a second would fill the disk.
 */
#define COMPUTE_PER_WRITE 10
#define COMMIT_SECONDS 1.0
#define PAUSE_MS 50
#define WARN_BYTES (64 << 20)

typedef struct Loop
{
	MemoryContext context; /* outlives the transactions */
	Recipe *r;
	Datum row; /* the plan, used until the run has begun */
	bool resume, wait;
	int64 commit_every; /* 0: decided by elapsed time */
	int64 until_step;   /* the model's step at which this call stops; the run may continue later */
	TrainingPlan plan;
	Training *tr;
	int64 version; /* version of the model in tr */
	instr_time committed;
	double write_seconds;
	bool warned; /* has warned that writing takes most of the time */
} Loop;

static double
SecondsSince(instr_time start)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_DOUBLE(now);
}

static bool
TimeToCommit(void *context, int64 steps)
{
	const Loop *loop = context;

	if (loop->commit_every > 0)
		return steps >= loop->commit_every;
	return steps > 0 &&
		   SecondsSince(loop->committed) >= Max(COMMIT_SECONDS, COMPUTE_PER_WRITE * loop->write_seconds);
}

static void
Pause(void)
{
	WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, PAUSE_MS, WaitEventFor(WAIT_ROWS));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* ---- one transaction ---- */

/*
 * Never waits for a row while it holds others, so the loop cannot be part of a deadlock: a transaction that
 * could not lock all rows is rolled back.
 */
static void
LockAll(Loop *loop)
{
	while (!TrainingLockRows(loop->r->model, false, false))
	{
		if (loop->tr == NULL && !loop->wait)
			TrainingRowsHeld(loop->r->model);
		ProgressPhaseIs(loop->plan.progress, PROGRESS_WAITING);
		SPI_rollback();
		Pause();
	}
}

/* Loads the model the first time, and again after another session has changed it. */
static void
LoadIfMoved(Loop *loop)
{
	int64 version = ModelVersion(loop->r->model), step = -1;
	MemoryContext caller;

	if (loop->tr && version == loop->version)
		return;
	if (loop->tr)
	{
		step = loop->tr->step;
		TrainingClose(loop->tr);
		loop->tr = NULL;
	}
	ProgressPhaseIs(loop->plan.progress, PROGRESS_LOADING);
	caller = MemoryContextSwitchTo(loop->context);
	loop->tr = TrainingLoad(loop->r->model);
	MemoryContextSwitchTo(caller);
	loop->version = version;
	if (step < 0)
		return;
	if (loop->tr->step != step)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						   errmsg("model \"%s\" was taken from step %lld to step %lld by another session",
							   loop->r->model, (long long) step, (long long) loop->tr->step),
						   errhint("Call again to train it from there.")));
	ereport(NOTICE, (errmsg("model \"%s\" was changed by another session at step %lld: loaded again",
						loop->r->model, (long long) step)));
}

/* After the first load: determines the run, its dataset and its last step. */
static void
Begin(Loop *loop)
{
	MemoryContext caller = MemoryContextSwitchTo(loop->context);
	Recipe *r = loop->r;

	loop->plan.data = DatasetOpen(r->dataset, r->seed);
	RecipeBegin(r, loop->row, loop->tr->step, loop->resume, loop->plan.notice_every == 0);
	loop->plan.last = Min(r->first_step + r->n_steps, loop->until_step);
	ProgressRange(loop->plan.progress, loop->tr->step - r->first_step, loop->plan.last - r->first_step);
	MemoryContextSwitchTo(caller);
}

static void
Write(Loop *loop)
{
	instr_time start;

	INSTR_TIME_SET_CURRENT(start);
	ProgressPhaseIs(loop->plan.progress, PROGRESS_WRITING);
	TrainingWrite(loop->tr);
	loop->write_seconds = SecondsSince(start);
	PushActiveSnapshot(GetLatestSnapshot()); /* sees the rows just written */
	loop->version = ModelVersion(loop->r->model);
	PopActiveSnapshot();
}

/* Each commit writes the whole model, and PostgreSQL's log of it can fill a small disk. */
static void
WarnOfWriting(Loop *loop)
{
	double step_seconds = SecondsSince(loop->committed) - loop->write_seconds;
	int64 bytes = 0;

	for (int i = 0; i < loop->tr->m->model.graph.count; i++)
		if (loop->tr->trainer->grad[i] && loop->tr->trainer->owner[i] == i)
			bytes += 3 * (int64) sizeof(float) * loop->tr->m->model.weights[i].numel;
	if (loop->warned || loop->commit_every == 0 || loop->write_seconds < step_seconds || bytes < WARN_BYTES)
		return;
	loop->warned = true;
	ereport(NOTICE,
		(errmsg(
			 "each commit writes %lld MB of weights and moments, and takes %.1f s after %.1f s of training",
			 (long long) (bytes >> 20), loop->write_seconds, step_seconds),
			errdetail("The write-ahead log grows by one to two times as much, and vacuum runs later."),
			errhint(
				"Leave commit_every out: the loop then commits when it has computed ten times as long.")));
}

/*
 * A session reports its dead rows to autovacuum when it is idle, which this one will not be for hours.
 * (Servers built with assertions require the call between transactions, where extension code does not run.)
 */
static void
ReportDeadRows(void)
{
#ifndef USE_ASSERT_CHECKING
	pgstat_report_stat(false);
#endif
}

/* Computes some steps, writes and commits them. False when the run is complete or this call has reached its
 * last step. */
static bool
OneTransaction(Loop *loop)
{
	bool waited_for, begun = loop->tr != NULL;

	if (!PostmasterIsAlive()) /* nothing else would end this session, which never waits for its client */
		ereport(FATAL, (errcode(ERRCODE_ADMIN_SHUTDOWN), errmsg("the server's first process has died")));
	LockAll(loop);
	PushActiveSnapshot(GetLatestSnapshot()); /* sees what others committed before we had the locks */
	LoadIfMoved(loop);
	if (!begun && loop->tr->step >= loop->until_step)
	{
		ereport(NOTICE, (errmsg("model \"%s\" is at step %lld: until_step %lld is reached, nothing was done",
							loop->r->model, (long long) loop->tr->step, (long long) loop->until_step)));
		PopActiveSnapshot();
		SPI_commit();
		return false;
	}
	if (!begun)
		Begin(loop);
	INSTR_TIME_SET_CURRENT(loop->committed);
	TrainingSteps(loop->tr, &loop->plan);
	Write(loop);
	WarnOfWriting(loop);
	PopActiveSnapshot();
	waited_for = TrainingHasWaiters();
	SPI_commit();
	ReportDeadRows();
	if (waited_for)
		Pause(); /* otherwise this session would lock the rows again before the waiting ones wake up */
	return loop->tr->step < loop->plan.last;
}

/* ---- the procedure ---- */

static void
RefuseBlock(FunctionCallInfo fcinfo)
{
	bool call = fcinfo->context && IsA(fcinfo->context, CallContext);

	if (!call || castNode(CallContext, fcinfo->context)->atomic || IsSubTransaction())
		ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				errmsg("llm_train_loop commits while it trains: it cannot run inside a transaction block"),
				errhint("End the block first (in Python: autocommit = True), or use llm_train, which leaves "
						"the commit to you.")));
}

/* A number of steps; `otherwise` if it is NULL. */
static int64
StepsArgument(FunctionCallInfo fcinfo, int n, const char *name, int64 otherwise, const char *hint)
{
	if (PG_ARGISNULL(n))
		return otherwise;
	if (PG_GETARG_INT64(n) < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("%s is %lld; it must be 1 or more", name, (long long) PG_GETARG_INT64(n)),
						   errhint("%s", hint)));
	return PG_GETARG_INT64(n);
}

static Loop *
LoopOf(FunctionCallInfo fcinfo)
{
	MemoryContext context = AllocSetContextCreate(PortalContext, "pg_llm loop", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	Loop *loop = palloc0(sizeof(Loop));

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("plan must not be NULL")));
	loop->context = context;
	loop->row = PointerGetDatum(PG_DETOAST_DATUM_COPY(PG_GETARG_DATUM(0)));
	loop->r = RecipeOfRow(loop->row);
	loop->commit_every = StepsArgument(fcinfo, 1, "commit_every", 0, "Leave it out to commit by the clock.");
	loop->until_step = StepsArgument(fcinfo, 6, "until_step", PG_INT64_MAX,
		"It is a step of the model, as in llm_train_log; leave it out to train the whole run.");
	loop->plan.recipe = loop->r;
	loop->plan.threads = ThreadsArgument(fcinfo, 2, "grad_workers");
	loop->plan.notice_every = NoticeArgument(fcinfo, 3);
	loop->wait = !PG_ARGISNULL(4) && PG_GETARG_BOOL(4);
	loop->resume = PG_ARGISNULL(5) || PG_GETARG_BOOL(5);
	loop->plan.ids = palloc(sizeof(int64) * loop->r->batch_size * loop->r->accumulation);
	loop->plan.enough = TimeToCommit;
	loop->plan.context = loop;
	MemoryContextSwitchTo(caller);
	return loop;
}

/* llm_train_loop_steps(plan llm_train_run, commit_every, grad_workers, notice_every, wait, resume,
 * until_step) */
PG_FUNCTION_INFO_V1(llm_train_loop_steps);
Datum
llm_train_loop_steps(PG_FUNCTION_ARGS)
{
	Loop *volatile loop;
	TrainingKeys *volatile keys;
	MemoryContext caller, each;

	RefuseBlock(fcinfo);
	loop = LoopOf(fcinfo);
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	loop->plan.progress = ProgressBegin(loop->context, "train", loop->r->model, "step", loop->r->n_steps);
	caller = MemoryContextSwitchTo(loop->context);
	keys = TrainingLock(loop->r->model, true, loop->wait);
	each = AllocSetContextCreate(loop->context, "pg_llm loop's transaction", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(each);
	PG_TRY();
	{
		while (OneTransaction(loop))
			MemoryContextReset(each);
	}
	PG_FINALLY();
	{
		TrainingUnlock(keys);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(loop->context);
	SPI_finish();
	PG_RETURN_VOID();
}
