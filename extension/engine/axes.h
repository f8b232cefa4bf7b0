/*
 * The attribute `axis`, once sizes are known. Attributes were checked during inference.
 */
#ifndef LLM_AXES_H
#define LLM_AXES_H

#include "engine/execute.h"

/* x as (outer,n,inner) around an axis; as (1,numel,1) if axis is -1. */
typedef struct LlmAround
{
	int64_t outer, n, inner;
} LlmAround;

extern LlmAround llm_around(const LlmValue *x, int axis);
/* The attribute axis within ndim axes; `otherwise` if it is absent. */
extern int llm_axis_of(const LlmNode *node, int ndim, int otherwise);
/* to = from, a value of x's shape, with an axis and the last one swapped. */
extern LlmCode llm_swap_with_last(const LlmValue *x, int axis, const float *from, float *to, LlmError *err);

#endif
