/*
 * Choosing a token from logits.
 */
#ifndef LLM_SAMPLE_H
#define LLM_SAMPLE_H

#include "common/base.h"

typedef struct LlmSampling
{
	double temperature;        /* 0: the most likely token */
	int topk;                  /* keep this many most likely tokens; 0 = all */
	double topp;               /* then the fewest whose probabilities reach this; 1 = all */
	double min_p;              /* of them those with this fraction of the best one's probability; 0 = all */
	double repetition_penalty; /* > 1: tokens that have occurred become less likely; 1 = none */
	int no_repeat_ngram;       /* no sequence of this many tokens occurs twice; 0 = any may */
} LlmSampling;

typedef struct LlmCandidate
{
	float logit;
	int32_t id;
	double probability;
} LlmCandidate;

extern LlmCode llm_sampling_check(const LlmSampling *how, LlmError *err);
/*
 * The logits (V) that follow these tokens, with repetition_penalty (Keskar et al., 2019) and no_repeat_ngram
 * applied; out must not overlap them.
 */
extern LlmCode llm_penalize(const LlmSampling *how, int count, const int32_t *ids, int V, const float *logits,
	float *out, LlmError *err);
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
