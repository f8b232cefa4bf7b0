/* Executions of a graph that the tape records, node by node. */
#ifndef LLM_SRC_MODEL_TRACE_H
#define LLM_SRC_MODEL_TRACE_H

#include "postgres.h"

#include "engine/execute.h"
#include "src/model/model_cache.h"
#include "src/tape/tape.h"

/*
 * A forward pass for an SQL function. If recording is on, it is recorded in the session's run, opened as
 * `kind` if there is none, and the tape knows the result; without its batch dimension the result is a further
 * tensor, a reshape.
 */
extern Tensor *TapeForward(const LoadedModel *m, int node, const LlmInput *in, int n, const char *kind,
	Datum tokens, bool drop_batch);
/*
 * Records a forward pass as a run of its own, of kind trace, and returns its number. draw: what random nodes
 * draw, or NULL for what they draw outside of training.
 */
extern int64 TraceRun(
	const LoadedModel *m, int node, const LlmInput *in, int n, Datum tokens, const LlmDropout *draw);
/* Writes all nodes that a traced execution computed; returns the number of the target's value. */
extern uint32 TapeWriteExec(TapeRun *run, const LoadedModel *m, const LlmExec *exec, int target);

#endif
