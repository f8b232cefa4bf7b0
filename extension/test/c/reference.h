/*
 * The plain reference: the result that every kernel must give, bit for bit, on every instruction set. Each
 * function is the rule of ../../kernels/README.md in a few lines of scalar C, without vectors, packing or
 * threads. (A NaN may have any bits here, as in the kernels; comparisons treat it as one value.)
 */
#ifndef REFERENCE_H
#define REFERENCE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

/* ---- products ---- */

/* Sum of a[k*as] * b[k*bs] over first <= k < last: chains of fmaf that end at multiples of 128, added in
 * order. */
static inline float
ref_dot(int first, int last, const float *a, size_t as, const float *b, size_t bs)
{
	float sum = 0;

	for (int k = first; k < last;)
	{
		float chain = 0;
		bool begin = k == first;

		do
			chain = fmaf(a[k * as], b[k * bs], chain);
		while (++k < last && k % LLM_BLOCK != 0);
		sum = begin ? chain : sum + chain;
	}
	return sum;
}

/* out (M,N) = a (M,K) @ b (K,N), or b (N,K) transposed */
static inline void
ref_matmul(int M, int N, int K, const float *a, const float *b, bool transposed, float *out)
{
	for (int m = 0; m < M; m++)
		for (int n = 0; n < N; n++)
			out[(size_t) m * N + n] = transposed ? ref_dot(0, K, a + (size_t) m * K, 1, b + (size_t) n * K, 1)
												 : ref_dot(0, K, a + (size_t) m * K, 1, b + n, N);
}

/* ---- elementary functions ---- */

static inline float
ref_poly(float x, int n, const float *c) /* c[0] x^(n-1) + … + c[n-1], by Horner's rule */
{
	float p = c[0];

	for (int i = 1; i < n; i++)
		p = fmaf(p, x, c[i]);
	return p;
}

/* x = n ln2 + r; exp(x) = 2^n exp(r) */
static inline float
ref_exp(float x)
{
	static const float c[] = {
		0x1.a6d86cp-13f, 0x1.6d100ep-10f, 0x1.110edcp-7f, 0x1.555512p-5f, 0x1.555556p-3f, 0.5f};
	float n, r, p;

	if (x != x)
		return x;
	if (x > 0x1.62e42ep+6f)
		return INFINITY;
	if (x < -87.3f)
		return 0;
	n = fmaf(x, 0x1.715476p+0f, 12582912.0f) -
		12582912.0f; /* the nearest integer: 1.5 * 2^23 has no bits for a fraction */
	r = fmaf(n, -0x1.7f7d1cp-20f, fmaf(n, -0x1.62e400p-1f, x));
	p = fmaf(ref_poly(r, 6, c) * r, r, r) + 1.0f;
	return ldexpf(p, (int) n);
}

/* x = 2^k m, m in [sqrt(1/2), sqrt(2)); log(x) = k ln2 + log(m) */
static inline float
ref_log(float x)
{
	static const float c[] = {0x1.16c464p-4f, -0x1.c7c71cp-4f, 0x1.d9c254p-4f, -0x1.fea1a4p-4f,
		0x1.24320ap-3f, -0x1.555616p-3f, 0x1.999a24p-3f, -0x1p-2f, 0x1.555556p-2f};
	int k;
	float f, p;

	if (x != x || x == INFINITY)
		return x;
	if (x <= 0)
		return x < 0 ? NAN : -INFINITY;
	f = frexpf(x, &k); /* [1/2, 1) */
	if (f < 0x1.6a09e6p-1f)
		f *= 2, k--;
	f -= 1;
	p = ref_poly(f, 9, c) * f * (f * f);
	p = fmaf(f * f, -0.5f, fmaf((float) k, 0x1.7f7d1cp-20f, p));
	return fmaf((float) k, 0x1.62e400p-1f, p + f);
}

static inline float
ref_tanh(float x)
{
	static const float c[] = {
		-0x1.ac3680p-8f, 0x1.5d7d1ap-6f, -0x1.b9c560p-5f, 0x1.1110e2p-3f, -0x1.555556p-2f};
	float z = x * x;

	if (fabsf(x) < 0.625f)
		return copysignf(fmaf(ref_poly(z, 5, c) * z, x, x), x);
	return x != x ? x : copysignf(1 - 2 / (ref_exp(2 * fabsf(x)) + 1), x);
}

