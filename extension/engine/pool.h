/*
 * The thread pool: a parallel loop over tasks, claimed one by one from an atomic counter. Private pthreads,
 * made lazily by the first loop, no OpenMP. A result must not depend on which thread ran a task.
 */
#ifndef LLM_POOL_H
#define LLM_POOL_H

#include "common/base.h"

/*
 * Elements of one task: enough work to be worth a claim, little enough to be canceled at once. A multiple of
 * the four numbers that one call of the random generator makes.
 */
#define LLM_TASK 16384
/* The same where elements are only moved or added up. */
#define LLM_TASK_MOVED 65536
/* The same where a task takes whole rows: short ones go together. */
#define LLM_TASK_ROWS 4096

typedef void (*LlmTask)(void *context, int task, int worker);

/*
 * How many threads a loop may use, the caller included (at least 1), and a function polled by the caller
 * between tasks: true ends the loop early. Both are set by the glue; stop NULL never stops.
 */
extern void llm_pool_configure(int threads, bool (*stop)(void));
extern int llm_pool_threads(void);

/*
 * Runs task(context, i, worker) for every i < tasks, worker < llm_pool_threads(). Returns LLM_CANCELED, with
 * err filled, when the stop function said so: some tasks did not run and the output is not to be used. Tasks
 * run in the default floating-point mode, whatever the caller's is. A task must not start a loop of its own.
 */
extern LlmCode llm_parallel(int tasks, LlmTask task, void *context, LlmError *err);

/*
 * Long tasks poll this between parts of some milliseconds: true once the loop is to end, and what the task
 * made is not to be used. On the caller's thread (worker 0) it asks the stop function.
 */
extern bool llm_pool_stopping(int worker);

/* Elements that a loop looks at between two polls: well below a millisecond. */
#define LLM_POLL_ELEMENTS 65536
/* The same question outside of a loop, by the caller's thread: LLM_CANCELED, with err filled, or LLM_OK. */
extern LlmCode llm_poll(LlmError *err);

#endif
