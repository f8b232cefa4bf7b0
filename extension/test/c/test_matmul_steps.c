/*
 * Products with fused steps, of every format: compared with the plain product followed by the plain steps,
 * over odd shapes, more rows than a task has and more panels; NaN, and stops in the middle.
 */
#include "levels.h"

#include "engine/quantized.h"
#include "engine/parallel.h"

static void
ref_step(const LlmStep *s, int M, int N, float *x)
{
	for (int m = 0; m < M; m++)
		for (int n = 0; n < N; n++)
		{
			float *at = x + (size_t) m * N + n;

			if (s->kind == LLM_STEP_UNARY)
				*at = ref_unary(s->f, *at);
			else
			{
				float y = s->other[m * s->row_stride + (size_t) n * s->column_stride];

				*at = s->other_first ? ref_binary(s->op, y, *at) : ref_binary(s->op, *at, y);
			}
		}
}

/* x @ b, then a bias, an activation and what a learner might use in place of a residual. */
static void
steps_case(int M, int N, int K, LlmFormat format)
{
	uint64_t state = M * 31 + N * 7 + K;
	size_t n = (size_t) M * N, lda = K + 3;
	float *a = odd_random(&state, M * lda + 1), *rows = odd_floats((size_t) M * K);
	float *b = odd_random(&state, (size_t) K * N), *want = odd_floats(n);
	float *full = odd_random(&state, n), *row = odd_random(&state, N + 1);
	void *panels = aligned_alloc(64, (llm_format_bytes(format, K, N) + 127) / 64 * 64);
	LlmStep steps[] = {{.kind = LLM_STEP_BINARY, .op = LLM_ADD, .other = row, .column_stride = 1},
		{.kind = LLM_STEP_UNARY, .f = LLM_GELU_TANH},
		{.kind = LLM_STEP_BINARY,
			.op = LLM_SUB,
			.other_first = true,
			.other = full,
			.row_stride = N,
			.column_stride = 1},
		{.kind = LLM_STEP_BINARY, .op = LLM_MUL, .other = row}, {.kind = LLM_STEP_UNARY, .f = LLM_TANH},
		{.kind = LLM_STEP_BINARY,
			.op = LLM_ADD,
			.other_first = true,
			.other = full,
			.row_stride = N,
			.column_stride = 1}};
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmError err;

	CHECK_OK(llm_quantize(format, K, N, false, b, b, &err), err);
	CHECK_OK(llm_compact(format, K, N, false, b, panels, &err), err);
	for (int m = 0; m < M; m++)
		memcpy(rows + (size_t) m * K, a + m * lda, K * sizeof(float));
	ref_matmul(M, N, K, rows, b, false, want);
	for (int count = 0; count <= 6; count += 6)
	{
		for (int i = 0; i < count; i++)
			ref_step(&steps[i], M, N, want);
		EACH_LEVEL(isa, threads)
		{
			float *got = odd_output(n);

			CHECK_OK(
				llm_matmul_steps(format, M, N, K, a, lda, panels, count, steps, got, &memory, &err), err);
			check_bits("a product with steps", n, want, got);
		}
	}
	odd_free(a);
	odd_free(rows);
	odd_free(b);
	odd_free(full);
	odd_free(row);
	odd_free(want);
	free(panels);
}

static void
canonical_case(void)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	uint32_t odd_nan = 0xffc12345u;
	float a[2] = {1, 1}, *b = odd_floats(37), *panels = malloc(llm_packed_floats(1, 37) * sizeof(float));
	LlmStep step = {.kind = LLM_STEP_CANONICALIZE};
	LlmError err;

	for (int n = 0; n < 37; n++)
		b[n] = n;
	memcpy(b + 35, &odd_nan, sizeof(float));
	CHECK_OK(llm_pack(1, 37, b, false, panels, &err), err);
	EACH_LEVEL(isa, threads)
	for (int M = 1; M <= 2; M++)
	{
		float got[74];
		uint32_t bits;

		CHECK_OK(llm_matmul_steps(LLM_FLOAT32, M, 37, 1, a, 1, panels, 1, &step, got, &memory, &err), err);
		memcpy(&bits, got + 37 * M - 2, sizeof(bits));
		CHECK(bits == 0x7fc00000u && got[37 * M - 1] == 36);
	}
	odd_free(b);
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
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	static float a[200 * 40], panels[40 * 512], out[200 * 512];
	LlmError err;

	for (int polls = 0; polls < 3; polls++)
	{
		polls_left = polls;
		llm_pool_configure(1, stop_at_poll);
		CHECK_FAILS(llm_matmul_steps(LLM_FLOAT32, 200, 512, 40, a, 40, panels, 0, NULL, out, &memory, &err),
			LLM_CANCELED, "", err);
	}
	llm_pool_configure(2, NULL);
	CHECK_OK(llm_matmul_steps(LLM_FLOAT32, 200, 512, 40, a, 40, panels, 0, NULL, out, &memory, &err), err);
}

int
main(void)
{
	static const int sizes[][3] = {{1, 1, 1}, {2, 16, 0}, {15, 31, 128}, {90, 33, 130}, {1, 1700, 130},
		{43, 800, 20}, {113, 385, 129}, {200, 400, 9}, {0, 40, 3}, {20, 0, 5}};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		for (int format = 0; format < LLM_FORMAT_COUNT; format++)
			steps_case(sizes[i][0], sizes[i][1], sizes[i][2], (LlmFormat) format);
	steps_case(400, 70, 300, LLM_FLOAT32); /* blocks of rows */
	canonical_case();
	ends_early();
	return 0;
}
