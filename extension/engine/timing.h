/*
 * How the time of a run divides among the ops: each op's microseconds, operations and bytes, for
 * llm_explain. Every node is computed by itself, with the same bits as when fused (fuse.c); buffers are
 * reused as usual, and no scores are kept.
 */
#ifndef LLM_TIMING_H
#define LLM_TIMING_H

#include "engine/tape.h"

/* From now on each run measures the time of its ops. */
extern void llm_exec_time(LlmExec *exec);

typedef struct LlmTiming
{
	double microseconds;
	int64_t flops, bytes; /* a multiplication and its addition are two; inputs read and the value written */
	bool ran;
} LlmTiming;

/* The costs of a node in the last run. In a decode step attention reads the cached keys and values, too. */
extern void llm_exec_timing(const LlmExec *exec, int node, LlmTiming *out);

#endif
