/*
 * The thread pool: every task runs once, none after the loop's end, workers that wake late, stops at every
 * poll, and the floating-point mode. `test_pool time` measures how soon a huge product and a huge attention
 * stop.
 */
#include "levels.h"

#include <fenv.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "engine/parallel.h"

typedef struct Tally
{
	int tasks, threads;
	_Atomic int *runs; /* how often each task ran */
	_Atomic int total;
	int slow; /* this task takes a millisecond */
} Tally;

static void
tally_task(void *context, int task, int worker)
{
	Tally *t = context;

	CHECK(task >= 0 && task < t->tasks && worker >= 0 && worker < t->threads);
	if (task == t->slow)
		usleep(1000);
	atomic_fetch_add(&t->runs[task], 1);
	atomic_fetch_add(&t->total, 1);
}

/* The context is freed when the loop ends: a worker that used it later would access freed memory. */
static void
loop(int tasks, int slow)
{
	Tally *t = calloc(1, sizeof(Tally));
	LlmError err;

	*t = (Tally){.tasks = tasks, .threads = llm_pool_threads(), .slow = slow};
	t->runs = calloc(tasks + 1, sizeof(*t->runs));
	CHECK_OK(llm_parallel(tasks, tally_task, t, &err), err);
	CHECK(t->total == tasks);
	for (int i = 0; i < tasks; i++)
		CHECK(t->runs[i] == 1);
	free(t->runs);
	free(t);
}

static void
every_task_once(void)
{
	for (int threads = 1; threads <= 8; threads++)
	{
		llm_pool_configure(threads, NULL);
		CHECK(llm_pool_threads() == threads);
		for (int round = 0; round < 2000; round++) /* workers spin */
			loop(round % 23, -1);
		for (int round = 0; round < 5; round++) /* workers sleep in between, and wake late or not at all */
		{
			usleep(2000);
			loop(2 + round, -1);
			loop(2 + round, 0);
			loop(2 + round, 1 + round);
		}
		loop(50000, -1);
	}
	for (int round = 0; round < 3000; round++) /* the number of threads changes from loop to loop */
	{
		llm_pool_configure(1 + round % 7, NULL);
		loop(round % 5, -1);
	}
	llm_pool_configure(0, NULL);
	CHECK(llm_pool_threads() == 1);
	llm_pool_configure(100000, NULL);
	CHECK(llm_pool_threads() <= 1024);
}

/* ---- stopping ---- */

static int polls_left;
static bool stopped;

static bool
stop_at_poll(void)
{
	stopped |= polls_left-- == 0;
	return stopped;
}

static void
stop_after(int polls)
{
	polls_left = polls;
	stopped = false;
}

static void
stop_at_every_poll(void)
{
	for (int threads = 1; threads <= 3; threads++)
		for (int tasks = 0; tasks < 12; tasks++)
			for (int polls = 0, done = false; !done; polls++)
			{
				Tally t = {.tasks = tasks, .threads = threads, .slow = -1};
				LlmError err = {0};
				LlmCode code;

				t.runs = calloc(tasks + 1, sizeof(*t.runs));
				llm_pool_configure(threads, stop_at_poll);
				stop_after(polls);
				code = llm_parallel(tasks, tally_task, &t, &err);
				CHECK(code == (stopped ? LLM_CANCELED : LLM_OK) && code == err.code);
				CHECK(code != LLM_OK || t.total == tasks);
				CHECK(threads > 1 || polls > 0 || t.total == 0);
				free(t.runs);
				done = !stopped;
				llm_pool_configure(threads, NULL); /* the pool works afterwards */
				loop(5, -1);
			}
}

static void
until_stopped_task(void *context, int task, int worker)
{
	while (!llm_pool_stopping(worker))
		atomic_fetch_add((_Atomic int *) context, 1);
}

/* Tasks that would never end, one or many: the caller's task polls the stop function. */
static void
endless_tasks(void)
{
	for (int threads = 1; threads <= 3; threads++)
		for (int tasks = 1; tasks <= 5; tasks += 2)
		{
			_Atomic int turns = 0;
			LlmError err;

			llm_pool_configure(threads, stop_at_poll);
			stop_after(1000);
			CHECK_FAILS(llm_parallel(tasks, until_stopped_task, (void *) &turns, &err), LLM_CANCELED,
				"canceled", err);
			CHECK(turns > 0);
		}
	llm_pool_configure(2, NULL);
	loop(10, -1);
}

