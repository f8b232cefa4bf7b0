/*
 * What the attributes of reductions, views and joins say once sizes are known; forward and way back read them
 * alike. Attributes passed inference before.
 */
#ifndef LLM_VIEWS_H
#define LLM_VIEWS_H

#include "engine/execute.h"
#include "engine/layout.h"
#include "engine/reduce.h"

/* x as (outer,n,inner) around an axis; the whole of it as (1,numel,1) where axis is -1. */
typedef struct LlmAround
{
	int64_t outer, n, inner;
} LlmAround;

extern LlmAround llm_around(const LlmValue *x, int axis);
/* The attribute axis within ndim axes; `otherwise` when it is not given. */
extern int llm_axis_of(const LlmNode *node, int ndim, int otherwise);
extern LlmReduction llm_reduction_of(const LlmNode *node);
/* How a reduction sees its input. */
extern LlmAround llm_reduced_of(const LlmNode *node, const LlmValue *x);
/* The order of axes of a transposition. */
extern LlmCode llm_order_of(const LlmNode *node, const LlmValue *x, int *order, LlmError *err);
/* Starts and stops along the first *n axes of a slice, counted from 0. */
extern LlmCode llm_ranges_of(
	const LlmNode *node, const LlmValue *x, int *n, int *starts, int *stops, LlmError *err);

#endif
