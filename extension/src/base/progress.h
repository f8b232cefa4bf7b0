/*
 * What the sessions of the server are doing now, for the view llm_progress. A report is a few stores to
 * shared memory, so one is made at every step.
 */
#ifndef LLM_SRC_BASE_PROGRESS_H
#define LLM_SRC_BASE_PROGRESS_H

#include "postgres.h"

typedef enum ProgressPhase
{
	PROGRESS_WAITING, /* for other sessions' locks */
	PROGRESS_LOADING,
	PROGRESS_COMPUTING,
	PROGRESS_WRITING
} ProgressPhase;

typedef struct Progress Progress;

/*
 * Begins a report. It ends with this memory context, also after an error. kind and unit (of a step) are those
 * of the view; model may be NULL; steps 0: unknown. If shared memory has no room, the report is not shown.
 */
extern Progress *ProgressBegin(
	MemoryContext context, const char *kind, const char *model, const char *unit, int64 steps);
extern void ProgressPhaseIs(Progress *p, ProgressPhase phase);
/* Computing begins, at this step of so many: what is continued has made some before. */
extern void ProgressRange(Progress *p, int64 step, int64 steps);
/* Reports the steps made so far, and the tokens processed since the report before. */
extern void ProgressStep(Progress *p, int64 step, int64 tokens);
extern void ProgressEnd(Progress *p);
/* Another step of what _llm_progress_begin has begun in SQL, if it is of this kind. */
extern void ProgressSqlStep(const char *kind);

#endif
