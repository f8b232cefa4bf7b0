/*
 * The products of matmul's backward pass: row-major weights and panels give the bits of one product of the
 * transposed operand, over shapes that are odd, larger than a block, or empty.
 */
#include "engine/gradients.h"
#include "levels.h"

/* b (n,k) = a (k,n)^T */
static float *
turned(int k, int n, const float *a)
{
	float *b = odd_floats((size_t) k * n);

	for (int i = 0; i < k; i++)
		for (int j = 0; j < n; j++)
			b[(size_t) j * k + i] = a[(size_t) i * n + j];
	return b;
}

static float *
copy(size_t n, const float *x)
{
	return memcpy(odd_output(n), x, n * sizeof(float));
}

/* The panels' elements as (K,N); their unused columns must be zero. */
static float *
unpacked(int K, int N, const float *panels)
{
	float *b = odd_output((size_t) K * N);

	for (size_t i = 0; i < llm_packed_floats(K, N); i++)
	{
		int n = (int) (i / LLM_PANEL / K * LLM_PANEL + i % LLM_PANEL);

		if (n < N)
			b[i / LLM_PANEL % K * N + n] = panels[i];
		else
			CHECK(panels[i] == 0);
	}
	return b;
}

static void
case_of(int M, int N, int K)
{
	uint64_t state = M * 1000003 + N * 1009 + K;
	size_t size = (size_t) K * N, packed = llm_packed_floats(K, N);
	float *x = odd_random(&state, (size_t) M * K), *dy = odd_random(&state, (size_t) M * N);
	float *w = odd_random(&state, size), *wt = turned(K, N, w), *xt = turned(M, K, x);
	float *before = odd_random(&state, size), *before_t = turned(K, N, before);
	float *panels = aligned_alloc(64, (packed + 16) * sizeof(float) / 64 * 64);
	float *dw_panels = aligned_alloc(64, (packed + 16) * sizeof(float) / 64 * 64);

	EACH_LEVEL(isa, threads)
	{
		TestMemory counted;
		LlmAllocator memory = test_allocator(&counted);
		float *dx = odd_output((size_t) M * K), *got = odd_output((size_t) M * K), *sum = odd_output(size);
		float *dw, *dwt;
		LlmError err;

		/* the products of the transposed matrices, block by block when they are accumulated */
		CHECK_OK(llm_matmul(M, K, N, dy, wt, false, dx, &memory, &err), err);
		CHECK_OK(llm_matmul_dx(M, N, K, dy, w, false, got, &memory, &err), err);
		check_bits("dx", (size_t) M * K, dx, got);
		got = odd_output((size_t) M * K);
		CHECK_OK(llm_matmul_dx(M, N, K, dy, wt, true, got, &memory, &err), err);
		check_bits("dx transposed", (size_t) M * K, dx, got);
		got = odd_output((size_t) M * K);
		CHECK_OK(llm_pack(K, N, w, false, panels, &err), err);
		CHECK_OK(llm_matmul_dx_panels(M, N, K, dy, panels, got, &memory, &err), err);
		check_bits("dx of panels", (size_t) M * K, dx, got);

		dw = copy(size, before);
		for (int m = 0; m < M; m += LLM_BLOCK)
		{
			int mc = M - m < LLM_BLOCK ? M - m : LLM_BLOCK;
			float *part = turned(mc, K, x + (size_t) m * K);

			CHECK_OK(llm_matmul(K, N, mc, part, dy + (size_t) m * N, false, sum, &memory, &err), err);
			for (size_t i = 0; i < size; i++)
				dw[i] += sum[i];
			odd_free(part);
		}
		got = copy(size, before);
		CHECK_OK(llm_matmul_dw(M, N, K, x, dy, false, got, &memory, &err), err);
		check_bits("dw", size, dw, got);
		dwt = copy(size, before_t);
		CHECK_OK(llm_matmul_dw(M, N, K, x, dy, true, dwt, &memory, &err), err);
		got = turned(N, K, dwt);
		check_bits("dw transposed", size, dw, copy(size, got));
		odd_free(got);
		CHECK_OK(llm_pack(K, N, before, false, dw_panels, &err), err);
		CHECK_OK(llm_matmul_dw_panels(M, N, K, x, dy, dw_panels, &memory, &err), err);
		check_bits("dw in panels", size, dw, unpacked(K, N, dw_panels));
		odd_free(dw);
		odd_free(dwt);
		odd_free(sum);
		odd_free(dx);
		CHECK(counted.held == 0);
	}
	free(panels);
	free(dw_panels);
	odd_free(x);
	odd_free(xt);
	odd_free(dy);
	odd_free(w);
	odd_free(wt);
	odd_free(before);
	odd_free(before_t);
}

/*
 * Thousands of rows to sum over, more rows than are packed at once: memory is allocated in pieces smaller
 * than the weight.
 */
static void
takes_a_piece(int M, int N, int K)
{
	uint64_t state = 1;
	float *dy = odd_random(&state, (size_t) M * N), *w = odd_random(&state, (size_t) K * N);
	float *want = odd_output((size_t) M * K), *got = odd_output((size_t) M * K);
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmError err;

	CHECK_OK(llm_matmul(M, K, N, dy, w, false, want, &memory, &err), err);
	counted.peak = 0;
	CHECK_OK(llm_matmul_dx(M, N, K, dy, w, true, got, &memory, &err), err);
	CHECK(counted.peak <= (size_t) 9 << 20);
	check_bits("dx in pieces", (size_t) M * K, want, got);
	odd_free(want);
	odd_free(dy);
	odd_free(w);
}

int
main(void)
{
	static const int sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {128, 32, 32}, {129, 33, 31}, {130, 70, 200},
		{5, 300, 2}, {300, 2, 45}, {1, 260, 64}, {257, 131, 14}, {0, 4, 5}, {4, 0, 5}, {4, 5, 0}};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		case_of(sizes[i][0], sizes[i][1], sizes[i][2]);
	takes_a_piece(300, 9000, 1200);
	takes_a_piece(2500, 1000, 70);
	return 0;
}
