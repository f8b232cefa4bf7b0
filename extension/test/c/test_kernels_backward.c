/*
 * The gradients' kernels: every instruction set compared with the plain formula, bit for bit; and
 * derivatives with differences.
 */
#include "levels.h"

#include "engine/gradients.h"

static uint64_t state = 12;

/* dy f'(x), y = f(x) */
static float
ref_slope(LlmUnary f, float x, float y, float dy)
{
	float t, inner, phi;

	switch (f)
	{
		case LLM_NEG:
			return -dy;
		case LLM_EXP:
			return dy * y;
		case LLM_LOG:
			return dy / x;
		case LLM_TANH:
			return dy * fmaf(-y, y, 1);
		case LLM_SQRT:
			return dy / (y + y);
		case LLM_RELU:
			return x > 0 ? dy : 0;
		case LLM_ERF:
			return dy * 0x1.20dd76p+0f * ref_exp(-(x * x));
		case LLM_GELU_TANH:
			t = ref_tanh(fmaf(x * x * 0.044715f, x, x) * 0x1.988454p-1f);
			inner = fmaf(x * x, 0.134145f, 1) * 0x1.988454p-1f;
			return dy * fmaf(0.5f * x * fmaf(-t, t, 1), inner, fmaf(0.5f, t, 0.5f));
		case LLM_GELU_ERF:
			phi = ref_exp(-0.5f * x * x) * 0x1.988454p-2f;
			return dy * fmaf(x, phi, fmaf(0.5f, ref_erf(x * 0x1.6a09e6p-1f), 0.5f));
		case LLM_SIGMOID:
			return dy * (y * (1 - y));
		case LLM_SILU:
			t = 1 / (1 + ref_exp(-x));
			return dy * (t * fmaf(x, 1 - t, 1));
		case LLM_SIN:
			return dy * ref_sine(x, 1);
		case LLM_COS:
			return -(dy * ref_sine(x, 0));
		default:
			return x < 0 ? -dy : x > 0 ? dy : 0;
	}
}

/* Sum of x y, partial sums anchored at absolute index 0. */
static double
ref_products(size_t n, size_t first, const float *x, const float *y)
{
	RefSum s = {0};

	for (size_t i = 0; i < n; i++)
	{
		float *lane = &s.lane[(first + i) % LLM_LANES];

		*lane = fmaf(x[i], y[i], *lane);
		if ((first + i + 1) % LLM_CHUNK == 0 || i + 1 == n)
			ref_fold(&s);
	}
	return s.total;
}

static void
unary_case(size_t n)
{
	float *x = odd_random(&state, n), *dy = odd_random(&state, n), *y = odd_floats(n), *want = odd_floats(n);

	for (int f = LLM_NEG; f <= LLM_COS; f++)
	{
		for (size_t i = 0; i < n; i++)
		{
			double h = 1e-3, slope;

			x[i] = test_uniform(&state) * 3;
			if (f == LLM_LOG || f == LLM_SQRT)
				x[i] = 0.1f + fabsf(x[i]);
			y[i] = ref_unary((LlmUnary) f, x[i]);
			want[i] = ref_slope((LlmUnary) f, x[i], y[i], dy[i]);
			slope = (ref_unary((LlmUnary) f, x[i] + h) - ref_unary((LlmUnary) f, x[i] - h)) / (2 * h);
			CHECK(fabsf(x[i]) < 2e-3f || fabs(want[i] - dy[i] * slope) < 3e-3 * (1 + fabs(slope)));
		}
		EACH_ISA(isa)
		{
			float *got = odd_output(n), *over = odd_output(n);

			llm_kernels->unary_backward((LlmUnary) f, n, x, y, dy, got);
			check_bits("unary_backward", n, want, got);
			memcpy(over, dy, n * sizeof(float));
			llm_kernels->unary_backward((LlmUnary) f, n, x, y, over, over);
			check_bits("unary_backward in place", n, want, over);
		}
	}
	odd_free(x);
	odd_free(y);
	odd_free(dy);
	odd_free(want);
}

