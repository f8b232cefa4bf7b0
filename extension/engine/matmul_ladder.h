/*
 * From the textbook's three loops to the fast kernel in five rungs, each one idea more than the one before.
 * All of them keep the rule of kernels/matmul.h (blocks of 128 along k, one fused chain in a block, block
 * sums added in order), so each gives the same bits: what differs is where numbers lie and how many are in
 * flight.
 */
#ifndef LLM_MATMUL_LADDER_H
#define LLM_MATMUL_LADDER_H

#include "engine/ops.h"

typedef enum LlmRung
{
	LLM_RUNG_NAIVE,
	LLM_RUNG_BLOCKED,
	LLM_RUNG_PACKED,
	LLM_RUNG_VECTOR,
	LLM_RUNG_THREADS,
	LLM_RUNGS
} LlmRung;

extern const char *llm_rung_name(LlmRung rung);
/* What it does that the one before does not, in a sentence. */
extern const char *llm_rung_idea(LlmRung rung);
/* -1: no rung has this name. */
extern int llm_rung_find(const char *name);

/* out (M,N) = a (M,K) @ b (K,N); panels are b packed by llm_pack, which the lower rungs do not read. */
extern LlmCode llm_rung_matmul(LlmRung rung, int M, int K, int N, const float *a, const float *b,
	const float *panels, float *out, const LlmAllocator *memory, LlmError *err);

#endif
