/*
 * The gradients of reduce.h.
 */
#ifndef LLM_REDUCE_BACKWARD_H
#define LLM_REDUCE_BACKWARD_H

#include "engine/reduce.h"

/*
 * dx (outer,n,inner), written, from dy (outer,inner), for y = the reduction of x. A maximum's or minimum's
 * gradient goes to the element it was taken from, the lowest index of equals; that of a norm of zeros is 0.
 */
extern LlmCode llm_reduce_backward(LlmReduction kind, int64_t outer, int64_t n, int64_t inner, const float *x,
	const float *y, const float *dy, float *dx, const LlmAllocator *memory, LlmError *err);

#endif