static inline float
ref_erf(float x)
{
	static const float c[] = {
		-0x1.3f3664p-11f, 0x1.48f7b6p-8f, -0x1.b6f3fep-6f, 0x1.ce2478p-4f, -0x1.81273ap-2f, 0x1.06eba8p-3f};
	static const float q[] = {0x1.2c399cp-18f, -0x1.8dcce2p-15f, 0, 0x1.5f83f4p-9f, -0x1.6a1488p-6f,
		0x1.ac4ecep-4f, 0x1.45a892p-1f, 0x1.20e1eap+0f};
	float a = fminf(fabsf(x), 4);

	if (a < 0.9225f)
		return fmaf(ref_poly(x * x, 6, c), x, x);
	return x != x ? x : copysignf(1 - ref_exp(-(ref_poly(a, 8, q) * a)), x);
}

/* x = n pi/2 + r; sin(x + quarter pi/2) */
static inline float
ref_sine(float x, int quarter)
{
	static const float c[] = {0x1.6cd826p-19f, -0x1.a00f9cp-13f, 0x1.111108p-7f, -0x1.555556p-3f};
	static const float d[] = {0x1.9a01f2p-16f, -0x1.6c0c8ap-10f, 0x1.55554ap-5f};
	float n = fmaf(x, 0x1.45f306p-1f, 12582912.0f) - 12582912.0f;
	float r = fmaf(n, -0x1.84698ap-48f, fmaf(n, -0x1.4442d0p-24f, fmaf(n, -0x1.921fb4p+0f, x))), z;

	if (!(fabsf(x) < INFINITY))
		return NAN;
	if (fabsf(x) > 131072) /* m 2^e times 96 bits of 2/pi, from the first that is less than a whole turn on */
	{
		static const char digits[] = "a2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561";
		unsigned __int128 window = 0;
		uint64_t turn, quarters;
		int e;

		frexpf(x, &e);
		for (int i = e - 26; i < e - 26 + 96; i++)
			window = window << 1 |
					 (i >= 0 && (digits[i / 4] - (digits[i / 4] > '9' ? 'a' - 10 : '0')) >> (3 - i % 4) & 1);
		turn = (uint64_t) (window * (uint32_t) ldexpf(fabsf(x), 24 - e) >> 32);
		quarters = (turn + (UINT64_C(1) << 61)) >> 62;
		n = copysignf((float) quarters, x);
		r = copysignf(1, x) * (float) ((double) (int64_t) (turn - (quarters << 62)) * 0x1.921fb54442d18p-62);
	}
	z = r * r;
	quarter += (int) n;
	r = quarter & 1 ? fmaf(ref_poly(z, 3, d) * z, z, fmaf(z, -0.5f, 1))
					: copysignf(fmaf(ref_poly(z, 4, c) * z, r, r), r);
	return quarter & 2 ? -r : r;
}

static inline float
ref_unary(LlmUnary f, float x)
{
	switch (f)
	{
		case LLM_NEG:
			return -x;
		case LLM_EXP:
			return ref_exp(x);
		case LLM_LOG:
			return ref_log(x);
		case LLM_TANH:
			return ref_tanh(x);
		case LLM_SQRT:
			return sqrtf(x);
		case LLM_RELU:
			return x < 0 ? 0 : x;
		case LLM_ERF:
			return ref_erf(x);
		case LLM_GELU_TANH:
			return 0.5f * x * (1 + ref_tanh(fmaf(x * x * 0.044715f, x, x) * 0x1.988454p-1f));
		case LLM_GELU_ERF:
			return 0.5f * x * (1 + ref_erf(x * 0x1.6a09e6p-1f));
		case LLM_SIGMOID:
			return 1 / (1 + ref_exp(-x));
		case LLM_SILU:
			return x / (1 + ref_exp(-x));
		case LLM_SIN:
			return ref_sine(x, 0);
		case LLM_COS:
			return ref_sine(x, 1);
		default:
			return fabsf(x);
	}
}

static inline float
ref_binary(LlmBinary op, float a, float b)
{
	switch (op)
	{
		case LLM_ADD:
			return a + b;
		case LLM_SUB:
			return a - b;
		case LLM_MUL:
			return a * b;
		case LLM_DIV:
			return a / b;
		case LLM_GREATER:
			return a > b;
		default:
			return a != a || b != b ? NAN : a > b ? a : b;
	}
}

/* ---- reductions ---- */

/* Sixteen partial sums; the element with absolute index i goes to the one numbered i % 16. */
typedef struct RefSum
{
	float lane[LLM_LANES];
	double total;
} RefSum;

static inline void
ref_fold(RefSum *s)
{
	for (int half = LLM_LANES / 2; half > 0; half /= 2)
		for (int l = 0; l < half; l++)
			s->lane[l] += s->lane[l + half];
	s->total += s->lane[0];
	memset(s->lane, 0, sizeof(s->lane));
}

