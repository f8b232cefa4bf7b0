/* Any CPU: one lane. Used by machines without AVX2, and by arm64. */
#define LLM_W 1
#define LLM_TABLE llm_kernels_scalar
#define LLM_NAME "scalar"
#include "kernels/table.h"
