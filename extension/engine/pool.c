/*
 * See pool.h. One job at a time, as a session runs one statement at a time. `claim` holds the job's number
 * and its next task in one word, so that a worker that slept through a job can never take a task of the next
 * one. The caller takes tasks too and afterwards waits for claimed tasks only: a worker that never woke costs
 * nothing.
 */
#include <fenv.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "engine/pool.h"

/* LLM_NO_FUTEX selects the code of other systems, for the tests. */
#if defined(__linux__) && !defined(LLM_NO_FUTEX)
#define LLM_FUTEX
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#if defined(__x86_64__)
#include <xmmintrin.h>
#define RELAX() _mm_pause()
/* Round to nearest, denormals kept, no traps. */
#define DEFAULT_MXCSR 0x1f80u
typedef unsigned FloatMode;
#else
#define RELAX() ((void) 0)
typedef fenv_t FloatMode;
#endif

#define MAX_THREADS 1024
/*
 * Iterations of the spin before a worker sleeps, a few microseconds: more would starve other sessions'
 * threads.
 */
#define SPIN 2000

static struct
{
	_Atomic uint64_t claim; /* job number << 32 | next task */
	_Atomic uint32_t job;   /* the word that workers sleep on: low half of the job number */
	_Atomic int sleepers;
	_Atomic int done;
	_Atomic bool stopping;
	_Atomic int threads; /* workers with this number or a higher one take no tasks */
	_Atomic int tasks;
	_Atomic(LlmTask) task;
	void *_Atomic context;
} pool = {.threads = 1};

static int started = 1; /* the caller */
static int wanted = 1;
static bool (*stop_function)(void);
static void (*wait_function)(bool begins);

/*
 * The same bits need IEEE's default mode. Other code of the process may have left another: a library linked
 * with -ffast-math makes denormals 0 in the thread that loads it, and new threads inherit that.
 */
static void
enter_default_mode(FloatMode *before)
{
#if defined(__x86_64__)
	*before = _mm_getcsr();
	_mm_setcsr(DEFAULT_MXCSR);
#else
	fegetenv(before);
	fesetenv(FE_DFL_ENV);
#endif
}

static void
leave_default_mode(const FloatMode *before)
{
#if defined(__x86_64__)
	_mm_setcsr(*before);
#else
	fesetenv(before);
#endif
}

#if defined(LLM_FUTEX)

