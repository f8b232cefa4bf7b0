/*
 * Comparing elements: the total order of the operator classes, and closeness.
 */
#ifndef LLM_COMPARE_H
#define LLM_COMPARE_H

#include "common/base.h"

/*
 * -1, 0 or 1 by the first element that differs, in the order -Infinity … -0, +0 … Infinity, NaN. Two
 * elements are equal if their bits are: NaN equals NaN, and -0 is less than +0. This equality is suitable
 * for sorting and hashing.
 */
extern int llm_compare_total(size_t n, const float *a, const float *b);

/*
 * Whether |a - b| <= atol + rtol max(|a|, |b|) for every pair (NumPy's allclose has |b|: its answer depends
 * on the order). Equal infinities are close, and so are two NaNs.
 */
extern bool llm_close(size_t n, const float *a, const float *b, double rtol, double atol);

/* out[i] = 1 where x[i] compares so with the number, else 0; IEEE 754: NaN compares with nothing, -0 is 0. */
typedef enum LlmOrder
{
	LLM_IS_LESS,
	LLM_IS_LESS_EQUAL,
	LLM_IS_GREATER,
	LLM_IS_GREATER_EQUAL
} LlmOrder;
extern void llm_mask(LlmOrder order, size_t n, const float *x, float number, float *out);

#endif
