/*
 * Where the time of a statement goes, for llm_explain: generate.c says what it has just done. The calls do
 * nothing unless a statement is being watched.
 */
#ifndef LLM_SRC_GENERATE_WATCH_H
#define LLM_SRC_GENERATE_WATCH_H

#include "postgres.h"

#include "engine/execute.h"
#include "engine/timing.h"

typedef enum ExplainPart
{
	EXPLAIN_STATEMENT, /* PostgreSQL: parsing, planning, starting and ending the statement */
	EXPLAIN_LOADING,   /* is the model in memory still what the tables hold? if not: reading it */
	EXPLAIN_TOKENIZER, /* the same for the tokenizer, and the prompt's tokens */
	EXPLAIN_PLANNING,  /* which nodes to run, how many rows of each */
	EXPLAIN_EXECUTOR,  /* between the ops: inputs bound, buffers found */
	EXPLAIN_SAMPLING,  /* from logits to a token and its text */
	EXPLAIN_PARTS
} ExplainPart;

/* The time since the last call went into this part. */
extern void ExplainMark(ExplainPart part);
/* Before a run, and after it. */
extern void ExplainBeforeRun(LlmExec *exec);
extern void ExplainRun(const LlmExec *exec, const LlmModel *model, int tokens);

/* ---- watching ---- */

/* One run of the executor. */
typedef struct WatchedRun
{
	int tokens;
	double microseconds; /* of its ops together */
	LlmTiming *nodes;    /* in graph order; NULL: there was no such run */
} WatchedRun;

typedef enum Phase
{
	PREFILL,
	DECODE,
	PHASES
} Phase;

/* What a statement took. */
typedef struct Watch
{
	MemoryContext context;
	double last;
	double part[EXPLAIN_PARTS];
	int runs;
	WatchedRun run[PHASES];
} Watch;

/* Runs a statement that generates `tokens` tokens; fills w, in the current memory context. */
extern void WatchStatement(const char *model, const char *prompt, int tokens, Watch *w);

#endif
