/*
 * The text form of a tensor: nested brackets of numbers, [[1,2],[3,4]], or one number for a scalar.
 */
#ifndef LLM_TENSOR_TEXT_H
#define LLM_TENSOR_TEXT_H

#include "common/base.h"

/*
 * Finds the shape of the text (zero-terminated): LLM_FORMAT if it is no tensor, LLM_LIMIT if it is nested too
 * deeply. Numbers are only skipped here: llm_tensor_text_values checks them. stop may be NULL.
 */
extern LlmCode llm_tensor_text_shape(
	const char *text, const LlmStop *stop, int *ndim, int *dims, LlmError *err);
/*
 * Reads the n numbers of a text whose shape llm_tensor_text_shape has accepted. LLM_RANGE for a finite number
 * above float32's maximum. Numbers too small for float32 become 0.
 */
extern LlmCode llm_tensor_text_values(
	const char *text, const LlmStop *stop, size_t n, float *out, LlmError *err);

#endif
