/* Runs of the executor that the tape records, node by node. */
#ifndef LLM_SRC_MODEL_TRACE_H
#define LLM_SRC_MODEL_TRACE_H

#include "postgres.h"

#include "engine/execute.h"
#include "src/model/model_cache.h"
#include "src/tape/tape.h"

/*
 * A forward that a learner asked for: with recording on it goes into the session's run, opened as `kind`
 * where there is none, and the tape knows its value; without its batch that is another tensor, a reshape of
 * it.
 */
extern Tensor *TapeForward(const LoadedModel *m, int node, const LlmInput *in, int n, const char *kind,
	Datum tokens, bool drop_batch);
/* Writes all nodes that a traced run computed; returns the number of the target's value. */
extern uint32 TapeWriteExec(TapeRun *run, const LoadedModel *m, const LlmExec *exec, int target);

#endif
