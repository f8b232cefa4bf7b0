/*
 * Random numbers: Philox's published answers, pieces that agree with the whole, and the distribution of the
 * results.
 */
#include "levels.h"

#include "engine/sql_layers.h"
#include "kernels/random.h"

/* Known answers of Random123 (Salmon et al., 2011): counter, key, result. */
static void
known_answers(void)
{
	static const uint32_t cases[3][10] = {{0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
		{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e,
			0xa20bc7c6, 0x6d5451fd},
		{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb,
			0x5001e420, 0x24126ea1}};

	for (int i = 0; i < 3; i++)
	{
		const uint32_t *c = cases[i];
		LlmStream stream = {{c[4], c[5]}, c[2], c[3]};
		uint32_t out[4];

		llm_philox(&stream, (uint64_t) c[1] << 32 | c[0], out);
		CHECK(memcmp(out, c + 6, sizeof(out)) == 0);
	}
}

/*
 * A number depends on its position alone: any piece of a tensor, by any thread, has the values of the whole.
 */
static void
parts(void)
{
	LlmStream stream = llm_stream(42, "h.0.attn.c_attn.weight", 0, 0);
	size_t n = 40001;
	float *whole = malloc(n * sizeof(float)), *part = malloc(n * sizeof(float));
	LlmError err;

	llm_normal(&stream, 0, n, 0.02f, whole);
	for (size_t first = 0; first < 30; first++)
	{
		llm_normal(&stream, first, 17, 0.02f, part);
		CHECK(memcmp(part, whole + first, 17 * sizeof(float)) == 0);
	}
	EACH_LEVEL(isa, threads)
	{
		CHECK_OK(llm_normal_fill(&stream, 0.02f, n, part, &err), err);
		CHECK(memcmp(part, whole, n * sizeof(float)) == 0);
	}
	free(whole);
	free(part);
}

static void
moments(void)
{
	LlmStream stream = llm_stream(7, "x", 3, 1);
	size_t n = 1 << 18, above = 0;
	float *x = malloc(n * sizeof(float));
	double mean = 0, square = 0, fourth = 0, uniform = 0;

	llm_normal(&stream, 0, n, 1, x);
	for (size_t i = 0; i < n; i++)
	{
		double u = llm_uniform(&stream, i);

		CHECK(u >= 0 && u < 1 && isfinite(x[i]));
		mean += x[i] / n;
		square += (double) x[i] * x[i] / n;
		fourth += pow(x[i], 4) / n;
		above += x[i] > 1.959964;
		uniform += u / n;
	}
	CHECK(fabs(mean) < 0.01 && fabs(square - 1) < 0.015 && fabs(fourth - 3) < 0.1);
	CHECK(fabs((double) above / n - 0.025) < 0.002 && fabs(uniform - 0.5) < 0.003);
	free(x);
}

/* Box-Muller in float64 with libm's functions, whose last bits may differ. */
static void
against_libm(void)
{
	LlmStream stream = llm_stream(1, "wte.weight", 0, 0);

	for (uint64_t block = 0; block < 20000; block++)
	{
		uint32_t w[4];
		float x[4];

		llm_philox(&stream, block, w);
		llm_normal(&stream, block * 4, 4, 1, x);
		for (int i = 0; i < 4; i++)
		{
			double radius = sqrt(-2 * log((w[i & 2] + 1.0) / 4294967296.0)),
				   a = 2 * M_PI * w[(i & 2) + 1] / 4294967296.0;

			CHECK(fabs(x[i] - radius * (i & 1 ? sin(a) : cos(a))) <= 1e-6);
		}
	}
}

/* Other seeds, names, steps and micro-batches give other streams. */
static void
streams(void)
{
	LlmStream base = llm_stream(5, "a", 0, 0),
			  others[] = {llm_stream(6, "a", 0, 0), llm_stream(5, "b", 0, 0), llm_stream(5, "a", 1, 0),
				  llm_stream(5, "a", 0, 1), llm_stream(5, "", 0, 0),
				  llm_stream(5u + (1ull << 63), "a", 0, 0)};

	for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
		CHECK(llm_uniform(&base, 0) != llm_uniform(&others[i], 0));
	CHECK(llm_uniform(&base, 0) != llm_uniform(&base, 1) &&
		  llm_uniform(&base, 0) != llm_uniform(&base, 1ull << 40));
}

static void
dropout(void)
{
	LlmStream stream = llm_stream(9, "drop", 0, 0);
	size_t n = 50000, kept = 0;
	float *x = malloc(n * sizeof(float)), *want = malloc(n * sizeof(float)), *got = malloc(n * sizeof(float));
	LlmError err;

	for (size_t i = 0; i < n; i++)
		x[i] = (float) i;
	llm_set_isa(LLM_ISA_SCALAR);
	CHECK_OK(llm_dropout(&stream, 0.25f, true, n, x, want, &err), err);
	for (size_t i = 1; i < n; i++)
	{
		CHECK(want[i] == 0 || want[i] == x[i] * (1 / 0.75f));
		kept += want[i] != 0;
	}
	CHECK(kept > 0.74 * n && kept < 0.76 * n);
	EACH_LEVEL(isa, threads)
	{
		CHECK_OK(llm_dropout(&stream, 0.25f, true, n, x, got, &err), err);
		CHECK(memcmp(got, want, n * sizeof(float)) == 0);
	}
	CHECK_OK(llm_dropout(&stream, 0.25f, false, n, x, got, &err), err);
	CHECK(memcmp(got, x, n * sizeof(float)) == 0);
	CHECK_OK(llm_dropout(&stream, 0, true, n, x, got, &err), err);
	CHECK(memcmp(got, x, n * sizeof(float)) == 0);
	CHECK_OK(llm_dropout(&stream, 1, true, n, x, got, &err), err);
	for (size_t i = 0; i < n; i++)
		CHECK(got[i] == 0);
	CHECK_OK(llm_dropout(&stream, 0.5f, true, 0, x, got, &err), err);
	CHECK_FAILS(llm_dropout(&stream, 1.5f, true, n, x, got, &err), LLM_INVALID, "1.5", err);
	CHECK_FAILS(llm_dropout(&stream, NAN, true, n, x, got, &err), LLM_INVALID, "NaN", err);
	free(x);
	free(want);
	free(got);
}

int
main(void)
{
	known_answers();
	parts();
	moments();
	against_libm();
	streams();
	dropout();
	return 0;
}
