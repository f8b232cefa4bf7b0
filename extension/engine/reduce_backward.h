/*
 * The gradients of reduce.h.
 */
#ifndef LLM_REDUCE_BACKWARD_H
#define LLM_REDUCE_BACKWARD_H

#include "engine/reduce.h"

/*
 * dx (outer,n,inner), written, from dy (outer,inner), for y = the reduction of x. A maximum's or minimum's
 * gradient flows to the element that was selected, the one with the lowest index among equals; that of a
 * norm of zeros is 0.
 */
extern LlmCode llm_reduce_backward(LlmReduction kind, int64_t outer, int64_t n, int64_t inner, const float *x,
	const float *y, const float *dy, float *dx, const LlmAllocator *memory, LlmError *err);

#endif
