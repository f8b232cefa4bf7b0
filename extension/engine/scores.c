/*
 * See scores.h.
 */
#include "engine/scores.h"

#include <math.h>

int
llm_first_key(const LlmAttention *a, int position)
{
	return a->window && position + 1 > a->window ? position + 1 - a->window : 0;
}

int
llm_last_key(const LlmAttention *a, int position, int keys)
{
	return a->causal ? position + 1 : keys;
}

bool
llm_scores_adjusted(const LlmAttention *a)
{
	return a->bias.x || a->slopes || a->pattern != LLM_PATTERN_ALL;
}

static bool
in_pattern(const LlmAttention *a, int position, int key)
{
	int distance = position > key ? position - key : key - position;

	if (a->pattern == LLM_PATTERN_STRIDED)
		return distance < a->stride || distance % a->stride == 0;
	return key / a->stride == position / a->stride || key % a->stride >= a->stride - a->summary;
}

void
llm_adjust_scores(const LlmAttention *a, int b, int h, int position, int first, int last, float *scores)
{
	int n = last - first;

	scores += first;
	llm_kernels->binary(LLM_MUL, n, scores, 1, &a->scale, 0, scores);
	if (a->bias.x)
		llm_kernels->binary(LLM_ADD, n, scores, 1,
			a->bias.x + b * a->bias.batch + h * a->bias.head + position * a->bias.query + first, 1, scores);
	for (int i = 0; a->slopes && i < n; i++)
		scores[i] -= a->slopes[h] * fabsf((float) (position - (first + i)));
	for (int i = 0; a->pattern != LLM_PATTERN_ALL && i < n; i++)
		if (!in_pattern(a, position, first + i))
			scores[i] = -INFINITY;
}
