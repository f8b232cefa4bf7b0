/*
 * What the attribute axis says once sizes are known. Attributes passed inference before.
 */
#ifndef LLM_AXES_H
#define LLM_AXES_H

#include "engine/execute.h"

/* x as (outer,n,inner) around an axis; the whole of it as (1,numel,1) where axis is -1. */
typedef struct LlmAround
{
	int64_t outer, n, inner;
} LlmAround;

extern LlmAround llm_around(const LlmValue *x, int axis);
/* The attribute axis within ndim axes; `otherwise` when it is not given. */
extern int llm_axis_of(const LlmNode *node, int ndim, int otherwise);
/* to = from, a value of x's shape, with an axis and the last one exchanged. */
extern LlmCode llm_swap_with_last(const LlmValue *x, int axis, const float *from, float *to, LlmError *err);

#endif
