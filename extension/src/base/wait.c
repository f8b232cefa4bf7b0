/*
 * See wait.h. PostgreSQL 17 and later keep the names of extensions' events in shared memory; each session
 * asks for the number of a name once, when it first waits.
 */
#include "postgres.h"

#include "utils/wait_event.h"

#include "engine/pool.h"
#include "src/base/wait.h"

#if PG_VERSION_NUM >= 170000

uint32
WaitEventFor(WaitFor what)
{
	static const char *const names[] = {"PgLlmThreads", "PgLlmTrainingRows", "PgLlmSharedCopy"};
	static uint32 events[lengthof(names)] = {0};

	if (events[what] == 0)
		events[what] = WaitEventExtensionNew(names[what]);
	return events[what];
}

#else

uint32
WaitEventFor(WaitFor what)
{
	return PG_WAIT_EXTENSION;
}

#endif

static void
WaitsForThreads(bool begins)
{
	if (begins)
		pgstat_report_wait_start(WaitEventFor(WAIT_THREADS));
	else
		pgstat_report_wait_end();
}

void
WaitInit(void)
{
	llm_pool_on_wait(WaitsForThreads);
}
