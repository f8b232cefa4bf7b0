/*
 * Operations in parallel on the thread pool, on every instruction set and one to three threads, compared
 * with the plain reference.
 */
#include "levels.h"

#include "engine/parallel.h"
#include "engine/reduce.h"

static uint64_t state = 8;
static LlmError err;

/* Long arrays are split into tasks; the split must not change a bit. */
static void
elementwise(size_t outer, size_t inner)
{
	size_t n = outer * inner;
	float *x = odd_random(&state, n + 1), *y = odd_random(&state, n + 1), *want = odd_floats(n);

	for (size_t i = 0; i < n; i++)
		want[i] = ref_unary(LLM_GELU_TANH, x[i]);
	EACH_LEVEL(isa, threads)
	{
		float *got = odd_output(n);

		CHECK_OK(llm_unary(LLM_GELU_TANH, n, x, got, &err), err);
		check_bits("unary", n, want, got);
	}
	for (int how = 0; how < 16; how++) /* rows and columns of x and y, repeated or not */
	{
		size_t xr = how & 1 ? (how & 2 ? inner : 1) : 0, xc = how >> 1 & 1,
			   yr = how & 4 ? (how & 8 ? inner : 1) : 0, yc = how >> 3 & 1;

		for (size_t i = 0; i < n; i++)
			want[i] = x[i / inner * xr + i % inner * xc] - y[i / inner * yr + i % inner * yc];
		EACH_LEVEL(isa, threads)
		{
			float *got = odd_output(n);

			CHECK_OK(llm_binary(LLM_SUB, outer, inner, x, how & 1, xc, y, how & 4, yc, got, &err), err);
			check_bits("binary", n, want, got);
		}
	}
	odd_free(x);
	odd_free(y);
	odd_free(want);
}

static void
rows(size_t m, int C)
{
	size_t n = m * C;
	float *x = odd_random(&state, n), *gamma = odd_random(&state, C), *beta = odd_random(&state, C);
	float *normal = odd_floats(n), *soft = odd_floats(n), *each = odd_floats(m), mean;
	int32_t *targets = malloc(4 * m + 1);
	size_t count = 0;

	for (size_t i = 0; i < m; i++)
	{
		ref_layernorm(C, x + i * C, gamma, beta, 1e-5f, normal + i * C);
		ref_softmax(C, 0, 0.5f, x + i * C, soft + i * C);
		targets[i] = test_random(&state) % 4 ? (int32_t) (test_random(&state) % C) : -100;
		each[i] = targets[i] < 0 ? 0 : ref_cross_entropy(C, x + i * C, targets[i]);
		count += targets[i] >= 0;
	}
	mean = count ? (float) (ref_sum(m, 0, each, 1, 0) / count) : 0;
	EACH_LEVEL(isa, threads)
	{
		float *a = odd_output(n), *b = odd_output(n), *c = odd_output(m), loss;

		CHECK_OK(llm_layernorm(m, C, x, gamma, beta, 1e-5f, a, &err), err);
		check_bits("layernorm", n, normal, a);
		CHECK_OK(llm_softmax(m, C, 0.5f, x, b, &err), err);
		check_bits("softmax", n, soft, b);
		CHECK_OK(llm_cross_entropy(m, C, x, targets, c, &loss, &err), err);
		check_bits("cross_entropy", m, each, c);
		CHECK(bits_of(loss) == bits_of(mean));
	}
	free(targets);
	odd_free(x);
	odd_free(gamma);
	odd_free(beta);
	odd_free(normal);
	odd_free(soft);
	odd_free(each);
}

/* The sum of a column is the sum of the same elements stored as a row, in tasks of any kind. */
static void
reductions(int64_t outer, int64_t n, int64_t inner)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	float *x = odd_random(&state, outer * n * inner), *run = odd_floats(n), *want = odd_floats(outer * inner);

	for (int kind = LLM_REDUCE_SUM; kind <= LLM_REDUCE_ARGMAX; kind++)
	{
		for (int64_t i = 0; i < outer * inner; i++)
		{
			float mean;

			for (int64_t j = 0; j < n; j++)
				run[j] = x[(i / inner * n + j) * inner + i % inner];
			mean = (float) (ref_sum(n, 0, run, 1, 0) / n);
			want[i] = kind == LLM_REDUCE_SUM      ? (float) ref_sum(n, 0, run, 1, 0)
					  : kind == LLM_REDUCE_MEAN   ? mean
					  : kind == LLM_REDUCE_VAR    ? (float) (ref_sum(n, 0, run, 2, mean) / n)
					  : kind == LLM_REDUCE_NORM   ? (float) sqrt(ref_sum(n, 0, run, 2, 0))
					  : kind == LLM_REDUCE_ARGMAX ? (float) ref_argmax(n, run)
												  : run[ref_argmax(n, run)];
			for (int64_t j = 0; kind == LLM_REDUCE_MIN && j < n; j++)
				want[i] = j == 0 || run[j] < want[i] ? run[j] : want[i];
		}
		EACH_LEVEL(isa, threads)
		{
			float *got = odd_output(outer * inner);

			CHECK_OK(llm_reduce((LlmReduction) kind, outer, n, inner, x, got, &memory, &err), err);
			check_bits("reduce", outer * inner, want, got);
			CHECK(counted.held == 0);
		}
	}
	odd_free(x);
	odd_free(run);
	odd_free(want);
}

