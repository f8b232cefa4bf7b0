/*
 * Rotary position embedding (Su et al., 2021): pairs of a head's channels are turned by angles that grow with
 * the position.
 */
#ifndef LLM_ROTARY_H
#define LLM_ROTARY_H

#include "common/base.h"

/* Llama 3's longer wavelengths, under transformers' names; factor alone divides every frequency. */
typedef struct LlmRotaryScaling
{
	double factor; /* 1: none */
	double low_freq_factor, high_freq_factor;
	double original_max_position_embeddings; /* 0: factor alone */
} LlmRotaryScaling;

typedef struct LlmRotary
{
	int NH, HS;       /* heads side by side in a row, and their size */
	int dims;         /* channels of each head that are turned, the first ones; even */
	bool interleaved; /* pairs are (0,1), (2,3), … (GPT-J); otherwise (i, i + dims/2) (GPT-NeoX, Llama) */
	double theta;     /* pair i turns by position * theta^(-2i/dims) */
	LlmRotaryScaling scaling;
} LlmRotary;

/*
 * out (rows,NH*HS) = x, turned; row i is at position positions[i % n_positions]. backwards: by the negative
 * angles, which is the gradient. out may be x.
 */
extern LlmCode llm_rotary(const LlmRotary *r, size_t rows, const int32_t *positions, size_t n_positions,
	bool backwards, const float *x, float *out, const LlmAllocator *memory, LlmError *err);

#endif
