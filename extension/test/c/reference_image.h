/*
 * The plain executor's operations on images, in the order of the rules.
 */
#ifndef REFERENCE_IMAGE_H
#define REFERENCE_IMAGE_H

#include "image_index.h"
#include "reference_value.h"

static inline RefValue
ref_conv2d(const LlmNode *node, const RefValue *x, const RefValue *w, const RefValue *bias)
{
	ConvIndex c = conv_index(node, x->dims, w->dims);
	int OH = (x->dims[2] + c.above + c.below - w->dims[2]) / c.stride + 1;
	int OW = (x->dims[3] + c.left + c.right - w->dims[3]) / c.stride + 1;
	int K = w->dims[1] * w->dims[2] * w->dims[3], at[LLM_MAX_DIMS];
	RefValue out = ref_value(4, (int[]){x->dims[0], w->dims[0], OH, OW});

	for (size_t e = 0; e < out.numel; e++)
	{
		float sum = 0, block = 0;

		ref_index(&out, e, at);
		for (int k = 0; k < K; k++)
		{
			long place = conv_place(&c, at, k);

			block = fmaf(w->floats[(size_t) at[1] * K + k], place < 0 ? 0 : x->floats[place], block);
			if ((k + 1) % LLM_BLOCK != 0 && k + 1 < K)
				continue;
			sum = k < LLM_BLOCK ? block : sum + block;
			block = 0;
		}
		out.floats[e] = bias ? sum + bias->floats[at[1]] : sum;
	}
	return out;
}

static inline RefValue
ref_groupnorm(const LlmNode *node, const RefValue *x, const RefValue *gamma, const RefValue *beta)
{
	int groups = (int) llm_attr_number(node, "groups", 1), C = x->dims[1];
	size_t n = x->numel ? x->numel / x->dims[0] / groups : 0,
		   pixels = x->numel ? x->numel / x->dims[0] / C : 0;
	RefValue out = ref_value(x->ndim, x->dims);

	for (size_t e = 0; e < out.numel; e++)
	{
		const float *group = x->floats + e / n * n;
		int channel = (int) (e / pixels % C);
		float mean = (float) (ref_sum(n, 0, group, 1, 0) / n);
		float r = 1 / sqrtf((float) (ref_sum(n, 0, group, 2, mean) / n) +
							(float) llm_attr_number(node, "eps", 1e-5));

		out.floats[e] = (x->floats[e] - mean) * (r * gamma->floats[channel]) + beta->floats[channel];
	}
	return out;
}

/* Upsampling, or with `mean` average pooling, of the last two axes. */
static inline RefValue
ref_scaled(const LlmNode *node, const RefValue *x, bool mean)
{
	int F = (int) llm_attr_number(node, "factor", 2), dims[LLM_MAX_DIMS], at[LLM_MAX_DIMS];
	int row = x->ndim - 2, column = x->ndim - 1;
	RefValue out;

	memcpy(dims, x->dims, sizeof(dims));
	for (int i = row; i <= column; i++)
		dims[i] = mean ? dims[i] / F : dims[i] * F;
	out = ref_value(x->ndim, dims);
	for (size_t e = 0; e < out.numel; e++)
	{
		float sum = 0;
		int i, j;

		ref_index(&out, e, at);
		i = at[row] * F;
		j = at[column] * F;
		for (int u = 0; mean && u < F * F; u++)
		{
			at[row] = i + u / F;
			at[column] = j + u % F;
			sum += x->floats[ref_place(x, at)];
		}
		at[row] /= F;
		at[column] /= F;
		out.floats[e] = mean ? (float) (1.0 / (F * F)) * sum : x->floats[ref_place(x, at)];
	}
	return out;
}

#endif
