/*
 * Random numbers that depend on their key alone: Philox4x32-10 (Salmon et al., 2011) counted by (step,
 * micro_batch, element) under a key made of the seed and a stream's name. Order and threads do not matter.
 */
#ifndef LLM_RANDOM_H
#define LLM_RANDOM_H

#include "common/base.h"

typedef struct LlmStream
{
	uint32_t key[2];
	uint32_t step;
	uint32_t micro_batch;
} LlmStream;

extern LlmStream llm_stream(uint64_t seed, const char *name, uint32_t step, uint32_t micro_batch);
/* Four 32-bit words for elements 4*block … 4*block+3. */
extern void llm_philox(const LlmStream *stream, uint64_t block, uint32_t out[4]);
/* A uniform double in [0,1) for this element, with 53 random bits. */
extern double llm_uniform(const LlmStream *stream, uint64_t element);
/*
 * out[i] = x[i] / (1 - p) if element first + i is kept (probability 1 - p), else 0; p in [0,1]. (Srivastava
 * et al., 2014)
 */
extern void llm_drop(const LlmStream *stream, float p, uint64_t first, size_t n, const float *x, float *out);
/* log of x in (0,1], computed here because the last bits of libm differ between versions. */
extern double llm_log_unit(double x);
/* out[i] = the standard normal number of element first + i, times scale. */
extern void llm_normal(const LlmStream *stream, uint64_t first, size_t n, float scale, float *out);

#endif
