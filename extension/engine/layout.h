/*
 * Moving elements without computing: permuted axes, slices, joined tensors.
 */
#ifndef LLM_LAYOUT_H
#define LLM_LAYOUT_H

#include "common/base.h"

/* axes (each of 0 … ndim-1 once; negative counts from the end; NULL: the last two swapped) checked into
 * order. */
extern LlmCode llm_permute_shape(
	int ndim, const int *dims, int n_axes, const int *axes, int *order, int *out, LlmError *err);
/* out axis i = axis order[i] of x */
extern LlmCode llm_permute(
	int ndim, const int *dims, const int *order, const float *x, float *out, LlmError *err);

/*
 * Elements from starts up to, not including, stops along the first n axes, whole along the others. Negative
 * positions count from the end and are replaced by what they stand for.
 */
extern LlmCode llm_slice_shape(
	int ndim, const int *dims, int n, int *starts, int *stops, int *out, LlmError *err);
extern LlmCode llm_slice(int ndim, const int *dims, int n, const int *starts, const int *stops,
	const float *x, float *out, LlmError *err);

/* Checks that part, the k-th of the joined, fits the ones before it along all axes but axis, and adds its
 * length. */
extern LlmCode llm_concat_shape(
	int ndim, int *dims, int axis, int k, int part_ndim, const int *part, LlmError *err);
/* The place `at` of out (outer,total,inner) along its middle axis = x (outer,n,inner). */
extern LlmCode llm_concat_copy(int64_t outer, int64_t total, int64_t inner, int64_t at, int64_t n,
	const float *x, float *out, LlmError *err);

/* dims with its only -1 replaced by the length that keeps numel; anything else that does not fit is an error.
 */
extern LlmCode llm_reshape_shape(int ndim, const int *dims, int out_ndim, int *out, LlmError *err);

#endif
