/* Elementwise kernels, reductions and rows: every instruction set against the plain reference, bit for bit.
 */
#include "levels.h"

#include <float.h>

static const size_t sizes[] = {
	0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 127, 128, 129, 1000};
static const size_t long_sizes[] = {4095, 4096, 4097, 4111, 8192, 8193, 12305};

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

/* Values at which a formula changes, ends or is undefined. */
static const float special[] = {0, -0.0f, 1, -1, INFINITY, -INFINITY, NAN, -NAN, FLT_MAX, -FLT_MAX, FLT_MIN,
	-FLT_MIN, 0x1p-149f, -0x1p-149f, 0x1p-127f, 0x1.fffffcp-127f, 0x1p-24f, 88.72283f, 88.72284f,
	0x1.62e42ep+6f, 0x1.62e430p+6f, -87.3f, -87.30001f, -104, 0.625f, 0x1.3ffffep-1f, -0.625f, 0.9225f,
	0x1.d851ecp-1f, 4, -4, 0x1.fffffep+1f, 0x1.6a09e6p-1f, 0x1.6a09e4p-1f, 0x1.6a09e8p-1f, 2, 0.5f, 10, -10,
	1e10f, -1e10f, 1e30f, -1e30f};

/* All kinds of floats: special values, all exponents, and values of ordinary size. */
static float *
mixed(uint64_t *state, size_t n)
{
	float *x = odd_floats(n);

	for (size_t i = 0; i < n; i++)
	{
		uint32_t bits = (uint32_t) test_random(state);

		if (bits % 8 == 0)
			x[i] = special[test_random(state) % COUNT(special)];
		else if (bits % 2 == 0)
			memcpy(&x[i], &bits, 4);
		else
			x[i] = test_uniform(state) * 8;
	}
	return x;
}

static void
unary_case(uint64_t *state, size_t n)
{
	float *x = mixed(state, n), *want = odd_floats(n);

	for (int f = LLM_NEG; f <= LLM_COS; f++)
	{
		for (size_t i = 0; i < n; i++)
			want[i] = ref_unary((LlmUnary) f, x[i]);
		EACH_ISA(isa)
		{
			float *got = odd_output(n), *over = odd_output(n);
			char what[32];

			snprintf(what, sizeof(what), "unary %d", f);
			llm_kernels->unary((LlmUnary) f, n, x, got);
			check_bits(what, n, want, got);
			memcpy(over, x, n * sizeof(float));
			llm_kernels->unary((LlmUnary) f, n, over, over);
			check_bits(what, n, want, over);
		}
	}
	odd_free(x);
	odd_free(want);
}

static void
binary_case(uint64_t *state, size_t n)
{
	float *x = mixed(state, n + 1), *y = mixed(state, n + 1), *want = odd_floats(n);

	for (int op = LLM_ADD; op <= LLM_GREATER; op++)
		for (int steps = 0; steps < 4; steps++)
		{
			int xs = steps & 1, ys = steps >> 1;

			for (size_t i = 0; i < n; i++)
				want[i] = ref_binary((LlmBinary) op, x[i * xs], y[i * ys]);
			EACH_ISA(isa)
			{
				float *got = odd_output(n), *over = odd_output(n);

				llm_kernels->binary((LlmBinary) op, n, x, xs, y, ys, got);
				check_bits("binary", n, want, got);
				/* in place, over the operand that is not a scalar */
				memcpy(over, ys ? y : x, n * sizeof(float));
				llm_kernels->binary((LlmBinary) op, n, xs && !ys ? over : x, xs, ys ? over : y, ys, over);
				if (xs || ys)
					check_bits("binary in place", n, want, over);
				else
					odd_free(over);
			}
		}
	odd_free(x);
	odd_free(y);
	odd_free(want);
}

/* Selections, with every combination of strides, and bounds; in place, too. */
static void
select_case(uint64_t *state, size_t n)
{
	float *x = mixed(state, n + 1), *y = mixed(state, n + 1), *c = odd_random(state, n + 1);
	float *want = odd_floats(n);

	for (size_t i = 0; i < n; i++)
		c[i] = i % 7 == 3 ? NAN : i % 3 == 0 ? (i % 2 ? -0.0f : 0) : c[i];
	EACH_ISA(isa)
	for (int steps = 0; steps < 8; steps++)
	{
		int cs = steps & 1, xs = steps >> 1 & 1, ys = steps >> 2;
		float *got = odd_output(n), *over = odd_output(n);

		for (size_t i = 0; i < n; i++)
			want[i] = c[i * cs] != 0 ? x[i * xs] : y[i * ys];
		llm_kernels->select(n, c, cs, x, xs, y, ys, got);
		check_bits("select", n, want, got);
		memcpy(over, x, n * sizeof(float));
		llm_kernels->select(n, c, cs, xs ? over : x, xs, y, ys, over);
		if (xs)
			check_bits("select in place", n, want, over);
		else
			odd_free(over);
	}
	EACH_ISA(isa)
	{
		float *got = odd_output(n), *dx = odd_output(n), *slope = odd_floats(n);

		for (size_t i = 0; i < n; i++)
		{
			want[i] = x[i] < -0.5f ? -0.5f : x[i] > 0.25f ? 0.25f : x[i];
			slope[i] = x[i] >= -0.5f && x[i] <= 0.25f ? y[i] : 0;
		}
		llm_kernels->clamp(n, -0.5f, 0.25f, x, got);
		check_bits("clamp", n, want, got);
		llm_kernels->clamp_backward(n, -0.5f, 0.25f, x, y, dx);
		check_bits("clamp_backward", n, slope, dx);
		odd_free(slope);
	}
	odd_free(x);
	odd_free(y);
	odd_free(c);
	odd_free(want);
}

