/* AVX2 and FMA: eight lanes. Compiled with flags of its own, called only if CPUID reports support. */
#if defined(__x86_64__)
#define LLM_W 8
#define LLM_TABLE llm_kernels_avx2
#define LLM_NAME "avx2"
#include "kernels/table.h"
#else
typedef int llm_no_avx2;
#endif
