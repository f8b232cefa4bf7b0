/*
 * The elementary functions compared with float64, in units in the last place, over a grid of all floats; and
 * their exact values. A stride as argument (1: every float) measures more finely: the figures of
 * kernels/README.md.
 */
#include "levels.h"

#define BATCH 4096

typedef double (*Exact)(double);

static double
gelu_tanh(double x)
{
	return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double
gelu_erf(double x)
{
	return 0.5 * x * (1 + erf(x / sqrt(2)));
}

static double
sigmoid(double x)
{
	return 1 / (1 + exp(-x));
}

static double
silu(double x)
{
	return x / (1 + exp(-x));
}

/* Distance between got and want in units in the last place of a float with the size of `of`. */
static double
ulps(float got, double want, double of)
{
	int exponent;

	frexp(of, &exponent);
	return fabs(got - want) / ldexp(1, (exponent < -125 ? -125 : exponent) - 24);
}

static const struct
{
	const char *name;
	LlmUnary f;
	Exact exact;
	float low, high; /* where the result is neither 0 nor infinite */
	bool of_input;   /* 1 + tanh cancels for negative x: the error is measured in ulp of x */
	double limit;
} functions[] = {
	{"exp", LLM_EXP, exp, -87.3f, 88.72f, false, 1.0},
	{"log", LLM_LOG, log, 0, INFINITY, false, 1.0},
	{"tanh", LLM_TANH, tanh, -INFINITY, INFINITY, false, 1.6},
	{"erf", LLM_ERF, erf, -INFINITY, INFINITY, false, 1.3},
	{"gelu (tanh)", LLM_GELU_TANH, gelu_tanh, -1e12f, 1e12f, true, 2.0},
	{"gelu (erf)", LLM_GELU_ERF, gelu_erf, -1e18f, 1e18f, true, 2.0},
	{"sigmoid", LLM_SIGMOID, sigmoid, -87.3f, INFINITY, false, 2.7},
	{"silu", LLM_SILU, silu, -87.3f, INFINITY, false, 2.7},
	{"sin", LLM_SIN, sin, -INFINITY, INFINITY, false, 1.7},
	{"cos", LLM_COS, cos, -INFINITY, INFINITY, false, 1.7},
};

static void
measure(int which, uint32_t stride, bool show)
{
	double worst = 0;
	float worst_at = 0, x[BATCH], y[BATCH];
	int n = 0;

	for (uint64_t bits = 0; bits < 0x100000000u || n > 0; bits += stride)
	{
		uint32_t word = (uint32_t) bits;
		float value;

		memcpy(&value, &word, 4);
		if (bits < 0x100000000u && value > functions[which].low && value < functions[which].high)
			x[n++] = value;
		if (n < BATCH && bits + stride < 0x100000000u)
			continue;
		llm_kernels->unary(functions[which].f, n, x, y);
		for (int i = 0; i < n; i++)
		{
			double want = functions[which].exact(x[i]),
				   error = ulps(y[i], want, functions[which].of_input ? x[i] : want);

			if (!(error <= worst))
			{
				worst = error;
				worst_at = x[i];
			}
		}
		n = 0;
	}
	if (show)
		printf("%-12s largest error %.3f ulp at %a\n", functions[which].name, worst, worst_at);
	if (!(worst <= functions[which].limit))
	{
		fprintf(stderr, "FAIL %s is off by %.3f ulp at %a\n", functions[which].name, worst, worst_at);
		exit(1);
	}
}

static float
one(LlmUnary f, float x)
{
	float y;

	llm_kernels->unary(f, 1, &x, &y);
	return y;
}

/* Values that must be exact. */
static void
exact_values(void)
{
	CHECK(one(LLM_EXP, 0) == 1 && one(LLM_EXP, -0.0f) == 1 && one(LLM_EXP, -INFINITY) == 0);
	CHECK(one(LLM_EXP, INFINITY) == INFINITY && one(LLM_EXP, 88.73f) == INFINITY &&
		  isfinite(one(LLM_EXP, 88.72f)));
	CHECK(one(LLM_EXP, -87.31f) == 0 && one(LLM_EXP, -87.3f) >= 0x1p-126f);
	CHECK(one(LLM_LOG, 1) == 0 && !signbit(one(LLM_LOG, 1)) && one(LLM_LOG, 0) == -INFINITY);
	CHECK(one(LLM_LOG, -0.0f) == -INFINITY && one(LLM_LOG, INFINITY) == INFINITY &&
		  isnan(one(LLM_LOG, -0x1p-149f)));
	CHECK(fabsf(one(LLM_LOG, 0x1p-149f) + 103.2789f) < 1e-4f);
	CHECK(one(LLM_TANH, INFINITY) == 1 && one(LLM_TANH, -20) == -1 && signbit(one(LLM_TANH, -0.0f)));
	CHECK(one(LLM_ERF, INFINITY) == 1 && one(LLM_ERF, -5) == -1 && signbit(one(LLM_ERF, -0.0f)));
	CHECK(
		one(LLM_GELU_TANH, 0) == 0 && one(LLM_GELU_TANH, 1e30f) == 1e30f && one(LLM_GELU_TANH, -1e30f) == 0);
	CHECK(one(LLM_SQRT, 4) == 2 && isnan(one(LLM_SQRT, -1)) && signbit(one(LLM_SQRT, -0.0f)));
	CHECK(one(LLM_RELU, -1) == 0 && isnan(one(LLM_RELU, NAN)) && one(LLM_RELU, 3) == 3);
	CHECK(one(LLM_SIGMOID, 0) == 0.5f && one(LLM_SIGMOID, INFINITY) == 1 && one(LLM_SIGMOID, -INFINITY) == 0);
	CHECK(one(LLM_SILU, 0) == 0 && one(LLM_SILU, 1e30f) == 1e30f && one(LLM_SILU, -1e30f) == 0);
	CHECK(one(LLM_SIN, 0) == 0 && signbit(one(LLM_SIN, -0.0f)) && one(LLM_COS, 0) == 1);
	CHECK(isnan(one(LLM_SIN, INFINITY)) && isnan(one(LLM_COS, -INFINITY)));
	/* the floats nearest to a multiple of pi/2, and the largest */
	CHECK(fabs(one(LLM_COS, 16367173.0f * 0x1p72f) / cos(16367173.0 * 0x1p72) - 1) < 1e-6);
	CHECK(fabs(one(LLM_SIN, 0x1.fffffep127f) / sin(0x1.fffffep127) - 1) < 1e-6);
	for (int f = LLM_NEG; f <= LLM_COS; f++)
		CHECK(isnan(one((LlmUnary) f, NAN)) && isnan(one((LlmUnary) f, -NAN)));
}

/* exp is monotonic: a softmax keeps the order of its scores. */
static void
exp_is_monotonic(void)
{
	float before = 0;

	for (float x = -88; x < 88; x += 0x1p-9f)
	{
		float y = one(LLM_EXP, x);

		CHECK(y >= before);
		before = y;
	}
}

int
main(int argc, char **argv)
{
	uint32_t stride = argc > 1 ? (uint32_t) atoi(argv[1]) : 16411;

	for (int which = 0; which < (int) (sizeof(functions) / sizeof(*functions)); which++)
		measure(which, stride, argc > 1);
	exact_values();
	exp_is_monotonic();
	return 0;
}