static void
check_double(const char *what, size_t n, double want, double got)
{
	if (!(want == got || (isnan(want) && isnan(got))))
	{
		fprintf(stderr, "FAIL %s (%s) of %zu: %a, the reference says %a\n", what, llm_kernels->name, n, got,
			want);
		exit(1);
	}
}

static void
reduction_case(const float *x, size_t n)
{
	double sum = ref_sum(n, 0, x, 1, 0), squares = ref_sum(n, 0, x, 2, 0.25f), exact = 0, size = 0;
	bool finite = true;

	EACH_ISA(isa)
	{
		check_double("sum", n, sum, llm_kernels->sum(n, x));
		check_double("sum_squares", n, squares, llm_kernels->sum_squares(n, x, 0.25f));
		if (n > 0)
		{
			size_t index = n + 1, want = ref_argmax(n, x);
			float top = llm_kernels->max(n, x, &index);

			CHECK(index == want && bits_of(top) == bits_of(x[want]));
			CHECK(bits_of(llm_kernels->max(n, x, NULL)) == bits_of(top));
		}
	}
	for (size_t i = 0; i < n; i++)
	{
		exact += x[i];
		size += fabs(x[i]);
		finite &= isfinite(x[i]);
	}
	if (finite && size < 1e30)
		CHECK(fabs(sum - exact) <= size * 0x1p-24 * 20);
}

/* NaN anywhere wins, the first of equals wins, and -0 is not less than +0. */
static void
max_cases(uint64_t *state)
{
	for (size_t n = 1; n < 200; n += 1 + n / 16)
	{
		float *x = odd_random(state, n);

		for (size_t place = 0; place < n; place += 1 + place / 8)
		{
			float before = x[place];

			x[place] = NAN;
			reduction_case(x, n);
			x[place] = 2;
			x[n - 1] = 2;
			reduction_case(x, n);
			x[place] = before;
		}
		for (size_t i = 0; i < n; i++)
			x[i] = i % 3 ? 0.0f : -0.0f;
		reduction_case(x, n);
		for (size_t i = 0; i < n; i++)
			x[i] = -INFINITY;
		reduction_case(x, n);
		odd_free(x);
	}
}

static void
sum_rows_case(uint64_t *state, size_t m, size_t n, size_t ldx)
{
	float *x = odd_random(state, m ? (m - 1) * ldx + n : 0), *want = odd_floats(n);

	ref_sum_rows(m, n, x, ldx, want);
	EACH_ISA(isa)
	{
		float *got = odd_output(n);

		llm_kernels->sum_rows(m, n, x, ldx, got);
		check_bits("sum_rows", n, want, got);
	}
	odd_free(x);
	odd_free(want);
}

/* A piece of a row that starts at `first` must be summed as inside the whole row. */
static void
softmax_case(const float *x, size_t n, size_t first, float scale)
{
	float *want = odd_floats(n);

	ref_softmax(n, first, scale, x, want);
	EACH_ISA(isa)
	{
		float *got = odd_output(n), *over = odd_output(n);

		llm_kernels->softmax(n, first, scale, x, got);
		check_bits("softmax", n, want, got);
		memcpy(over, x, n * sizeof(float));
		llm_kernels->softmax(n, first, scale, over, over);
		check_bits("softmax in place", n, want, over);
	}
	odd_free(want);
}

static void
cross_entropy_case(const float *x, size_t V, size_t target, bool usual)
{
	float want = ref_cross_entropy(V, x, target);
	double sum = 0;

	EACH_ISA(isa)
	CHECK(bits_of(want) == bits_of(llm_kernels->cross_entropy(V, x, target)));
	for (size_t i = 0; i < V; i++)
		sum += exp((double) x[i] - x[target]);
	if (usual)
		CHECK(fabs(want - log(sum)) <= 1e-5);
}

