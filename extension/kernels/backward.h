/*
 * The gradients of the row kernels: for each kernel of rows.h, the gradients with respect to its inputs.
 * Sums use the same sixteen partial sums and blocks of 128 rows as the forward kernels.
 */
#ifndef LLM_BACKWARD_H
#define LLM_BACKWARD_H

#include "kernels/rows.h"

/* d/dx of gelu_tanh: (1 + t)/2 + x/2 (1 - t^2) sqrt(2/pi) (1 + 3 * 0.044715 x^2), t = tanh(…) */
INLINE vf
v_gelu_tanh_slope(vf x)
{
	vf z = x * x;
	vf t = v_tanh(v_fma(z * v_set(0.044715f), x, x) * v_set(0x1.988454p-1f));
	vf inner = v_fma(z, v_set(0.134145f), v_set(1.0f)) * v_set(0x1.988454p-1f);

	return v_fma(v_set(0.5f) * x * v_fma(-t, t, v_set(1.0f)), inner, v_fma(v_set(0.5f), t, v_set(0.5f)));
}

/* d/dx of gelu_erf: Phi(x) + x phi(x) */
INLINE vf
v_gelu_erf_slope(vf x)
{
	vf phi = v_exp(v_set(-0.5f) * x * x) * v_set(0x1.988454p-2f);

	return v_fma(x, phi, v_fma(v_set(0.5f), v_erf(x * v_set(0x1.6a09e6p-1f)), v_set(0.5f)));
}

/* d/dx of silu: s (1 + x (1 - s)), s the sigmoid */
INLINE vf
v_silu_slope(vf x)
{
	vf s = v_set(1.0f) / (v_set(1.0f) + v_exp(-x));

	return s * v_fma(x, v_set(1.0f) - s, v_set(1.0f));
}

/* x, y, dy → dx; a, b, d are one vector of each */
#define EACH_SLOPE(body)                                                                                     \
	do                                                                                                       \
	{                                                                                                        \
		for (size_t i_ = 0; i_ < n; i_ += LLM_W)                                                             \
		{                                                                                                    \
			int r_ = (int) (n - i_ < LLM_W ? n - i_ : LLM_W);                                                \
			vf a = v_load_n(x + i_, r_), b = v_load_n(y + i_, r_), d = v_load_n(dy + i_, r_);                \
			(void) a;                                                                                        \
			(void) b;                                                                                        \
			v_store_n(dx + i_, body, r_);                                                                    \
		}                                                                                                    \
	} while (0)

static void
unary_backward(LlmUnary f, size_t n, const float *x, const float *y, const float *dy, float *dx)
{
	const vf one = v_set(1.0f), zero = v_set(0.0f);

	switch (f)
	{
		case LLM_NEG:
			EACH_SLOPE(-d);
			break;
		case LLM_EXP:
			EACH_SLOPE(d * b);
			break;
		case LLM_LOG:
			EACH_SLOPE(d / a);
			break;
		case LLM_TANH:
			EACH_SLOPE(d * v_fma(-b, b, one));
			break;
		case LLM_SQRT:
			EACH_SLOPE(d / (b + b));
			break;
		case LLM_RELU:
			EACH_SLOPE(v_select(v_lt(zero, a), d, zero));
			break;
		case LLM_ERF: /* 2/sqrt(pi) exp(-x^2) */
			EACH_SLOPE(d * v_set(0x1.20dd76p+0f) * v_exp(-(a * a)));
			break;
		case LLM_GELU_TANH:
			EACH_SLOPE(d * v_gelu_tanh_slope(a));
			break;
		case LLM_GELU_ERF:
			EACH_SLOPE(d * v_gelu_erf_slope(a));
			break;
		case LLM_ABS:
			EACH_SLOPE(v_select(v_lt(a, zero), -d, v_select(v_lt(zero, a), d, zero)));
			break;
		case LLM_SIGMOID:
			EACH_SLOPE(d * (b * (one - b)));
			break;
		case LLM_SILU:
			EACH_SLOPE(d * v_silu_slope(a));
			break;
		case LLM_SIN:
			EACH_SLOPE(d * v_sine(a, 1));
			break;
		case LLM_COS:
			EACH_SLOPE(-(d * v_sine(a, 0)));
			break;
	}
}

/* sum of x[i] * y[i] over n elements, x[0] being absolute element `first` */
static double
dot(size_t n, size_t first, const float *x, const float *y)
{
	double total = 0;

	for (size_t at = 0; at < n;)
	{
		size_t lane = (first + at) % LLM_LANES, room = LLM_CHUNK - (first + at) % LLM_CHUNK;
		size_t len = n - at < room ? n - at : room;
		float row[LLM_LANES] = {0}, col[LLM_LANES] = {0};
		vf s[LLM_NV];

		for (int j = 0; j < LLM_NV; j++)
			s[j] = v_set(0);
		for (size_t i = 0; i < len;) /* rows of sixteen lanes; only the first and the last may be partial */
		{
			size_t k = LLM_LANES - lane < len - i ? LLM_LANES - lane : len - i;
			const float *a = x + at + i, *b = y + at + i;

			if (k < LLM_LANES)
			{
				memset(row, 0, sizeof(row));
				memset(col, 0, sizeof(col));
				memcpy(row + lane, a, k * sizeof(float));
				memcpy(col + lane, b, k * sizeof(float));
				a = row;
				b = col;
			}
			for (int j = 0; j < LLM_NV; j++)
				s[j] = v_fma(v_load(a + j * LLM_W), v_load(b + j * LLM_W), s[j]);
			i += k;
			lane = 0;
		}
		total += fold(s);
		at += len;
	}
	return total;
}

