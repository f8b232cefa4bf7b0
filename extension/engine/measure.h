/* Measuring the machine and the matmul kernel, so that speed can be told as a fraction of what is possible.
 */
#ifndef LLM_MEASURE_H
#define LLM_MEASURE_H

#include "common/base.h"

/* Best of `repeats`, all threads: floating-point operations and bytes read per second. */
extern LlmCode llm_measure_peak(
	int repeats, const LlmAllocator *memory, double *flops, double *bytes, LlmError *err);
/* Best seconds of out (M,N) = a (M,K) @ panels (K,N), the panels packed before. */
extern LlmCode llm_measure_matmul(
	int M, int K, int N, int repeats, const LlmAllocator *memory, double *seconds, LlmError *err);

#endif
