/*
 * Matrices in fewer bits: the values that each format rounds to, and that products have the bits of those
 * values in float32, whatever the instruction set and the number of threads.
 */
#include <float.h>

#include "levels.h"

#include "engine/quantized.h"
#include "engine/parallel.h"

/* The nearer of the two bf16 around x; if both are equally near, the even one. */
static float
plain_bf16(float x)
{
	uint32_t bits, low;
	float down, up;
	double to_down, to_up;

	memcpy(&bits, &x, 4);
	low = bits & 0xffff0000u;
	memcpy(&down, &low, 4);
	if (down == x)
		return x;
	low += 0x10000;
	memcpy(&up, &low, 4);
	to_down = fabs((double) x - down), to_up = fabs((double) up - x);
	return to_down < to_up || (to_down == to_up && (bits & 0x10000) == 0) ? down : up;
}

static float
at(const float *b, int K, int N, bool transposed, int k, int n)
{
	return b[transposed ? (size_t) n * K + k : (size_t) k * N + n];
}

/* Integers of at most 127 times one number of 8 bits, and no element further off than half of that. */
static void
check_column(const float *b, const float *q, int K, int N, bool transposed, int from, int to, int n)
{
	float most = 0, scale;
	uint32_t bits;

	for (int k = from; k < to; k++)
		most = fmaxf(most, fabsf(at(b, K, N, transposed, k, n)));
	scale = most / 127;
	memcpy(&bits, &scale, 4);
	bits = (bits + 0xffff) & 0xffff0000u;
	memcpy(&scale, &bits, 4);
	for (int k = from; k < to; k++)
	{
		float x = at(q, K, N, transposed, k, n);
		double times = scale > 0 ? (double) x / scale : 0;

		CHECK(times == rint(times) && fabs(times) <= 127);
		CHECK(fabs((double) x - at(b, K, N, transposed, k, n)) <= scale * 0.5 * (1 + 1e-6));
	}
}

static void
check_numbers(LlmFormat format, const float *b, const float *q, int K, int N, bool transposed)
{
	if (format == LLM_BF16)
		for (size_t i = 0; i < (size_t) K * N; i++)
			CHECK(bits_of(q[i]) == bits_of(plain_bf16(b[i])));
	else
		for (int n = 0; n < N; n++)
			for (int k = 0; k < K; k += LLM_BLOCK)
				check_column(b, q, K, N, transposed, k, k + LLM_BLOCK < K ? k + LLM_BLOCK : K, n);
}

/* One quantized matrix: its format is detected; it is read back, whole and by columns, and multiplied. */
static void
matrix_case(uint64_t *state, LlmFormat format, int M, int K, int N, bool transposed)
{
	size_t size = (size_t) K * N, bytes = llm_format_bytes(format, K, N) / sizeof(float);
	float *a = odd_random(state, (size_t) M * K), *b = odd_random(state, size), *q = odd_floats(size);
	float *want = odd_floats((size_t) M * N), *column = odd_floats(K);
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmError err;

	for (size_t i = 0; i < size; i++)
		b[i] *= i % 7 == 0 ? 30 : 1;
	CHECK_OK(llm_quantize(format, K, N, transposed, b, q, &err), err);
	check_numbers(format, b, q, K, N, transposed);
	ref_matmul(M, N, K, a, q, transposed, want);
	EACH_LEVEL(isa, threads)
	{
		float *again = odd_output(size), *panels = odd_output(bytes), *back = odd_output(size);
		float *got = odd_output((size_t) M * N);
		LlmFormat found;

		CHECK_OK(llm_quantize(format, K, N, transposed, q, again, &err), err);
		check_bits("quantized twice", size, q, again);
		CHECK_OK(llm_format_of(K, N, transposed, q, &found, &err), err);
		CHECK(found == format || size == 0 || (format == LLM_BF16 && found == LLM_INT8));
		CHECK_OK(llm_compact(format, K, N, transposed, q, panels, &err), err);
		CHECK_OK(llm_widen(format, K, N, transposed, panels, back, &err), err);
		check_bits("widened", size, q, back);
		for (int n = 0; n < N; n += 1 + n / 3)
		{
			llm_widen_column(format, K, n, panels, column);
			for (int k = 0; k < K; k++)
				CHECK(bits_of(column[k]) == bits_of(at(q, K, N, transposed, k, n)));
		}
		CHECK_OK(llm_matmul_compact(format, M, N, K, a, K, panels, got, &memory, &err), err);
		check_bits("product", (size_t) M * N, want, got);
		odd_free(panels);
	}
	if (size > 1) /* an element off the grid loses the format, not the value */
	{
		LlmFormat found;

		q[size / 2] = 0.1f;
		CHECK_OK(llm_format_of(K, N, transposed, q, &found, &err), err);
		CHECK(found == LLM_FLOAT32 || K == 1);
		if (K > 1)
		{
			float *panels = odd_output(bytes);

			CHECK(llm_compact(format, K, N, transposed, q, panels, &err) == LLM_INVALID);
			odd_free(panels);
		}
	}
	odd_free(a), odd_free(b), odd_free(q), odd_free(want), odd_free(column);
}

