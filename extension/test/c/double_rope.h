/*
 * rope by its formula in float64: a pair is a complex number, multiplied by e^(i position frequency).
 */
#ifndef DOUBLE_ROPE_H
#define DOUBLE_ROPE_H

#include <complex.h>

#include "double_view.h"

/* How often the angle of a pair turns, with Llama 3's scaling by the wavelength. */
static inline double
dbl_frequency(const LlmNode *node, int pair, int dims)
{
	double f = pow(llm_attr_number(node, "theta", 10000), -2.0 * pair / dims);
	double factor = llm_attr_number(node, "factor", 1), low = llm_attr_number(node, "low_freq_factor", 0);
	double high = llm_attr_number(node, "high_freq_factor", 0), smooth;
	double turns = llm_attr_number(node, "original_max_position_embeddings", 0) * f / (2 * M_PI);

	if (high == 0)
		return f / factor;
	smooth = fmin(1, fmax(0, (turns - low) / (high - low))); /* 0: divided, 1: kept */
	return (1 - smooth) * f / factor + smooth * f;
}

static inline void
dbl_rope(const LlmNode *node, const DblValue *x, const DblValue *positions, DblValue *out)
{
	int C = x->dims[x->ndim - 1], HS = C / (int) llm_attr_number(node, "n_head", 1);
	int dims = (int) llm_attr_number(node, "dims", HS);
	bool interleaved = llm_attr_number(node, "interleaved", 0) != 0;

	memcpy(out->x, x->x, x->numel * sizeof(double));
	for (size_t head = 0; head < x->numel; head += HS)
		for (int pair = 0; pair < dims / 2; pair++)
		{
			size_t a = head + (interleaved ? 2 * pair : pair), b = a + (interleaved ? 1 : dims / 2);
			double angle = positions->ids[head / C % positions->numel] * dbl_frequency(node, pair, dims);
			double complex z = (x->x[a] + I * x->x[b]) * cexp(I * angle);

			out->x[a] = creal(z);
			out->x[b] = cimag(z);
		}
}

#endif
