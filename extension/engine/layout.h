/*
 * Moving elements without computing: permuted axes, slices, concatenated tensors.
 */
#ifndef LLM_LAYOUT_H
#define LLM_LAYOUT_H

#include "common/base.h"

/*
 * Checks axes (each of 0 … ndim-1 once; negative counts from the end; NULL: the last two swapped) and writes
 * them to order.
 */
extern LlmCode llm_permute_shape(
	int ndim, const int *dims, int n_axes, const int *axes, int *order, int *out, LlmError *err);
/* out axis i = axis order[i] of x */
extern LlmCode llm_permute(
	int ndim, const int *dims, const int *order, const float *x, float *out, LlmError *err);

/*
 * Every step-th element from starts up to, not including, stops along the first n axes, all along the others;
 * steps NULL: every element. Negative positions count from the end and are replaced by the positions they
 * mean.
 */
extern LlmCode llm_slice_shape(
	int ndim, const int *dims, int n, int *starts, int *stops, const int *steps, int *out, LlmError *err);
extern LlmCode llm_slice(int ndim, const int *dims, int n, const int *starts, const int *stops,
	const int *steps, const float *x, float *out, LlmError *err);

/* Checks that the k-th tensor, part, fits the previous ones along all axes but axis, and adds its length. */
extern LlmCode llm_concat_shape(
	int ndim, int *dims, int axis, int k, int part_ndim, const int *part, LlmError *err);
/* Writes x (outer,n,inner) to out (outer,total,inner) from index `at` of the middle axis on. */
extern LlmCode llm_concat_copy(int64_t outer, int64_t total, int64_t inner, int64_t at, int64_t n,
	const float *x, float *out, LlmError *err);

/* Replaces the only -1 of dims by the length that keeps numel; any other mismatch is an error. */
extern LlmCode llm_reshape_shape(int ndim, const int *dims, int out_ndim, int *out, LlmError *err);

#endif
