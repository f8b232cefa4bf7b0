/* Every rung of the ladder of kernels adds in the order of the plain triple loop: it gives the same bits. */
#include "levels.h"

#include "engine/matmul_ladder.h"

static bool
stop_at_once(void)
{
	return true;
}

static void
rungs_case(int M, int K, int N)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	uint64_t state = M * 1000 + K * 10 + N;
	float *a = odd_random(&state, (size_t) M * K), *b = odd_random(&state, (size_t) K * N);
	float *panels = odd_floats(llm_packed_floats(K, N)), *want = odd_floats((size_t) M * N);
	LlmError err;

	ref_matmul(M, N, K, a, b, false, want);
	EACH_LEVEL(isa, threads)
	{
		CHECK_OK(llm_pack(K, N, b, false, panels, &err), err);
		for (int rung = 0; rung < LLM_RUNGS; rung++)
		{
			float *out = odd_output((size_t) M * N);

			CHECK_OK(llm_rung_matmul(rung, M, K, N, a, b, panels, out, &memory, &err), err);
			check_bits(llm_rung_name(rung), (size_t) M * N, want, out);
		}
	}
	odd_free(a);
	odd_free(b);
	odd_free(panels);
	odd_free(want);
}

int
main(void)
{
	static const int sizes[][3] = {{1, 1, 1}, {2, 128, 4}, {3, 129, 5}, {7, 300, 45}, {85, 256, 33},
		{1, 700, 64}, {0, 3, 4}, {3, 0, 4}, {3, 4, 0}};
	float x[4] = {1, 2, 3, 4}, panels[64] = {0}, out[4];
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmError err;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		rungs_case(sizes[i][0], sizes[i][1], sizes[i][2]);
	for (int rung = 0; rung < LLM_RUNGS; rung++)
		CHECK(llm_rung_find(llm_rung_name(rung)) == rung && *llm_rung_idea(rung));
	CHECK(llm_rung_find("") == -1 && llm_rung_find("fast") == -1);
	llm_pool_configure(2, stop_at_once);
	for (int rung = 0; rung < LLM_RUNGS; rung++)
		CHECK(llm_rung_matmul(rung, 2, 2, 2, x, x, panels, out, &memory, &err) == LLM_CANCELED);
	return 0;
}
