/*
 * Element types of checkpoint files, and their conversion to float32. float16 and bfloat16 convert exactly;
 * float64 rounds to nearest. Every NaN becomes the one quiet NaN 0x7fc00000, so that a value has one bit
 * pattern, whatever file it came from.
 */
#ifndef LLM_FORMATS_FLOATS_H
#define LLM_FORMATS_FLOATS_H

#include "common/base.h"

typedef enum LlmDtype
{
	LLM_F32,
	LLM_F16,
	LLM_BF16,
	LLM_F64,
	LLM_OTHER_DTYPE /* not convertible: integers, booleans, eight-bit floats, … */
} LlmDtype;

/* Bytes of one element; 0 for LLM_OTHER_DTYPE. */
extern size_t llm_dtype_size(LlmDtype dtype);

/* Converts count little-endian elements at raw (any alignment; big-endian if swapped) to out. */
extern void llm_floats_from(LlmDtype dtype, bool swapped, const void *raw, size_t count, float *out);

#endif
