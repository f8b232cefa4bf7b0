/*
 * Attention in chunks of queries: the same bits for every chunk size, forward and backward, on every
 * instruction set and number of threads; and never more scores in memory than those of a chunk.
 */
#include <math.h>

#include "engine/gradients.h"
#include "levels.h"

#define SEQUENCES 2
#define HEADS 3
#define SIZE 21
#define WIDTH (HEADS * SIZE)

typedef struct Run
{
	float *out, *dqkv;
	size_t peak_out, peak_dqkv; /* of memory, without the inputs, results and cache */
} Run;

static Run
run(const LlmAttention *a, const float *qkv, const float *dy)
{
	size_t n = (size_t) SEQUENCES * a->T * WIDTH;
	Run r = {.out = odd_output(n), .dqkv = odd_output(3 * n)};
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmQkv in = llm_qkv_of(a, qkv);
	LlmQkvGradient to = llm_dqkv_of(a, r.dqkv);
	LlmKvCache cache;
	LlmError err;

	CHECK_OK(llm_kv_create(&cache, SEQUENCES, HEADS, SIZE, a->T, &memory, &err), err);
	counted.peak = counted.held;
	CHECK_OK(llm_attention(a, &in, &cache, r.out, NULL, NULL, &memory, &err), err);
	r.peak_out = counted.peak - counted.held;
	llm_kv_free(&cache, &memory);
	counted.peak = 0;
	CHECK_OK(llm_attention_backward(a, &in, dy, &to, &memory, &err), err);
	r.peak_dqkv = counted.peak;
	CHECK(counted.held == 0);
	return r;
}

static void
every_chunk(LlmAttention a, bool infinite)
{
	uint64_t state = 3;
	size_t n = (size_t) SEQUENCES * a.T * WIDTH;
	float *qkv = odd_random(&state, 3 * n), *dy = odd_random(&state, n);
	Run first = {.out = NULL};

	a.B = SEQUENCES;
	a.S = a.T;
	a.NH = a.KV = HEADS;
	a.HS = SIZE;
	a.queries = a.T;
	a.scale = 0.3f;
	if (infinite) /* only this query and the keys it attends to are affected */
		dy[n / 3] = INFINITY;
	EACH_LEVEL(isa, threads)
	{
		static const int chunks[] = {128, 256, 384, 1024};

		for (int i = 0; i < 4; i++)
		{
			Run r;

			llm_attention_chunk = chunks[i];
			r = run(&a, qkv, dy);
			if (first.out)
			{
				check_bits("attention", n, first.out, r.out);
				check_bits("attention's gradient", 3 * n, first.dqkv, r.dqkv);
			}
			else
				first = r;
		}
	}
	llm_attention_chunk = LLM_BLOCK;
	odd_free(first.out);
	odd_free(first.dqkv);
	odd_free(qkv);
	odd_free(dy);
}

/*
 * Scores of 128 of 1024 queries, not of all of them: the rest of the memory has the size of queries and
 * keys.
 */
static void
takes_a_chunk(void)
{
	LlmAttention a = llm_self_attention(SEQUENCES, 1024, HEADS, SIZE, true);
	uint64_t state = 4;
	size_t n = (size_t) SEQUENCES * a.T * WIDTH, scores = 1024 * sizeof(float),
		   keys = 64 * 1024 * sizeof(float);
	float *qkv = odd_random(&state, 3 * n), *dy = odd_random(&state, n);

	for (int chunk = 128; chunk <= 1024; chunk *= 8)
	{
		Run r;

		llm_attention_chunk = chunk;
		llm_pool_configure(2, NULL);
		r = run(&a, qkv, dy);
		CHECK(r.peak_out <= 2 * chunk * scores);
		CHECK(r.peak_out >= 2 * (chunk - 42) * scores);
		CHECK(r.peak_dqkv <= 2 * (2 * chunk * scores + 128 * scores + 6 * keys));
		CHECK(r.peak_dqkv >= 2 * 2 * chunk * scores);
		odd_free(r.out);
		odd_free(r.dqkv);
	}
	llm_attention_chunk = LLM_BLOCK;
	odd_free(qkv);
	odd_free(dy);
}

int
main(void)
{
	static const float mask[HEADS] = {1, 0, -0.5f};
	LlmStream stream = llm_stream(7, "attention", 1, 0);

	every_chunk((LlmAttention){.T = 1, .causal = true}, false);
	every_chunk((LlmAttention){.T = 130, .causal = true}, false);
	every_chunk((LlmAttention){.T = 300, .causal = true}, false);
	every_chunk((LlmAttention){.T = 300, .causal = true}, true);
	every_chunk((LlmAttention){.T = 300, .causal = true, .dropout = 0.2f, .stream = stream}, false);
	every_chunk((LlmAttention){.T = 270, .causal = true, .window = 50, .head_mask = mask}, false);
	every_chunk((LlmAttention){.T = 260, .window = 140}, false);
	every_chunk((LlmAttention){.T = 256, .head_mask = mask}, true);
	takes_a_chunk();
	return 0;
}