/* The traced output of attention: scores (-inf where a query does not attend) and probabilities (0 there). */
static void
attention(int B, int T, int NH, int HS, bool causal, int window, int queries)
{
	size_t C = (size_t) NH * HS, seen = (size_t) NH * T * T;
	float *qkv = odd_random(&state, B * T * 3 * C), *want = odd_floats(B * T * C),
		  *probs = odd_floats(B * seen);
	float mask[8] = {1, 0, 2, -1, 0.5f, 1, 1, 3}, scale = 0.7f;
	LlmAttention a = llm_self_attention(B, T, NH, HS, causal);
	LlmQkv in = llm_qkv_of(&a, qkv);
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);

	a.window = window;
	a.scale = scale;
	a.head_mask = mask;
	a.queries = queries;
	for (int b = 0; b < B; b++)
		ref_attention(
			T, NH, HS, causal, window, scale, mask, qkv + b * T * 3 * C, want + b * T * C, probs + b * seen);
	EACH_LEVEL(isa, threads)
	{
		float *out = odd_output(B * queries * C), *rows = odd_output(B * queries * C);
		float *p = odd_output((size_t) B * NH * queries * T), *s = odd_output((size_t) B * NH * queries * T);
		LlmKvCache cache;

		CHECK_OK(llm_kv_create(&cache, B, NH, HS, T + 3, &memory, &err), err);
		CHECK_OK(llm_attention(&a, &in, &cache, out, s, p, &memory, &err), err);
		CHECK(cache.length == T);
		for (int i = 0; i < B * NH * queries; i++)
		{
			int t = T - queries + i % queries;
			const float *from = probs + ((size_t) (i / queries) * T + t) * T;
			float *score = s + (size_t) i * T, *all = odd_output(T);
			int first = window && t + 1 > window ? t + 1 - window : 0, last = causal ? t + 1 : T;

			memcpy(all, p + (size_t) i * T, T * sizeof(float));
			check_bits("probabilities", T, from, all);
			for (int k = 0; k < T; k++)
			{
				const float *q =
					qkv + ((size_t) (i / queries / NH) * T + t) * 3 * C + (i / queries % NH) * HS;
				const float *key =
					qkv + ((size_t) (i / queries / NH) * T + k) * 3 * C + C + (i / queries % NH) * HS;

				CHECK(
					score[k] == (k < first || k >= last ? -INFINITY : ref_dot(0, HS, q, 1, key, 1) * scale));
			}
		}
		for (int b = 0; b < B; b++)
			memcpy(rows + b * queries * C, want + (b * T + T - queries) * C, queries * C * sizeof(float));
		check_bits("attention", B * queries * C, rows, out);
		odd_free(rows);
		odd_free(p);
		odd_free(s);
		llm_kv_free(&cache, &memory);
		CHECK(counted.held == 0);
	}
	odd_free(qkv);
	odd_free(want);
	odd_free(probs);
}

/* Sizes that exceed memory, or an int: refused, without overflow. */
static void
huge_sizes(void)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmAttention a = llm_self_attention(INT32_MAX, 1, 2, 1, true);
	LlmQkv in = {NULL, NULL, NULL, 0, 0, 0};
	LlmKvCache cache;
	float x = 0;

	CHECK(llm_kv_create(&cache, INT32_MAX, 4096, INT32_MAX, INT32_MAX, &memory, &err) == LLM_LIMIT);
	CHECK(cache.k == NULL && cache.v == NULL && counted.held == 0);
	counted.fail_after = 0;
	CHECK(llm_kv_create(&cache, 1, 1, INT32_MAX, 1, &memory, &err) == LLM_NO_MEMORY);
	cache = (LlmKvCache){.B = INT32_MAX, .NH = 2, .HS = 1, .capacity = 1};
	CHECK(llm_attention(&a, &in, &cache, &x, NULL, NULL, &memory, &err) == LLM_LIMIT);
	CHECK(llm_matmul(4, 5, 6, &x, &x, false, &x, &memory, &err) == LLM_NO_MEMORY &&
		  strstr(err.message, "matmul"));
	CHECK_OK(llm_matmul_packed(INT32_MAX, 0, INT32_MAX, &x, 0, NULL, &x, &memory, &err), err);
	CHECK_OK(llm_matmul_packed(0, INT32_MAX, 0, &x, 0, NULL, &x, &memory, &err), err);
	CHECK_OK(llm_pack(0, INT32_MAX, &x, false, &x, &err), err); /* panels of no rows */
	CHECK(llm_packed_floats(INT32_MAX, INT32_MAX) == (size_t) INT32_MAX * ((size_t) 1 << 31));
}

int
main(void)
{
	elementwise(1, 0);
	elementwise(0, 5);
	elementwise(1, 50001);
	elementwise(3, 20000);
	elementwise(20000, 2);
	rows(0, 5);
	rows(1, 1);
	rows(700, 33);
	rows(5, 9001);
	reductions(1, 100000, 1);
	reductions(3, 17, 21);
	reductions(2, 5000, 3);
	reductions(1, 70000, 2);
	reductions(500, 1, 1);
	attention(1, 1, 1, 1, true, 0, 1);
	attention(2, 50, 3, 5, true, 0, 50);
	attention(2, 50, 3, 5, true, 0, 1);
	attention(1, 140, 2, 33, true, 7, 140);
	attention(1, 140, 1, 130, false, 0, 140);
	attention(1, 300, 1, 33, true, 0, 300); /* blocks of keys of which some queries attend to a part */
	attention(1, 45, 8, 2, false, 20, 44);
	huge_sizes();
	return 0;
}
