/*
 * Attention in plain loops over queries, keys and values side by side or apart, with a bias.
 */
#ifndef REFERENCE_ATTENTION_H
#define REFERENCE_ATTENTION_H

#include "reference_view.h"

/* The scores that the softmax reads; a key outside of the pattern gets -inf. */
static inline float
ref_score(const LlmNode *node, const RefValue *bias, float score, const int at[4])
{
	const LlmAttr *pattern = llm_attr(node, "pattern"), *slopes = llm_attr(node, "slopes");
	int stride = (int) llm_attr_number(node, "stride", 1), t = at[2], u = at[3];

	if (bias)
	{
		int own[4], skip = 4 - bias->ndim;

		for (int i = skip; i < 4; i++)
			own[i - skip] = bias->dims[i - skip] == 1 ? 0 : at[i];
		score += bias->floats[ref_place(bias, own)];
	}
	if (slopes)
		score -= (float) slopes->items[at[1]].number * (float) abs(t - u);
	if (pattern && strcmp(pattern->text, "strided") == 0)
		return abs(t - u) < stride || (t - u) % stride == 0 ? score : -INFINITY;
	if (pattern && t / stride != u / stride &&
		u % stride < stride - (int) llm_attr_number(node, "summary", 1))
		return -INFINITY;
	return score;
}

static inline RefValue
ref_attend(const LlmNode *node, const RefValue *const *in)
{
	const LlmAttr *mask = llm_attr(node, "head_mask");
	bool apart = node->n_inputs > 1, causal = llm_attr_number(node, "causal", 1) != 0;
	const RefValue *x = in[0], *k = in[apart ? 1 : 0], *v = in[apart ? 2 : 0];
	const RefValue *bias = node->n_inputs > 3 ? in[3] : NULL;
	int NH = (int) llm_attr_number(node, "n_head", 0), KV = (int) llm_attr_number(node, "n_kv_head", NH);
	int T = x->dims[x->ndim - 2], S = k->dims[k->ndim - 2], row = x->dims[x->ndim - 1];
	int C = apart ? row : row / 3, HS = C / NH, keys = k->dims[k->ndim - 1],
		B = x->ndim == 3 ? x->dims[0] : 1;
	int window = (int) llm_attr_number(node, "window", 0);
	float scale = (float) llm_attr_number(node, "scale", 1 / sqrt(HS)), *p = malloc((S + 1) * sizeof(float));
	bool adjusted = bias || llm_attr(node, "slopes") || llm_attr(node, "pattern");
	RefValue out = ref_value(x->ndim, x->ndim == 3 ? (int[]){B, T, C} : (int[]){T, C});

	for (size_t e = 0; HS > 0 && e < out.numel / HS; e++)
	{
		int h = e % NH, t = e / NH % T, b = e / NH / T, kv = h / (NH / KV);
		int first = window && t + 1 > window ? t + 1 - window : 0, last = causal ? t + 1 : S;
		const float *q = x->floats + ((size_t) b * T + t) * row + h * HS;
		const float *key = k->floats + (size_t) b * S * keys + (apart ? 0 : C) + kv * HS;
		const float *value = v->floats + (size_t) b * S * keys + (apart ? 0 : 2 * C) + kv * HS;

		for (int u = first; u < last; u++)
		{
			p[u] = ref_dot(0, HS, q, 1, key + (size_t) u * keys, 1);
			if (adjusted)
				p[u] = ref_score(node, bias, p[u] * scale, (int[4]){b, h, t, u});
		}
		if (last > first)
			ref_softmax(last - first, first, adjusted ? 1 : scale, p + first, p + first);
		for (int i = 0; i < HS; i++)
		{
			float y = last > first ? ref_dot(first, last, p, 1, value + i, keys) : 0;

			out.floats[e * HS + i] = mask && mask->count ? y * (float) mask->items[h].number : y;
		}
	}
	free(p);
	return out;
}

#endif
