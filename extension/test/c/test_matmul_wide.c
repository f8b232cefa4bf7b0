/*
 * Products of many rows: the bits of a product of few, of every format, with and without what follows it,
 * over shapes that are odd and more rows than are packed at once; stops and missing memory.
 */
#include "engine/compact.h"
#include "engine/ops.h"
#include "levels.h"

static void
case_of(int M, int N, int K, LlmFormat format, bool steps)
{
	uint64_t state = M * 31 + N * 7 + K;
	size_t lda = K + 3, n = (size_t) M * N;
	float *a = odd_random(&state, M * lda + 1), *b = odd_random(&state, (size_t) K * N);
	float *bias = odd_random(&state, N), *x = odd_random(&state, n);
	void *panels = aligned_alloc(64, (llm_format_bytes(format, K, N) + 127) / 64 * 64);
	LlmStep step[] = {{.kind = LLM_STEP_BINARY, .op = LLM_ADD, .other = bias, .column_stride = 1},
		{.kind = LLM_STEP_UNARY, .f = LLM_GELU_TANH},
		{.kind = LLM_STEP_BINARY, .op = LLM_ADD, .other = x, .row_stride = N, .column_stride = 1}};
	float *first = NULL;
	LlmError err;

	CHECK_OK(llm_quantize(format, K, N, false, b, b, &err), err);
	CHECK_OK(llm_compact(format, K, N, false, b, panels, &err), err);
	EACH_LEVEL(isa, threads)
	{
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		float *want = odd_output(n), *got = odd_output(n);
		int count = steps ? 3 : 0;

		CHECK_OK(llm_matmul_steps(format, M, N, K, a, lda, panels, count, step, want, &err), err);
		CHECK_OK(llm_matmul_wide(format, M, N, K, a, lda, panels, count, step, got, &memory, &err), err);
		CHECK(counted.held == 0 && counted.peak <= (size_t) 9 << 20);
		check_bits("a wide product", n, want, got);
		if (first)
			check_bits("a product", n, first, want);
		else
			first = want;
	}
	odd_free(first);
	odd_free(a);
	odd_free(b);
	odd_free(bias);
	odd_free(x);
	free(panels);
}

static long polls_left;

static bool
stop_at_poll(void)
{
	return polls_left-- <= 0;
}

static void
ends_early(void)
{
	static float a[200 * 40], panels[40 * 512], out[200 * 512];
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmError err;

	counted.fail_after = 0;
	llm_pool_configure(2, NULL);
	CHECK_FAILS(llm_matmul_wide(LLM_FLOAT32, 200, 512, 40, a, 40, panels, 0, NULL, out, &memory, &err),
		LLM_NO_MEMORY, "packed rows", err);
	counted.fail_after = -1;
	for (int polls = 0; polls < 3; polls++)
	{
		polls_left = polls;
		llm_pool_configure(1, stop_at_poll);
		CHECK_FAILS(llm_matmul_wide(LLM_FLOAT32, 200, 512, 40, a, 40, panels, 0, NULL, out, &memory, &err),
			LLM_CANCELED, "", err);
		CHECK(counted.held == 0);
	}
	llm_pool_configure(2, NULL);
	CHECK_OK(llm_matmul_wide(LLM_FLOAT32, 200, 512, 40, a, 40, panels, 0, NULL, out, &memory, &err), err);
}

int
main(void)
{
	static const int sizes[][3] = {{112, 400, 20}, {113, 385, 129}, {300, 390, 257}, {1, 400, 9},
		{128, 31, 5}, {0, 400, 3}, {200, 400, 0}, {200, 0, 5}};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		for (int format = 0; format < LLM_FORMAT_COUNT; format++)
			for (int steps = 0; steps < 2; steps++)
				case_of(sizes[i][0], sizes[i][1], sizes[i][2], (LlmFormat) format, steps);
	case_of(340, 386, 10000, LLM_FLOAT32, true); /* rows in three pieces */
	ends_early();
	return 0;
}
