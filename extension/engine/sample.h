/*
 * Choosing a token from logits.
 */
#ifndef LLM_SAMPLE_H
#define LLM_SAMPLE_H

#include "common/base.h"

typedef struct LlmSampling
{
	double temperature; /* 0: the most likely token */
	int topk;           /* keep this many most likely tokens; 0 = all */
	double topp;        /* then the fewest whose probabilities reach this; 1 = all */
} LlmSampling;

typedef struct LlmCandidate
{
	float logit;
	int32_t id;
	double probability;
} LlmCandidate;

extern LlmCode llm_sampling_check(const LlmSampling *how, LlmError *err);
/*
 * The token selected by the draw u in [0,1), among the candidates in order of descending probability, ties
 * by id.
 */
extern LlmCode llm_sample(const LlmSampling *how, int V, const float *logits, double u,
	const LlmAllocator *memory, int32_t *id, LlmError *err);
/* The k most likely tokens with their probabilities under softmax(logits), in order; best must hold k. */
extern LlmCode llm_top(
	int V, const float *logits, int k, LlmCandidate *best, const LlmAllocator *memory, LlmError *err);

#endif
