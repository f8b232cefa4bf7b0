/*
 * The thread pool: a parallel loop over tasks, claimed one by one from an atomic counter. Private pthreads,
 * started by the first loop that needs them; no OpenMP. A result must not depend on which thread runs a
 * task.
 */
#ifndef LLM_POOL_H
#define LLM_POOL_H

#include "common/base.h"

/*
 * Elements of one task: enough work to be worth a claim, little enough to be canceled at once. A multiple of
 * four, because the random generator makes four words per call.
 */
#define LLM_TASK 16384
/* The same for elements that are only moved or added up. */
#define LLM_TASK_MOVED 65536
/* The same for tasks of whole rows: short rows are grouped. */
#define LLM_TASK_ROWS 4096

typedef void (*LlmTask)(void *context, int task, int worker);

/*
 * The number of threads of a loop, the caller included (at least 1), and a function polled by the caller
 * between tasks: true ends the loop early. Both are set by the extension; with stop NULL a loop is never
 * stopped.
 */
extern void llm_pool_configure(int threads, bool (*stop)(void));
extern int llm_pool_threads(void);
/* A function called when the caller begins, and when it ends, a wait of more than microseconds for its
 * workers. */
extern void llm_pool_on_wait(void (*waits)(bool begins));

/*
 * Runs task(context, i, worker) for every i < tasks, worker < llm_pool_threads(). Returns LLM_CANCELED, with
 * err filled, if the stop function requested it: some tasks did not run and the output is invalid. Tasks run
 * in the default floating-point mode, whatever the caller's is. A task must not start a loop of its own.
 */
extern LlmCode llm_parallel(int tasks, LlmTask task, void *context, LlmError *err);

/*
 * Long tasks poll this every few milliseconds: true once the loop is to end and the task's output is
 * discarded. On the caller's thread (worker 0) it calls the stop function.
 */
extern bool llm_pool_stopping(int worker);

/* Elements that a loop processes between two polls: well below a millisecond. */
#define LLM_POLL_ELEMENTS 65536
/* The same poll outside of a loop, by the caller's thread: LLM_CANCELED, with err filled, or LLM_OK. */
extern LlmCode llm_poll(LlmError *err);

#endif
