/*
 * Chooses the table of kernels: the best that the CPU and the operating system support, or the one that a
 * test requests.
 */
#include "kernels/kernels.h"

const LlmKernels *llm_kernels = &llm_kernels_scalar;

LlmIsa
llm_isa_best(void)
{
#if defined(__x86_64__)
	/* GCC and clang check CPUID and XCR0: whether the operating system saves the wide registers, too. */
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
		__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
		return LLM_ISA_AVX512;
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return LLM_ISA_AVX2;
#endif
	return LLM_ISA_SCALAR;
}

const LlmKernels *
llm_kernels_for(LlmIsa isa)
{
	if (isa < LLM_ISA_SCALAR || isa > llm_isa_best())
		return NULL;
#if defined(__x86_64__)
	if (isa == LLM_ISA_AVX512)
		return &llm_kernels_avx512;
	if (isa == LLM_ISA_AVX2)
		return &llm_kernels_avx2;
#endif
	return &llm_kernels_scalar;
}

bool
llm_set_isa(LlmIsa isa)
{
	const LlmKernels *table = llm_kernels_for(isa);

	if (table)
		llm_kernels = table;
	return table != NULL;
}
