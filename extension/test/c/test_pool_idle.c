/*
 * Idle workers use no processor time, with a futex and with the condition variable of other systems, and
 * wake up for the next job. The second pool is the same source under other names.
 */
#include "test.h"

#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "engine/pool.h"

#define LLM_NO_FUTEX
#define llm_parallel portable_parallel
#define llm_pool_configure portable_configure
#define llm_pool_threads portable_threads
#define llm_pool_stopping portable_stopping
#define llm_poll portable_poll
#define llm_pool_on_wait portable_on_wait
#include "engine/pool.c"
#undef llm_parallel
#undef llm_pool_configure

static void
count(void *context, int index, int worker)
{
	atomic_fetch_add((_Atomic int *) context, 1);
	usleep(10);
}

static double
cpu_seconds(void)
{
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	return used.ru_utime.tv_sec + used.ru_stime.tv_sec +
		   (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

typedef LlmCode (*Parallel)(int tasks, LlmTask task, void *context, LlmError *err);

static void
rests(Parallel parallel, const char *name)
{
	LlmError err;

	for (int round = 0; round < 3; round++)
	{
		_Atomic int total = 0;
		double before;

		CHECK_OK(parallel(1000, count, &total, &err), err);
		CHECK(total == 1000);
		usleep(50000); /* the spin before sleep has ended */
		before = cpu_seconds();
		usleep(400000);
		if (cpu_seconds() - before > 0.04)
			fprintf(stderr, "%s: eight idle threads used %.2f s in 0.4 s\n", name, cpu_seconds() - before);
		CHECK(cpu_seconds() - before <= 0.04);
	}
}

int
main(void)
{
	llm_pool_configure(8, NULL);
	rests(llm_parallel, "futex");
	portable_configure(8, NULL);
	rests(portable_parallel, "condition variable");
	return 0;
}
