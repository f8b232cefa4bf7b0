/*
 * From the textbook's three loops to the fast kernel in five rungs, each of which adds one idea to the
 * previous one. All follow the rule of kernels/matmul.h (blocks of 128 along k, one fused chain in a block,
 * block sums added in order), so each gives the same bits: they differ in the memory layout and in how many
 * sums are computed at once.
 */
#ifndef LLM_MATMUL_LADDER_H
#define LLM_MATMUL_LADDER_H

#include "engine/parallel.h"

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
/* The idea that distinguishes it from the previous rung, in a sentence. */
extern const char *llm_rung_idea(LlmRung rung);
/* -1: there is no rung of this name. */
extern int llm_rung_find(const char *name);

/* out (M,N) = a (M,K) @ b (K,N); panels: b as packed by llm_pack, which the lower rungs do not read. */
extern LlmCode llm_rung_matmul(LlmRung rung, int M, int K, int N, const float *a, const float *b,
	const float *panels, float *out, const LlmAllocator *memory, LlmError *err);

#endif