static double
seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static double deadline, noticed;

static bool
stop_at_time(void)
{
	if (seconds() < deadline)
		return false;
	if (noticed == 0)
		noticed = seconds();
	return true;
}

/*
 * A product and an attention of many seconds; the time from the request to the return is printed, not
 * asserted.
 */
static void
huge_work(bool show)
{
	int M = 3000, N = 3000, K = 20000, T = 6000, HS = 128;
	float *a = calloc((size_t) M * K, 4), *b = calloc(llm_packed_floats(K, N), 4),
		  *out = malloc(4 * (size_t) M * N);
	LlmAttention attention = llm_self_attention(1, T, 1, HS, false);
	LlmQkv in = llm_qkv_of(&attention, a);
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmKvCache cache;
	LlmError err;

	CHECK_OK(llm_kv_create(&cache, 1, 1, HS, T, &memory, &err), err);
	EACH_LEVEL(isa, threads)
	{
		const int shapes[4][3] = {{M, N, K}, {1, N, K}, {100, 40, K}, {M, 7, K}};

		llm_pool_configure(threads, stop_at_time);
		for (int i = 0; i < 5; i++)
		{
			deadline = seconds() + (show ? 0.1 : 0.003);
			noticed = 0;
			if (i < 4)
				while (llm_matmul_packed(
						   shapes[i][0], shapes[i][1], shapes[i][2], a, K, b, out, &memory, &err) == LLM_OK)
					;
			else
				while (llm_attention(&attention, &in, &cache, out, NULL, NULL, &memory, &err) == LLM_OK)
					cache.length = 0;
			CHECK(err.code == LLM_CANCELED && cache.length == 0);
			if (show)
				printf("%-7s %d threads, %-12s: back after %5.1f ms, asked %5.1f ms late\n",
					llm_kernels->name, threads,
					i == 0   ? "product"
					: i == 1 ? "one row"
					: i == 4 ? "attention"
							 : "thin product",
					1e3 * (seconds() - deadline), 1e3 * (noticed - deadline));
		}
	}
	llm_pool_configure(2, NULL);
	llm_kv_free(&cache, &memory);
	CHECK(counted.held == 0);
	free(a);
	free(b);
	free(out);
}

/* ---- the floating-point mode ---- */

static void
mode_task(void *context, int task, int worker)
{
	volatile float tiny = 0x1p-126f, one = 1, three = 3;

	if (tiny * 0.5f != 0x1p-127f || (double) (one / three) < 0x1.555555p-2)
		atomic_fetch_add((_Atomic int *) context, 1);
	usleep(task % 4 == 0 ? 100 : 0); /* so that every worker gets some tasks */
}

/*
 * Denormals are kept and rounding is to nearest in every thread, whatever the caller's mode, which is
 * restored.
 */
static void
floating_point_mode(void)
{
	_Atomic int wrong = 0;
	LlmError err;

	fesetround(FE_DOWNWARD);
#if defined(__x86_64__)
	_mm_setcsr(_mm_getcsr() | 0x8040); /* flush to zero, denormals are zero */
#endif
	for (int threads = 1; threads <= 9; threads += 4) /* new threads inherit this mode */
	{
		llm_pool_configure(threads, NULL);
		CHECK_OK(llm_parallel(1, mode_task, (void *) &wrong, &err), err);
		CHECK_OK(llm_parallel(100, mode_task, (void *) &wrong, &err), err);
		CHECK(wrong == 0 && fegetround() == FE_DOWNWARD);
	}
#if defined(__x86_64__)
	CHECK((_mm_getcsr() & 0x8040) == 0x8040);
	_mm_setcsr(_mm_getcsr() & ~0x8040u);
#endif
	fesetround(FE_TONEAREST);
}

int
main(int argc, char **argv)
{
	if (argc > 1)
	{
		huge_work(true);
		return 0;
	}
	floating_point_mode(); /* first, so that it starts the threads */
	every_task_once();
	stop_at_every_poll();
	endless_tasks();
	huge_work(false);
	return 0;
}