static void
special_case(void)
{
	static const float odd[] = {NAN, INFINITY, -INFINITY};
	float zeros[8] = {0}, minus[8] = {-0.0f, 1}, tiny[8] = {1e-38f, -3e-39f, 0, 1e-32f}, out[8], big[8];
	LlmFormat found;
	LlmError err;

	for (int i = 0; i < 3; i++)
		for (LlmFormat format = LLM_BF16; format < LLM_FORMAT_COUNT; format++)
		{
			float x[8] = {1, 2, odd[i]};

			CHECK(llm_quantize(format, 4, 2, false, x, out, &err) == LLM_RANGE);
			CHECK(strstr(err.message, "element 3"));
			CHECK_OK(llm_format_of(4, 2, false, x, &found, &err), err);
			CHECK(found != LLM_INT8);
		}
	CHECK_OK(llm_format_of(4, 2, false, zeros, &found, &err), err);
	CHECK(found == LLM_INT8);
	CHECK_OK(llm_format_of(4, 2, false, minus, &found, &err), err);
	CHECK(found == LLM_BF16); /* int8 cannot represent -0 */
	CHECK_OK(llm_quantize(LLM_INT8, 4, 2, false, tiny, out, &err), err);
	for (int i = 0; i < 8; i++)
		CHECK(bits_of(out[i]) == 0); /* magnitudes whose scale would be subnormal */
	for (int i = 0; i < 8; i++)
		big[i] = i % 2 ? FLT_MAX : -FLT_MAX / 3;
	CHECK_OK(llm_quantize(LLM_INT8, 4, 2, false, big, out, &err), err);
	CHECK(isfinite(out[1]));
	CHECK(llm_quantize(LLM_BF16, 4, 2, false, big, out, &err) == LLM_RANGE); /* rounds up to infinity */
	CHECK(llm_format_named("int8") == LLM_INT8 && llm_format_named("int4") == LLM_FORMAT_COUNT);
}

int
main(void)
{
	static const int rows[] = {1, 2, 5, 15, 169}, depths[] = {1, 2, 127, 128, 129, 300};
	static const int widths[] = {1, 31, 32, 33, 65, 130};
	uint64_t state = 5;

	for (LlmFormat format = LLM_BF16; format < LLM_FORMAT_COUNT; format++)
		for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
			for (size_t j = i % 2; j < sizeof(widths) / sizeof(*widths); j += 2)
				for (size_t k = (i + j) % 3; k < sizeof(depths) / sizeof(*depths); k += 3)
					for (int transposed = 0; transposed < 2; transposed++)
						matrix_case(&state, format, rows[i], depths[k], widths[j], transposed);
	matrix_case(&state, LLM_INT8, 1, 0, 3, false);
	matrix_case(&state, LLM_BF16, 3, 4, 0, true);
	special_case();
	return 0;
}
