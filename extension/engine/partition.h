/*
 * Splitting products into tasks, and copying the columns of one panel: shared by matmul*.c and unpack.c.
 */
#ifndef LLM_PARTITION_H
#define LLM_PARTITION_H

#include <string.h>

#include "kernels/kernels.h"

/* ceil(n / width), without computing n + width, which may overflow an int */
static inline int
llm_ceil_div(int n, int width)
{
	return n / width + (n % width != 0);
}

static inline int64_t
llm_min(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* to (m,n) = from (m,n), n <= LLM_PANEL; from_row and to_row are distances in floats. */
static inline void
llm_copy_columns(int m, int n, const float *from, size_t from_row, float *to, size_t to_row)
{
	for (int i = 0; i < m; i++, from += from_row, to += to_row)
		if (n == LLM_PANEL) /* a constant size is copied without a call */
			memcpy(to, from, LLM_PANEL * sizeof(float));
		else
			memcpy(to, from, n * sizeof(float));
}

#endif
