/*
 * AVX-512 F, BW, DQ, VL: sixteen lanes. Compiled with flags of its own, called only if CPUID reports
 * support.
 */
#if defined(__x86_64__)
#define LLM_W 16
#define LLM_TABLE llm_kernels_avx512
#define LLM_NAME "avx512"
#include "kernels/table.h"
#else
typedef int llm_no_avx512;
#endif
