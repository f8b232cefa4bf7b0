/*
 * Reductions over one contiguous array, and row operations of the model. Every reduction keeps sixteen
 * strided partial sums anchored at element 0, folds them by one fixed tree, and adds chunks of 4096 in
 * float64, whatever LLM_W is.
 */
#ifndef LLM_ROWS_H
#define LLM_ROWS_H

#include "kernels/elementwise.h"

/* ---- reductions ---- */

/* The fixed tree over sixteen partial sums: the two halves are added until one sum is left. */
INLINE float
fold(const vf s[LLM_NV])
{
	float lane[LLM_LANES];

	for (int j = 0; j < LLM_NV; j++)
		v_store(lane + j * LLM_W, s[j]);
	for (int half = LLM_LANES / 2; half > 0; half /= 2)
		for (int l = 0; l < half; l++)
			lane[l] += lane[l + half];
	return lane[0];
}

/*
 * s += term(a) over the floats x[0..n), x[0] in lane 0. Absent lanes of the last vector get term(KEEP) = +0,
 * which changes nothing: a partial sum starts from +0 and so is never -0.
 */
#define ACCUMULATE(s, n, x, term)                                                                            \
	do                                                                                                       \
	{                                                                                                        \
		size_t i_ = 0, n_ = (n);                                                                             \
		const float *x_ = (x);                                                                               \
		for (int k = LLM_W; i_ + LLM_LANES <= n_; i_ += LLM_LANES)                                           \
			for (int j_ = 0; j_ < LLM_NV; j_++)                                                              \
			{                                                                                                \
				vf a = v_load(x_ + i_ + j_ * LLM_W), acc = (s)[j_];                                          \
				(s)[j_] = term;                                                                              \
				(void) k;                                                                                    \
			}                                                                                                \
		for (int j_ = 0; i_ < n_; j_++, i_ += LLM_W)                                                         \
		{                                                                                                    \
			int k = (int) (n_ - i_ < LLM_W ? n_ - i_ : LLM_W);                                               \
			vf a = v_load_n(x_ + i_, k), acc = (s)[j_];                                                      \
			(s)[j_] = term;                                                                                  \
			(void) k;                                                                                        \
		}                                                                                                    \
	} while (0)

#define REDUCE(term)                                                                                         \
	double total = 0;                                                                                        \
	for (size_t at = 0; at < n; at += LLM_CHUNK)                                                             \
	{                                                                                                        \
		vf s[LLM_NV];                                                                                        \
		for (int j = 0; j < LLM_NV; j++)                                                                     \
			s[j] = v_set(0);                                                                                 \
		ACCUMULATE(s, n - at < LLM_CHUNK ? n - at : LLM_CHUNK, x + at, term);                                \
		total += fold(s);                                                                                    \
	}                                                                                                        \
	return total

static double
sum(size_t n, const float *x)
{
	REDUCE(acc + a);
}

static double
sum_squares(size_t n, const float *x, float shift)
{
	vf c = v_set(shift);

	REDUCE(v_fma(v_keep(a - c, k), v_keep(a - c, k), acc));
}

static void
sum_rows(size_t m, size_t n, const float *x, size_t ldx, float *out)
{
	for (size_t j = 0; j < n; j += LLM_W)
	{
		int r = (int) (n - j < LLM_W ? n - j : LLM_W);
		vf total = v_set(0);

		for (size_t i0 = 0; i0 < m; i0 += LLM_BLOCK)
		{
			vf block = v_set(0);

			for (size_t i = i0; i < m && i < i0 + LLM_BLOCK; i++)
				block = block + v_load_n(x + i * ldx + j, r);
			total = i0 ? (vf) (total + block) : block;
		}
		v_store_n(out + j, total, r);
	}
}

