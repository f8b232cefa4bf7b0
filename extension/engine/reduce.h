/*
 * Reductions over one axis or over all elements. x (outer,n,inner) is `outer` matrices (n,inner); the n
 * elements of a column are reduced to one. They are combined in order by the reduction rule of the kernels,
 * whatever their stride: the sum of a column is the sum of the same elements stored as a row.
 */
#ifndef LLM_REDUCE_H
#define LLM_REDUCE_H

#include "common/base.h"

typedef enum LlmReduction
{
	LLM_REDUCE_SUM,
	LLM_REDUCE_MEAN,
	LLM_REDUCE_VAR,  /* mean of (x - mean)^2: the population variance, as in layernorm */
	LLM_REDUCE_NORM, /* sqrt of the sum of squares */
	LLM_REDUCE_MAX,
	LLM_REDUCE_MIN,
	LLM_REDUCE_ARGMAX /* index of the largest, the lowest of equals; NaN counts as largest */
} LlmReduction;

/*
 * out (outer,inner) from x (outer,n,inner). Mean and variance of no elements are NaN; a maximum of no
 * elements is an error.
 */
extern LlmCode llm_reduce(LlmReduction kind, int64_t outer, int64_t n, int64_t inner, const float *x,
	float *out, const LlmAllocator *memory, LlmError *err);

#endif
