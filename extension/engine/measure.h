/* Measures the machine and the matmul kernel, so that speed can be reported as a fraction of the peak. */
#ifndef LLM_MEASURE_H
#define LLM_MEASURE_H

#include "common/base.h"

/* Best of `repeats`, all threads: floating-point operations and bytes read per second. */
extern LlmCode llm_measure_peak(
	int repeats, const LlmAllocator *memory, double *flops, double *bytes, LlmError *err);
/* The products of a layer y (M,N) = x (M,K) @ w (K,N), as in the executor. */
typedef enum LlmProduct
{
	LLM_PRODUCT_FORWARD, /* y; w is packed already */
	LLM_PRODUCT_DX,      /* dx = dy @ w^T */
	LLM_PRODUCT_DW       /* dw += x^T @ dy */
} LlmProduct;

/* Best seconds of a product; each takes 2*M*K*N operations. */
extern LlmCode llm_measure_matmul(LlmProduct product, int M, int K, int N, int repeats,
	const LlmAllocator *memory, double *seconds, LlmError *err);

#endif