/* Sum of (x - shift)^power; chunks of 4096 are added in float64. */
static inline double
ref_sum(size_t n, size_t first, const float *x, int power, float shift)
{
	RefSum s = {0};

	for (size_t i = 0; i < n; i++)
	{
		float *lane = &s.lane[(first + i) % LLM_LANES];

		*lane = power == 1 ? *lane + x[i] : fmaf(x[i] - shift, x[i] - shift, *lane);
		if ((first + i + 1) % LLM_CHUNK == 0 || i + 1 == n)
			ref_fold(&s);
	}
	return s.total;
}

static inline void
ref_sum_rows(size_t m, size_t n, const float *x, size_t ldx, float *out)
{
	for (size_t j = 0; j < n; j++)
	{
		float total = 0, block = 0;

		for (size_t i = 0; i < m; i++)
		{
			block += x[i * ldx + j];
			if ((i + 1) % LLM_BLOCK == 0 || i + 1 == m)
			{
				total = i < LLM_BLOCK ? block : total + block;
				block = 0;
			}
		}
		out[j] = total;
	}
}

static inline size_t
ref_argmax(size_t n, const float *x)
{
	size_t at = 0;

	for (size_t i = 1; i < n && x[at] == x[at]; i++)
		if (x[i] > x[at] || x[i] != x[i])
			at = i;
	return at;
}

/* ---- row operations of the model ---- */

static inline void
ref_softmax(size_t n, size_t first, float scale, const float *x, float *out)
{
	float top, all;

	for (size_t i = 0; i < n; i++)
		out[i] = x[i] * scale;
	top = out[ref_argmax(n, out)];
	for (size_t i = 0; i < n; i++)
		out[i] = ref_exp(out[i] - top);
	all = (float) ref_sum(n, first, out, 1, 0);
	for (size_t i = 0; i < n; i++)
		out[i] /= all;
}

static inline void
ref_log_softmax(size_t n, const float *x, float *out)
{
	float top = x[ref_argmax(n, x)], *e = malloc(n * sizeof(float) + 1), all;

	for (size_t i = 0; i < n; i++)
		e[i] = ref_exp(x[i] - top);
	all = ref_log((float) ref_sum(n, 0, e, 1, 0));
	for (size_t i = 0; i < n; i++)
		out[i] = x[i] - top - all;
	free(e);
}

static inline float
ref_cross_entropy(size_t V, const float *logits, size_t target)
{
	float top = logits[ref_argmax(V, logits)], *e = malloc(V * sizeof(float)), sum;

	for (size_t i = 0; i < V; i++)
		e[i] = ref_exp(logits[i] - top);
	sum = (float) ref_sum(V, 0, e, 1, 0);
	free(e);
	return ref_log(sum) - (logits[target] - top);
}

static inline void
ref_layernorm(int C, const float *x, const float *gamma, const float *beta, float eps, float *out)
{
	float mean = (float) (ref_sum(C, 0, x, 1, 0) / C);
	float var = (float) (ref_sum(C, 0, x, 2, mean) / C), r = 1 / sqrtf(var + eps);

	for (int i = 0; i < C; i++)
		out[i] = fmaf((x[i] - mean) * r, gamma[i], beta[i]);
}

/*
 * out (T,NH*HS) of one sequence: qkv (T,3*NH*HS) holds queries, keys, values. A query at position t attends
 * to the keys first … last-1, at most `window` of them (0: all), to later ones only if not causal. probs
 * (NH,T,T) is written if not NULL.
 */
static inline void
ref_attention(int T, int NH, int HS, bool causal, int window, float scale, const float *head_mask,
	const float *qkv, float *out, float *probs)
{
	size_t C = (size_t) NH * HS;
	float *p = malloc((T + 1) * sizeof(float));

	for (int h = 0; h < NH; h++)
		for (int t = 0; t < T; t++)
		{
			int first = window && t + 1 > window ? t + 1 - window : 0, last = causal ? t + 1 : T;
			const float *q = qkv + t * 3 * C + h * HS, *k = qkv + C + h * HS, *v = k + C;

			for (int i = first; i < last; i++)
				p[i] = ref_dot(0, HS, q, 1, k + i * 3 * C, 1);
			ref_softmax(last - first, first, scale, p + first, p + first);
			for (int i = 0; i < T && probs; i++)
				probs[((size_t) h * T + t) * T + i] = i < first || i >= last ? 0 : p[i];
			for (int i = 0; i < HS; i++)
			{
				float y = ref_dot(first, last, p, 1, v + i, 3 * C);

				out[t * C + h * HS + i] = head_mask ? y * head_mask[h] : y;
			}
		}
	free(p);
}

#endif