/* The largest of n > 0 elements, NaN if one is NaN; of +0 and -0 either. */
static float
largest(size_t n, const float *x)
{
	float lane[LLM_W];
	vf m;

	if (n < LLM_W)
	{
		float best = x[0];

		for (size_t i = 1; i < n && best == best; i++)
			best = x[i] > best || x[i] != x[i] ? x[i] : best;
		return best;
	}
	m = v_load(x + n - LLM_W); /* overlaps the vectors before it */
	if (v_any(v_isnan(m)))
		return NAN;
	for (size_t i = 0; i + LLM_W < n; i += LLM_W)
	{
		vf a = v_load(x + i);

		if (v_any(v_isnan(a)))
			return NAN;
		m = v_max(a, m);
	}
	v_store(lane, m);
	for (int half = LLM_W / 2; half > 0; half /= 2)
		for (int l = 0; l < half; l++)
			lane[l] = lane[l + half] > lane[l] ? lane[l + half] : lane[l];
	return lane[0];
}

/* vectors find the value; its index is that of the first equal element */
static float
max(size_t n, const float *x, size_t *index)
{
	float best = largest(n, x);
	size_t at = 0;

	if (best != best)
		while (x[at] == x[at])
			at++;
	else
		while (x[at] != best)
			at++;
	if (index)
		*index = at;
	return x[at];
}

/* ---- row operations of the model ---- */

static void
softmax(size_t n, size_t first, float scale, const float *x, float *out)
{
	double total = 0;
	vf c = v_set(scale), top, all;
	float m;

	for (size_t i = 0; i < n; i += LLM_W) /* out = x * scale */
	{
		int r = (int) (n - i < LLM_W ? n - i : LLM_W);

		v_store_n(out + i, v_load_n(x + i, r) * c, r);
	}
	m = largest(n, out);
	top = v_set(m);
	for (size_t i = 0; i < n; i += LLM_W)
	{
		int r = (int) (n - i < LLM_W ? n - i : LLM_W);

		v_store_n(out + i, v_exp(v_load_n(out + i, r) - top), r);
	}
	for (size_t at = 0; at < n;) /* chunks and lanes are anchored at absolute index 0 */
	{
		size_t lane = (first + at) % LLM_LANES, room = LLM_CHUNK - (first + at) % LLM_CHUNK;
		size_t len = n - at < room ? n - at : room;
		size_t lead = lane == 0 ? 0 : len < LLM_LANES - lane ? len : LLM_LANES - lane;
		float head[LLM_LANES] = {0};
		vf s[LLM_NV];

		memcpy(head + lane, out + at, lead * sizeof(float));
		for (int j = 0; j < LLM_NV; j++)
			s[j] = v_load(head + j * LLM_W);
		ACCUMULATE(s, len - lead, out + at + lead, acc + a);
		total += fold(s);
		at += len;
	}
	all = v_set((float) total);
	for (size_t i = 0; i < n; i += LLM_W)
	{
		int r = (int) (n - i < LLM_W ? n - i : LLM_W);

		v_store_n(out + i, v_load_n(out + i, r) / all, r);
	}
}

static float
cross_entropy(size_t V, const float *logits, size_t target)
{
	float m = largest(V, logits), lane[LLM_W];
	vf top = v_set(m);
	double total = 0;

	for (size_t at = 0; at < V; at += LLM_CHUNK)
	{
		vf s[LLM_NV];
		size_t n = V - at < LLM_CHUNK ? V - at : LLM_CHUNK;

		for (int j = 0; j < LLM_NV; j++)
			s[j] = v_set(0);
		ACCUMULATE(s, n, logits + at, acc + v_keep(v_exp(a - top), k));
		total += fold(s);
	}
	v_store(lane, v_log(v_set((float) total)));
	return lane[0] - (logits[target] - m);
}

static void
normalize(size_t n, float mean, float rstd, const float *x, const float *gamma, const float *beta, float *out)
{
	vf mu = v_set(mean), r = v_set(rstd);

	for (size_t i = 0; i < n; i += LLM_W)
	{
		int k = (int) (n - i < LLM_W ? n - i : LLM_W);

		v_store_n(
			out + i, v_fma((v_load_n(x + i, k) - mu) * r, v_load_n(gamma + i, k), v_load_n(beta + i, k)), k);
	}
}

static void
layernorm(int C, const float *x, const float *gamma, const float *beta, float eps, float *out)
{
	float mean = (float) (sum(C, x) / C);
	float var = (float) (sum_squares(C, x, mean) / C);

	normalize(C, mean, 1.0f / sqrtf(var + eps), x, gamma, beta, out);
}

#endif