static void
softmax_backward(size_t n, size_t first, float scale, const float *y, const float *dy, float *dx)
{
	vf mean = v_set((float) dot(n, first, y, dy)), c = v_set(scale);

	for (size_t i = 0; i < n; i += LLM_W)
	{
		int r = (int) (n - i < LLM_W ? n - i : LLM_W);

		v_store_n(dx + i, v_load_n(y + i, r) * (v_load_n(dy + i, r) - mean) * c, r);
	}
}

static void
cross_entropy_backward(size_t V, const float *logits, size_t target, float scale, float *dlogits)
{
	float m = largest(V, logits), t;
	vf top = v_set(m), all, c = v_set(scale);
	double total = 0;

	for (size_t i = 0; i < V; i += LLM_W)
	{
		int r = (int) (V - i < LLM_W ? V - i : LLM_W);

		v_store_n(dlogits + i, v_exp(v_load_n(logits + i, r) - top), r);
	}
	total = sum(V, dlogits);
	all = v_set((float) total);
	t = dlogits[target] / (float) total - 1.0f;
	for (size_t i = 0; i < V; i += LLM_W)
	{
		int r = (int) (V - i < LLM_W ? V - i : LLM_W);

		v_store_n(dlogits + i, v_load_n(dlogits + i, r) / all * c, r);
	}
	dlogits[target] = t * scale;
}

/* sums += sum(dn), sum(dn n) with n = (x - mean) rstd, dn = dy gamma; x[0] in lane 0 */
static void
layernorm_sums(
	size_t n, float mean, float rstd, const float *x, const float *gamma, const float *dy, double sums[2])
{
	vf mu = v_set(mean), r = v_set(rstd), s[LLM_NV], t[LLM_NV];

	for (size_t at = 0; at < n; at += LLM_CHUNK)
	{
		size_t end = n - at < LLM_CHUNK ? n : at + LLM_CHUNK;

		for (int j = 0; j < LLM_NV; j++)
			s[j] = t[j] = v_set(0);
		for (size_t i = at; i < end; i += LLM_W)
		{
			int k = (int) (end - i < LLM_W ? end - i : LLM_W), j = (int) (i / LLM_W % LLM_NV);
			vf m = (v_load_n(x + i, k) - mu) * r, dn = v_load_n(dy + i, k) * v_load_n(gamma + i, k);

			s[j] = s[j] + v_keep(dn, k);
			t[j] = v_fma(v_keep(dn, k), v_keep(m, k), t[j]);
		}
		sums[0] += fold(s);
		sums[1] += fold(t);
	}
}

/* dx = (dn - a - n b) rstd */
static void
layernorm_dx(size_t n, float mean, float rstd, float a, float b, const float *x, const float *gamma,
	const float *dy, float *dx)
{
	vf mu = v_set(mean), r = v_set(rstd), va = v_set(a), vb = v_set(b);

	for (size_t i = 0; i < n; i += LLM_W)
	{
		int k = (int) (n - i < LLM_W ? n - i : LLM_W);
		vf m = (v_load_n(x + i, k) - mu) * r, dn = v_load_n(dy + i, k) * v_load_n(gamma + i, k);

		v_store_n(dx + i, v_fma(-m, vb, dn - va) * r, k);
	}
}

/* dx = (dn - mean(dn) - n mean(dn n)) / sigma with n = (x - mu) / sigma, dn = dy gamma; stats gets mu,
 * 1/sigma */
static void
layernorm_backward(
	int C, const float *x, const float *gamma, float eps, const float *dy, float *dx, float stats[2])
{
	float mean = (float) (sum(C, x) / C);
	float var = (float) (sum_squares(C, x, mean) / C);
	float rstd = 1.0f / sqrtf(var + eps);
	double sums[2] = {0, 0};

	layernorm_sums(C, mean, rstd, x, gamma, dy, sums);
	layernorm_dx(C, mean, rstd, (float) (sums[0] / C), (float) (sums[1] / C), x, gamma, dy, dx);
	stats[0] = mean;
	stats[1] = rstd;
}

/* dgamma += sum of dy n, dbeta += sum of dy over m rows, for columns [from, to): blocks of 128 rows, in order
 */
static void
layernorm_backward_params(size_t m, int C, int from, int to, const float *x, const float *stats,
	const float *dy, float *dgamma, float *dbeta)
{
	for (int j = from; j < to; j += LLM_W)
	{
		int k = to - j < LLM_W ? to - j : LLM_W;
		vf g = v_load_n(dgamma + j, k), b = v_load_n(dbeta + j, k);

		for (size_t i0 = 0; i0 < m; i0 += LLM_BLOCK)
		{
			vf dg = v_set(0), db = v_set(0);

			for (size_t i = i0; i < m && i < i0 + LLM_BLOCK; i++)
			{
				vf d = v_load_n(dy + i * C + j, k);
				vf n = (v_load_n(x + i * C + j, k) - v_set(stats[2 * i])) * v_set(stats[2 * i + 1]);

				dg = v_fma(d, n, dg);
				db = db + d;
			}
			g = g + dg;
			b = b + db;
		}
		v_store_n(dgamma + j, g, k);
		v_store_n(dbeta + j, b, k);
	}
}

#endif
