/* What is added to attention's scores, forward and backward. */
#ifndef LLM_SCORES_H
#define LLM_SCORES_H

#include "engine/parallel.h"

/* Keys that the query at a position attends to, of `keys`: from llm_first_key up to, not including,
 * llm_last_key. */
extern int llm_first_key(const LlmAttention *a, int position);
extern int llm_last_key(const LlmAttention *a, int position, int keys);
/* True if anything is added; the scores are then scaled before. */
extern bool llm_scores_adjusted(const LlmAttention *a);
/*
 * scores[first … last) = scale * scores, plus bias and slope, and -inf for keys that are not in the pattern;
 * head h of sequence b.
 */
extern void llm_adjust_scores(
	const LlmAttention *a, int b, int h, int position, int first, int last, float *scores);

#endif
