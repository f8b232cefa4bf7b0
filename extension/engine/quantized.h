/*
 * Packed matrices whose elements need fewer bits than float32 has:
 *
 *   bf16  the upper half of a float32
 *   int8  integers -127 .. 127 times a scale for each column of each block of LLM_BLOCK rows; a scale has
 *         eight significant bits, so that the product is a float32 without rounding
 *
 * Such a matrix equals its float32 elements exactly. Its format is detected from the elements, so nothing
 * else has to be stored. An element changed by hand is kept, but the matrix may then no longer fit the
 * format.
 *
 * Panels as in parallel.h, each [K][LLM_PANEL / 2] words of two bf16, or per block of rows LLM_PANEL scales
 * and [rows][LLM_PANEL] bytes.
 */
#ifndef LLM_QUANTIZED_H
#define LLM_QUANTIZED_H

#include "kernels/kernels.h"

extern const char *llm_format_name(LlmFormat format);
/* LLM_FORMAT_COUNT: there is no such format. */
extern LlmFormat llm_format_named(const char *name);
/* Bytes of b (K,N) in panels of a format. */
extern size_t llm_format_bytes(LlmFormat format, int64_t K, int64_t N);

/*
 * out = b with each element replaced by a near one that the format can represent: the nearest bf16 (ties to
 * even), or the nearest multiple of the scale, which is the largest magnitude of its column's block / 127,
 * rounded up. A b that the format represents exactly is not changed. b (K,N), or (N,K) transposed; out may
 * be b. Elements that are not finite are refused.
 */
extern LlmCode llm_quantize(
	LlmFormat format, int K, int N, bool transposed, const float *b, float *out, LlmError *err);
/* The smallest format that represents all of b exactly. */
extern LlmCode llm_format_of(int K, int N, bool transposed, const float *b, LlmFormat *format, LlmError *err);
/* Packs b into panels of a format that represents it exactly. */
extern LlmCode llm_compact(
	LlmFormat format, int K, int N, bool transposed, const float *b, void *panels, LlmError *err);
/*
 * llm_widen: the inverse, for all of it. llm_widen_column: column n of the (K,N) matrix, which is row n of
 * the transposed one.
 */
extern LlmCode llm_widen(
	LlmFormat format, int K, int N, bool transposed, const void *panels, float *b, LlmError *err);
extern void llm_widen_column(LlmFormat format, int K, int n, const void *panels, float *column);

/* Each element as the nearest bf16, ties to even; NaN stays NaN. llm_bf16_widen: the inverse, exact. */
extern void llm_bf16_round(size_t n, const float *x, uint16_t *out);
extern void llm_bf16_widen(size_t n, const uint16_t *x, float *out);

#endif
