/*
 * rope in plain loops: each pair of channels is turned by its own angle, whose frequency is a power of libm.
 */
#ifndef REFERENCE_ROPE_H
#define REFERENCE_ROPE_H

#include "reference_view.h"

/* Llama 3's scaling of a frequency, each step in float32. */
static inline float
ref_llama3(const LlmNode *node, float f)
{
	double factor = llm_attr_number(node, "factor", 1), low = llm_attr_number(node, "low_freq_factor", 0);
	double high = llm_attr_number(node, "high_freq_factor", 0);
	double context = llm_attr_number(node, "original_max_position_embeddings", 0);
	float wavelength = 1 / f * 6.2831855f, smooth;

	if (context == 0)
		return f / (float) factor;
	if (wavelength < (float) (context / high))
		return f;
	if (wavelength > (float) (context / low))
		return f / (float) factor;
	smooth = (1 / wavelength * (float) context - (float) low) / (float) (high - low);
	return (1 - smooth) * f / (float) factor + smooth * f;
}

static inline RefValue
ref_rope(const LlmNode *node, const RefValue *x, const RefValue *positions)
{
	int C = x->dims[x->ndim - 1], HS = C / (int) llm_attr_number(node, "n_head", 1);
	int dims = (int) llm_attr_number(node, "dims", HS);
	bool interleaved = llm_attr_number(node, "interleaved", 0) != 0;
	RefValue out = ref_value(x->ndim, x->dims);

	for (size_t e = 0; e < out.numel; e++)
	{
		int i = e % C % HS, pair = interleaved ? i / 2 : i % (dims / 2 + !dims);
		bool second = interleaved ? i % 2 : i >= dims / 2;
		int partner = interleaved ? i ^ 1 : second ? i - dims / 2 : i + dims / 2;
		float exponent = (float) (2 * pair) / (float) dims;
		float f = 1 / (float) pow((float) llm_attr_number(node, "theta", 10000), exponent), angle;

		out.floats[e] = x->floats[e];
		if (i >= dims)
			continue;
		angle = (float) positions->integers[e / C % positions->numel] * ref_llama3(node, f);
		out.floats[e] = x->floats[e] * ref_unary(LLM_COS, angle) +
						x->floats[e - i + partner] * (second ? 1 : -1) * ref_unary(LLM_SIN, angle);
	}
	return out;
}

#endif
