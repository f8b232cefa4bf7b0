/*
 * Measures for llm_explain where a statement spends its time: generate.c reports each part that it has
 * finished. The calls do nothing unless a statement is being measured.
 */
#ifndef LLM_SRC_GENERATE_WATCH_H
#define LLM_SRC_GENERATE_WATCH_H

#include "postgres.h"

#include "engine/execute.h"
#include "engine/timing.h"

typedef enum ExplainPart
{
	EXPLAIN_STATEMENT, /* PostgreSQL: parsing, planning, starting and ending the statement */
	EXPLAIN_LOADING,   /* checking whether the model in memory is current, and reading it if not */
	EXPLAIN_TOKENIZER, /* the same for the tokenizer; encoding the prompt */
	EXPLAIN_PLANNING,  /* deciding which nodes to compute, and how many rows of each */
	EXPLAIN_EXECUTOR,  /* between the ops: binding inputs, finding buffers */
	EXPLAIN_SAMPLING,  /* from logits to a token and its text */
	EXPLAIN_PARTS
} ExplainPart;

/* Adds the time since the last call to this part. */
extern void ExplainMark(ExplainPart part);
/* Call before and after each execution of the graph. */
extern void ExplainBeforeRun(LlmExec *exec);
extern void ExplainRun(const LlmExec *exec, const LlmModel *model, int tokens);

/* ---- measuring ---- */

/* One execution of the graph. */
typedef struct WatchedRun
{
	int tokens;
	double microseconds; /* of its ops together */
	LlmTiming *nodes;    /* in graph order; NULL if there was no such execution */
} WatchedRun;

typedef enum Phase
{
	PREFILL,
	DECODE,
	PHASES
} Phase;

/* The times measured for a statement. */
typedef struct Watch
{
	MemoryContext context;
	double last;
	double part[EXPLAIN_PARTS];
	int runs;
	WatchedRun run[PHASES];
} Watch;

/* Executes a statement that generates `tokens` tokens; fills w, in the current memory context. */
extern void WatchStatement(const char *model, const char *prompt, int tokens, Watch *w);

#endif
