/* What a session waits for, as pg_stat_activity names it in wait_event. */
#ifndef LLM_SRC_BASE_WAIT_H
#define LLM_SRC_BASE_WAIT_H

#include "postgres.h"

typedef enum WaitFor
{
	WAIT_THREADS, /* the last tasks of the thread pool */
	WAIT_ROWS,    /* rows of a model in training, which another session has locked */
	WAIT_COPY     /* a shared copy, which another session is making */
} WaitFor;

/* For WaitLatch and pgstat_report_wait_start. Before PostgreSQL 17 all are the event Extension. */
extern uint32 WaitEventFor(WaitFor what);
extern void WaitInit(void);

#endif