static void
layernorm_case(uint64_t *state, const float *x, int C, float eps, bool usual)
{
	float *gamma = odd_random(state, C), *beta = odd_random(state, C), *want = odd_floats(C);
	double mean = 0, var = 0;

	ref_layernorm(C, x, gamma, beta, eps, want);
	EACH_ISA(isa)
	{
		float *got = odd_output(C);

		llm_kernels->layernorm(C, x, gamma, beta, eps, got);
		check_bits("layernorm", C, want, got);
	}
	for (int i = 0; i < C; i++)
		mean += (double) x[i] / C;
	for (int i = 0; i < C; i++)
		var += (x[i] - mean) * (x[i] - mean) / C;
	for (int i = 0; i < C && usual && C > 1; i++)
		CHECK(fabs(want[i] - ((x[i] - mean) / sqrt(var + eps) * gamma[i] + beta[i])) <= 1e-5);
	odd_free(gamma);
	odd_free(beta);
	odd_free(want);
}

static void
row_cases(uint64_t *state, size_t n)
{
	float *usual = odd_random(state, n), *odd = mixed(state, n);

	reduction_case(usual, n);
	reduction_case(odd, n);
	if (n > 0)
	{
		for (size_t first = 0; first < 40; first += 1 + first / 4)
			softmax_case(usual, n, first, 3);
		softmax_case(usual, n, 4090, 1);
		softmax_case(odd, n, 5, 0.125f);
		for (size_t i = 0; i < n; i++) /* finite and far apart: exp is 0 for most */
			odd[i] = isfinite(odd[i]) ? fmaxf(fminf(odd[i], 1000), -1000) : -INFINITY;
		odd[n / 2] = 1;
		softmax_case(odd, n, 0, 1);
		cross_entropy_case(usual, n, n / 2, true);
		cross_entropy_case(odd, n, n - 1, false);
		layernorm_case(state, usual, (int) n, 1e-5f, true);
		layernorm_case(state, odd, (int) n, 0, false);
	}
	odd_free(usual);
	odd_free(odd);
}

/* Every NaN becomes the canonical one, whatever its sign and payload. */
static void
canonicalize_case(void)
{
	static const uint32_t bits[] = {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xffffffffu, 0x7fc12345u,
		0x7f800000u, 0xff800000u, 0x00000001u, 0x80000000u};

	EACH_ISA(isa)
	for (size_t n = 0; n < 40; n++)
	{
		uint32_t *x = (uint32_t *) odd_floats(n);

		for (size_t i = 0; i < n; i++)
			x[i] = bits[i % COUNT(bits)];
		llm_kernels->canonicalize(n, (float *) x);
		for (size_t i = 0; i < n; i++)
			CHECK(x[i] == (i % COUNT(bits) < 5 ? 0x7fc00000u : bits[i % COUNT(bits)]));
		odd_free((float *) x);
	}
}

/* Of +0 and -0 the maximum is the second operand, in every lane. */
static void
zero_case(void)
{
	float plus[33], minus[33], out[33];

	for (int i = 0; i < 33; i++)
	{
		plus[i] = 0.0f;
		minus[i] = -0.0f;
	}
	EACH_ISA(isa)
	{
		llm_kernels->binary(LLM_MAX, 33, plus, 1, minus, 1, out);
		for (int i = 0; i < 33; i++)
			CHECK(out[i] == 0 && signbit(out[i]));
		llm_kernels->binary(LLM_MAX, 33, minus, 1, plus, 1, out);
		for (int i = 0; i < 33; i++)
			CHECK(out[i] == 0 && !signbit(out[i]));
	}
}

/* Denormals are kept, by every instruction set: half of the smallest normal number is not 0. */
static void
denormal_case(void)
{
	float tiny[33], half = 0.5f, out[33];

	for (int i = 0; i < 33; i++)
		tiny[i] = FLT_MIN;
	EACH_ISA(isa)
	{
		llm_kernels->binary(LLM_MUL, 33, tiny, 1, &half, 0, out);
		for (int i = 0; i < 33; i++)
			CHECK(out[i] == 0x1p-127f);
		CHECK(llm_kernels->sum(2, out) == FLT_MIN);
	}
}

int
main(void)
{
	uint64_t state = 1;

	for (size_t i = 0; i < COUNT(sizes); i++)
	{
		unary_case(&state, sizes[i]);
		binary_case(&state, sizes[i]);
		select_case(&state, sizes[i]);
		row_cases(&state, sizes[i]);
	}
	for (size_t i = 0; i < COUNT(long_sizes); i++)
		row_cases(&state, long_sizes[i]);
	unary_case(&state, 20000);
	max_cases(&state);
	for (size_t m = 0; m < 400; m += 1 + m / 3)
		for (size_t n = 0; n < 40; n += 1 + n / 4)
			sum_rows_case(&state, m, n, n + m % 3);
	sum_rows_case(&state, 128, 17, 17);
	sum_rows_case(&state, 129, 17, 17);
	canonicalize_case();
	zero_case();
	denormal_case();
	return 0;
}
