/*
 * Where the time of a statement goes, for llm_explain: generate.c says what it has just done. The calls do
 * nothing unless a statement is being explained.
 */
#ifndef LLM_SRC_INSIGHT_EXPLAIN_H
#define LLM_SRC_INSIGHT_EXPLAIN_H

#include "postgres.h"

#include "engine/execute.h"

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

#endif