static void
sleep_while(_Atomic uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void
wake_all(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#else

static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t job_changed = PTHREAD_COND_INITIALIZER;

static void
sleep_while(_Atomic uint32_t *word, uint32_t value)
{
	pthread_mutex_lock(&sleep_lock);
	while (atomic_load(word) == value)
		pthread_cond_wait(&job_changed, &sleep_lock);
	pthread_mutex_unlock(&sleep_lock);
}

/* The word has changed already; under the lock, no worker is between looking at it and waiting. */
static void
wake_all(_Atomic uint32_t *word)
{
	pthread_mutex_lock(&sleep_lock);
	pthread_cond_broadcast(&job_changed);
	pthread_mutex_unlock(&sleep_lock);
}

#endif

/* Calls the stop function; workers only read the flag that it sets. */
static bool
poll_stop(void)
{
	if (stop_function && stop_function())
		atomic_store(&pool.stopping, true);
	return atomic_load(&pool.stopping);
}

bool
llm_pool_stopping(int worker)
{
	return worker == 0 ? poll_stop() : atomic_load_explicit(&pool.stopping, memory_order_relaxed);
}

/* Takes tasks of job `number` until none is left; the caller (worker 0) polls the stop function. */
static void
work(uint32_t number, int worker)
{
	uint64_t claim = atomic_load(&pool.claim);

	while ((uint32_t) (claim >> 32) == number)
	{
		int index = (int) (uint32_t) claim;
		LlmTask task = pool.task;
		void *context = pool.context;

		if (index >= pool.tasks)
			return;
		if (worker == 0)
			poll_stop();
		if (!atomic_compare_exchange_weak(&pool.claim, &claim, claim + 1))
			continue;
		if (!atomic_load(&pool.stopping))
			task(context, index, worker);
		atomic_fetch_add(&pool.done, 1);
		claim = atomic_load(&pool.claim);
	}
}

static void *
worker_main(void *argument)
{
	int worker = (int) (intptr_t) argument;
	uint32_t seen = 0;
	FloatMode inherited;

	enter_default_mode(&inherited);
	for (;;)
	{
		uint32_t job = atomic_load(&pool.job);

		for (int i = 0; i < SPIN && job == seen; i++)
		{
			RELAX();
			job = atomic_load(&pool.job);
		}
		if (job == seen)
		{
			atomic_fetch_add(&pool.sleepers, 1);
			sleep_while(&pool.job, seen);
			atomic_fetch_sub(&pool.sleepers, 1);
			continue;
		}
		seen = job;
		if (worker < atomic_load(&pool.threads))
			work(job, worker);
	}
	return NULL;
}

/*
 * Workers receive no signals: the server's handlers belong to the main thread. If a thread cannot be
 * started, there are fewer workers.
 */
static void
start_workers(void)
{
	sigset_t all, before;
	pthread_attr_t attributes;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	while (started < wanted)
	{
		pthread_t thread;

		if (pthread_create(&thread, &attributes, worker_main, (void *) (intptr_t) started) != 0)
			break;
		started++;
	}
	pthread_attr_destroy(&attributes);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (started < wanted)
		wanted = started;
}

void
llm_pool_configure(int threads, bool (*stop)(void))
{
	wanted = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
	stop_function = stop;
}

void
llm_pool_on_wait(void (*waits)(bool begins))
{
	wait_function = waits;
}

int
llm_pool_threads(void)
{
	return wanted;
}

static void
wait_for_workers(int tasks)
{
	if (wait_function)
		wait_function(true);
	while (atomic_load(&pool.done) < tasks)
	{
		RELAX();
		sched_yield();
		poll_stop();
	}
	if (wait_function)
		wait_function(false);
}

/* More than one task: they are shared with the workers. */
static void
run_shared(int tasks, LlmTask task, void *context)
{
	uint32_t number = atomic_load(&pool.job) + 1;

	if (started < wanted)
		start_workers();
	/* first of all no task of any job can be claimed: a worker still leaving the last job must not see mixed
	 * fields */
	atomic_store(&pool.claim, (uint64_t) number << 32 | INT_MAX);
	pool.task = task;
	pool.context = context;
	pool.tasks = tasks;
	atomic_store(&pool.threads, wanted);
	atomic_store(&pool.done, 0);
	atomic_store(&pool.claim, (uint64_t) number << 32);
	atomic_store(&pool.job, number);
	if (wanted > 1 && atomic_load(&pool.sleepers) > 0)
		wake_all(&pool.job);
	work(number, 0);
	for (int spins = 0; atomic_load(&pool.done) < tasks && spins < SPIN; spins++)
		RELAX();
	if (atomic_load(&pool.done) < tasks)
		wait_for_workers(tasks);
}

static LlmCode
canceled(LlmError *err)
{
	return llm_fail(err, LLM_CANCELED, "canceled on request");
}

LlmCode
llm_poll(LlmError *err)
{
	return stop_function && stop_function() ? canceled(err) : LLM_OK;
}

LlmCode
llm_parallel(int tasks, LlmTask task, void *context, LlmError *err)
{
	FloatMode before;

	atomic_store(&pool.stopping, false);
	enter_default_mode(&before);
	if (tasks > 1)
		run_shared(tasks, task, context);
	else if (!poll_stop() && tasks == 1)
		task(context, 0, 0);
	leave_default_mode(&before);
	return atomic_load(&pool.stopping) ? canceled(err) : LLM_OK;
}
