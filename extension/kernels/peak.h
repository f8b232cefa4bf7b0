/*
 * The peak performance of the machine, for the benchmark to compare with: fused multiply-adds from
 * registers, and reading memory.
 */
#ifndef LLM_KERNELS_PEAK_H
#define LLM_KERNELS_PEAK_H

#include "kernels/kernels.h"
#include "kernels/simd.h"

/* Independent chains, enough to hide the latency of two units. */
#define LLM_CHAINS (LLM_W == 1 ? 4 : 12)

/* Returns the number of floating-point operations; `sink` keeps the compiler from removing them. */
static double
burst_fma(size_t rounds, float *sink)
{
	vf acc[LLM_CHAINS], x = v_set(*sink), y = v_set(0.999f);

	for (int i = 0; i < LLM_CHAINS; i++)
		acc[i] = v_set((float) i);
	for (size_t r = 0; r < rounds; r++)
		for (int i = 0; i < LLM_CHAINS; i++)
			acc[i] = v_fma(acc[i], y, x);
	for (int i = 0; i < LLM_CHAINS; i++)
		x = x + acc[i];
	v_store_n(sink, x, 1);
	return 2.0 * LLM_W * LLM_CHAINS * (double) rounds;
}

static float
burst_read(size_t n, const float *x)
{
	vf acc[8], total = v_set(0);

	for (int i = 0; i < 8; i++)
		acc[i] = v_set(0);
	for (size_t at = 0; at + 8 * LLM_W <= n; at += 8 * LLM_W)
		for (int i = 0; i < 8; i++)
			acc[i] = acc[i] + v_load(x + at + i * LLM_W);
	for (int i = 0; i < 8; i++)
		total = total + acc[i];
	return v_any(v_lt(total, v_set(0))) ? 1 : 0;
}

#endif
