/*
 * The operations on images by their formulas in float64.
 */
#ifndef DOUBLE_IMAGE_H
#define DOUBLE_IMAGE_H

#include "double_view.h"
#include "image_index.h"

static inline void
dbl_conv2d(const LlmNode *node, const DblValue *const *in, DblValue *out)
{
	ConvIndex c = conv_index(node, in[0]->dims, in[1]->dims);
	int K = c.w[1] * c.w[2] * c.w[3], at[LLM_MAX_DIMS];

	for (size_t e = 0; e < out->numel; e++)
	{
		dbl_index(out, e, at);
		for (int k = 0; k < K; k++)
			if (conv_place(&c, at, k) >= 0)
				out->x[e] += in[1]->x[(size_t) at[1] * K + k] * in[0]->x[conv_place(&c, at, k)];
		out->x[e] += in[2] ? in[2]->x[at[1]] : 0;
	}
}

static inline void
dbl_groupnorm(const LlmNode *node, const DblValue *const *in, DblValue *out)
{
	int C = out->dims[1], groups = (int) llm_attr_number(node, "groups", 1);
	size_t pixels = out->numel ? out->numel / out->dims[0] / C : 0, n = C / groups * pixels;

	for (size_t e = 0; e < out->numel; e++)
	{
		const double *x = in[0]->x + e / n * n;
		double mean = 0, var = 0;

		for (size_t i = 0; i < n; i++)
			mean += x[i] / n;
		for (size_t i = 0; i < n; i++)
			var += (x[i] - mean) * (x[i] - mean) / n;
		out->x[e] = (in[0]->x[e] - mean) / sqrt(var + (float) llm_attr_number(node, "eps", 1e-5)) *
						in[1]->x[e / pixels % C] +
					in[2]->x[e / pixels % C];
	}
}

/* Upsampling, or with `mean` average pooling: every pixel of the larger image belongs to one of the smaller.
 */
static inline void
dbl_scaled(const LlmNode *node, const DblValue *x, bool mean, DblValue *out)
{
	int F = (int) llm_attr_number(node, "factor", 2), at[LLM_MAX_DIMS], row = out->ndim - 2;
	const DblValue *large = mean ? x : out, *small = mean ? out : x;

	for (size_t e = 0; e < large->numel; e++)
	{
		dbl_index(large, e, at);
		at[row] /= F;
		at[row + 1] /= F;
		if (at[row] >= small->dims[row] || at[row + 1] >= small->dims[row + 1])
			continue;
		if (mean)
			out->x[dbl_place(small, at)] += x->x[e] / (F * F);
		else
			out->x[e] = x->x[dbl_place(small, at)];
	}
}

#endif
