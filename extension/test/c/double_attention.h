/*
 * Attention by its formula in float64, over queries, keys and values side by side or apart, with a bias.
 */
#ifndef DOUBLE_ATTENTION_H
#define DOUBLE_ATTENTION_H

#include "double_view.h"

/* Rows of queries, keys or values: element i of head h at position t of sequence b. */
typedef struct DblRows
{
	const double *x;
	int rows, width, offset; /* per sequence; elements of a row; where the heads begin in it */
} DblRows;

static inline double
dbl_at(const DblRows *r, int b, int t, int h, int HS, int i)
{
	return r->x[((size_t) b * r->rows + t) * r->width + r->offset + h * HS + i];
}

static inline DblRows
dbl_rows(const DblValue *x, int offset)
{
	return (DblRows){x->x, x->dims[x->ndim - 2], x->dims[x->ndim - 1], offset};
}

/* Does the query at position t attend to the key at position u? */
static inline bool
dbl_attends(const LlmNode *node, int t, int u)
{
	const LlmAttr *pattern = llm_attr(node, "pattern");
	int window = (int) llm_attr_number(node, "window", 0), stride = (int) llm_attr_number(node, "stride", 1);
	int summary = (int) llm_attr_number(node, "summary", 1);

	if ((llm_attr_number(node, "causal", 1) != 0 && u > t) || (window && u <= t - window))
		return false;
	if (pattern && strcmp(pattern->text, "strided") == 0)
		return abs(t - u) < stride || (t - u) % stride == 0;
	if (pattern)
		return t / stride == u / stride || u % stride + summary >= stride;
	return true;
}

/* The element of a bias (B,NH,T,S), of which axes may be absent, or 1, or longer. */
static inline double
dbl_bias(const DblValue *bias, int b, int h, int t, int u)
{
	int at[4] = {b, h, t, u}, skip = 4 - bias->ndim;
	size_t place = 0;

	for (int i = skip; i < 4; i++)
		place = place * bias->dims[i - skip] + (bias->dims[i - skip] == 1 ? 0 : at[i]);
	return bias->x[place];
}

static inline void
dbl_attention(const LlmNode *node, const DblValue *const *in, DblValue *out)
{
	const LlmAttr *mask = llm_attr(node, "head_mask"), *slopes = llm_attr(node, "slopes");
	int NH = (int) llm_attr_number(node, "n_head", 1), KV = (int) llm_attr_number(node, "n_kv_head", NH);
	int C = out->dims[out->ndim - 1], T = out->dims[out->ndim - 2], HS = C / NH;
	bool apart = node->n_inputs > 1;
	DblRows q = dbl_rows(in[0], 0), k = dbl_rows(in[apart ? 1 : 0], apart ? 0 : C),
			v = dbl_rows(in[apart ? 2 : 0], apart ? 0 : 2 * C);

	for (size_t e = 0; e < out->numel; e++)
	{
		int b = e / C / T, t = e / C % T, head = e % C / HS, kv = head / (NH / KV);
		double all = 0;

		for (int u = 0; u < k.rows; u++)
		{
			double s = 0;

			if (!dbl_attends(node, t, u))
				continue;
			for (int i = 0; i < HS; i++)
				s += dbl_at(&q, b, t, head, HS, i) * dbl_at(&k, b, u, kv, HS, i);
			s *= (float) llm_attr_number(node, "scale", 1 / sqrt(HS));
			s += node->n_inputs > 3 ? dbl_bias(in[3], b, head, t, u) : 0;
			s -= slopes ? slopes->items[head].number * abs(t - u) : 0;
			all += exp(s);
			out->x[e] += exp(s) * dbl_at(&v, b, u, kv, HS, e % HS);
		}
		out->x[e] *= (mask ? mask->items[head].number : 1) / (k.rows ? all : 1); /* no keys: 0 */
	}
}

#endif
