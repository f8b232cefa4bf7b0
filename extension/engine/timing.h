/*
 * Where the time of a run goes: each op's microseconds, operations and bytes, for llm_explain. Every node is
 * computed by itself, with the bits that it has in one go with others (fuse.c); values are recycled as ever,
 * no score is kept.
 */
#ifndef LLM_TIMING_H
#define LLM_TIMING_H

#include "engine/tape.h"

/* From now on the ops of each run are timed. */
extern void llm_exec_time(LlmExec *exec);

typedef struct LlmTiming
{
	double microseconds;
	int64_t flops, bytes; /* a multiplication and its addition are two; inputs read and the value written */
	bool ran;
} LlmTiming;

/* What a node took in the last run. Of a decode step attention reads the cached keys and values, too. */
extern void llm_exec_timing(const LlmExec *exec, int node, LlmTiming *out);

#endif