static void
softmax_case(size_t n, size_t first)
{
	float *x = odd_random(&state, n), *y = odd_floats(n), *dy = odd_random(&state, n), *want = odd_floats(n),
		  mean;

	ref_softmax(n, first, 2, x, y);
	mean = (float) ref_products(n, first, y, dy);
	for (size_t i = 0; i < n; i++)
		want[i] = y[i] * (dy[i] - mean) * 0.3f;
	EACH_ISA(isa)
	{
		float *got = odd_output(n);

		llm_kernels->softmax_backward(n, first, 0.3f, y, dy, got);
		check_bits("softmax_backward", n, want, got);
	}
	odd_free(x);
	odd_free(y);
	odd_free(dy);
	odd_free(want);
}

static void
cross_entropy_case(size_t V, size_t target)
{
	float *x = odd_random(&state, V), *want = odd_floats(V), top = x[ref_argmax(V, x)], all;

	for (size_t i = 0; i < V; i++)
		want[i] = ref_exp(x[i] - top);
	all = (float) ref_sum(V, 0, want, 1, 0);
	for (size_t i = 0; i < V; i++)
		want[i] = i == target ? (want[i] / all - 1) * 0.25f : want[i] / all * 0.25f;
	EACH_ISA(isa)
	{
		float *got = odd_output(V);

		llm_kernels->cross_entropy_backward(V, x, target, 0.25f, got);
		check_bits("cross_entropy_backward", V, want, got);
	}
	odd_free(x);
	odd_free(want);
}

static void
layernorm_case(int C)
{
	float *x = odd_random(&state, C), *gamma = odd_random(&state, C), *dy = odd_random(&state, C);
	float *n = odd_floats(C), *dn = odd_floats(C), *want = odd_floats(C), a, b;
	float mean = (float) (ref_sum(C, 0, x, 1, 0) / C);
	float r = 1 / sqrtf((float) (ref_sum(C, 0, x, 2, mean) / C) + 1e-5f);

	for (int i = 0; i < C; i++)
	{
		n[i] = (x[i] - mean) * r;
		dn[i] = dy[i] * gamma[i];
	}
	a = (float) (ref_sum(C, 0, dn, 1, 0) / C);
	b = (float) (ref_products(C, 0, dn, n) / C);
	for (int i = 0; i < C; i++)
		want[i] = fmaf(-n[i], b, dn[i] - a) * r;
	EACH_ISA(isa)
	{
		float *got = odd_output(C), stats[2];

		llm_kernels->layernorm_backward(C, x, gamma, 1e-5f, dy, got, stats);
		check_bits("layernorm_backward", C, want, got);
		CHECK(stats[0] == mean && stats[1] == r);
	}
	odd_free(x);
	odd_free(gamma);
	odd_free(dy);
	odd_free(n);
	odd_free(dn);
	odd_free(want);
}

/* dgamma and dbeta: blocks of 128 rows are added in order to the previous contents; columns in any split. */
static void
layernorm_params_case(size_t m, int C, int cut)
{
	float *x = odd_random(&state, m * C), *dy = odd_random(&state, m * C), *stats = odd_random(&state, 2 * m);
	float *begin = odd_random(&state, C), *gamma = odd_floats(C), *beta = odd_floats(C);

	for (int j = 0; j < C; j++)
	{
		gamma[j] = beta[j] = begin[j];
		for (size_t i0 = 0; i0 < m; i0 += LLM_BLOCK)
		{
			float dg = 0, db = 0;

			for (size_t i = i0; i < m && i < i0 + LLM_BLOCK; i++)
			{
				dg = fmaf(dy[i * C + j], (x[i * C + j] - stats[2 * i]) * stats[2 * i + 1], dg);
				db += dy[i * C + j];
			}
			gamma[j] += dg;
			beta[j] += db;
		}
	}
	EACH_ISA(isa)
	{
		float *g = odd_output(C), *b = odd_output(C);

		memcpy(g, begin, C * sizeof(float));
		memcpy(b, begin, C * sizeof(float));
		llm_kernels->layernorm_backward_params(m, C, 0, cut, x, stats, dy, g, b);
		llm_kernels->layernorm_backward_params(m, C, cut, C, x, stats, dy, g, b);
		check_bits("dgamma", C, gamma, g);
		check_bits("dbeta", C, beta, b);
	}
	odd_free(x);
	odd_free(dy);
	odd_free(stats);
	odd_free(begin);
	odd_free(gamma);
	odd_free(beta);
}

static void
adamw_case(size_t n)
{
	LlmAdamW h = llm_adamw_scalars(1e-3, 0.9, 0.999, 1e-8, 0.1, 3, 0.5);
	float *w = odd_random(&state, n), *g = odd_random(&state, n), *m = odd_random(&state, n),
		  *v = odd_random(&state, n);
	float *want[3] = {odd_floats(n), odd_floats(n), odd_floats(n)};

	CHECK(h.one_minus_beta2 == (float) (1 - 0.999)); /* 1 - 0.999f is off by 1e-5 */
	for (size_t i = 0; i < n; i++)
	{
		float d = g[i] * h.grad_scale;

		v[i] = fabsf(v[i]);
		want[1][i] = fmaf(h.beta1, m[i], h.one_minus_beta1 * d);
		want[2][i] = fmaf(h.beta2, v[i], h.one_minus_beta2 * d * d);
		want[0][i] = fmaf(-h.rate, want[1][i] / (sqrtf(want[2][i]) / h.root + h.eps), w[i] * h.keep);
	}
	EACH_ISA(isa)
	{
		float *got[3] = {odd_output(n), odd_output(n), odd_output(n)};

		memcpy(got[0], w, n * sizeof(float));
		memcpy(got[1], m, n * sizeof(float));
		memcpy(got[2], v, n * sizeof(float));
		llm_kernels->adamw(n, got[0], g, got[1], got[2], &h);
		for (int i = 0; i < 3; i++)
			check_bits("adamw", n, want[i], got[i]);
	}
	odd_free(w);
	odd_free(g);
	odd_free(m);
	odd_free(v);
	for (int i = 0; i < 3; i++)
		odd_free(want[i]);
}

/* dW (K,N) += x^T (K,M) @ dy (M,N): the M rows in blocks of 128, added in order to the previous contents. */
static void
weight_case(int M, int N, int K)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	float *x = odd_random(&state, (size_t) M * K), *dy = odd_random(&state, (size_t) M * N);
	float *begin = odd_random(&state, (size_t) K * N), *want = odd_floats((size_t) K * N);
	float *turned = odd_floats((size_t) K * N);
	LlmError err;

	for (int k = 0; k < K; k++)
		for (int n = 0; n < N; n++)
		{
			float sum = begin[k * N + n];

			for (int m0 = 0; m0 < M; m0 += LLM_BLOCK)
				sum += ref_dot(0, M - m0 < LLM_BLOCK ? M - m0 : LLM_BLOCK, x + (size_t) m0 * K + k, K,
					dy + (size_t) m0 * N + n, N);
			want[k * N + n] = sum;
		}
	EACH_LEVEL(isa, threads)
	{
		float *got = odd_output((size_t) K * N), *back = odd_output((size_t) K * N);

		memcpy(got, begin, sizeof(float) * K * N);
		CHECK_OK(llm_matmul_dw(M, N, K, x, dy, false, got, &memory, &err), err);
		check_bits("matmul_dw", (size_t) K * N, want, got);
		/* a weight kept as (N,K) */
		for (int i = 0; i < K * N; i++)
			turned[i % N * K + i / N] = begin[i];
		CHECK_OK(llm_matmul_dw(M, N, K, x, dy, true, turned, &memory, &err), err);
		for (int i = 0; i < K * N; i++)
			back[i] = turned[i % N * K + i / N];
		check_bits("matmul_dw transposed", (size_t) K * N, want, back);
		CHECK(counted.held == 0);
	}
	odd_free(x);
	odd_free(dy);
	odd_free(begin);
	odd_free(want);
	odd_free(turned);
}

int
main(void)
{
	static const int sizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 100, 129, 1000, 4096, 4097, 9000};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
	{
		unary_case(sizes[i]);
		for (size_t first = 0; first < 40; first += 13)
			softmax_case(sizes[i], first);
		softmax_case(sizes[i], 4090);
		cross_entropy_case(sizes[i], sizes[i] / 3);
		layernorm_case(sizes[i]);
		adamw_case(sizes[i]);
	}
	for (size_t m = 0; m < 300; m += 1 + m / 2)
		layernorm_params_case(m, 37, 16 * (m % 3));
	layernorm_params_case(257, 1, 0);
	for (int M = 1; M < 400; M += M)
		weight_case(M, 1 + M % 47, 40 - M % 13);
	weight_case(129, 65, 171);
	weight_case(3, 1, 1);
	return 0;
}
