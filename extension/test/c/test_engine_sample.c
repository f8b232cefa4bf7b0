/*
 * Choosing a token: comparison with a plain sort of all tokens, for many draws; ties, limits, and logits
 * from which no choice is possible.
 */
#include "levels.h"

#include "engine/sample.h"

#define V 300

static const float *sorting;

static int
compare(const void *a, const void *b)
{
	int x = *(const int *) a, y = *(const int *) b;

	return sorting[x] != sorting[y] ? (sorting[x] > sorting[y] ? -1 : 1) : x - y;
}

/*
 * The plain rule: sort, keep topk, keep the fewest of those whose probabilities reach topp, of them those
 * with min_p of the first one's, accumulate up to the draw.
 */
static int
plain_sample(const LlmSampling *how, const float *logits, double u)
{
	int order[V], kept = how->topk > 0 && how->topk < V ? how->topk : V, n = 0;
	double weight[V], total = 0, sum = 0, walked = 0;

	for (int i = 0; i < V; i++)
		order[i] = i;
	sorting = logits;
	qsort(order, V, sizeof(int), compare);
	if (how->temperature == 0 || kept == 1)
		return order[0];
	for (int i = 0; i < V; i++)
		weight[i] = ref_exp((float) (((double) logits[order[i]] - logits[order[0]]) / how->temperature));
	if (kept < V)
		for (int i = 0; i < kept; i++)
			total += weight[i];
	else /* all tokens: added by id */
		for (int id = 0; id < V; id++)
			total += ref_exp((float) (((double) logits[id] - logits[order[0]]) / how->temperature));
	do
		sum += weight[n++];
	while (n < kept && (how->topp >= 1 || sum < how->topp * total) && weight[n] >= how->min_p * weight[0]);
	for (int i = 0; i < n; i++)
		if (u * sum < (walked += weight[i]))
			return order[i];
	return order[n - 1];
}

static void
against_a_sort(void)
{
	static const double temperatures[] = {0, 1e-300, 0.1, 1, 2.5, 1e6},
						topps[] = {1e-9, 0.1, 0.5, 0.9, 0.999, 1};
	static const int topks[] = {0, 1, 2, 50, V - 1, V, V + 1, INT32_MAX};
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	uint64_t state = 6;
	float logits[V];
	LlmError err;

	for (int round = 0; round < 4; round++)
	{
		for (int i = 0; i < V; i++) /* with ties, with impossible tokens, almost all equal */
			logits[i] = round == 3   ? i % 2
						: round == 1 ? (float) (test_random(&state) % 5)
									 : 8 * test_uniform(&state);
		if (round == 2)
			for (int i = 0; i < V; i += 1 + i % 3)
				logits[i] = -INFINITY;
		for (int i = 0; i < 6 * 6 * 8; i++)
		{
			LlmSampling how = {temperatures[i % 6], topks[i / 36], topps[i / 6 % 6], .repetition_penalty = 1};

			CHECK_OK(llm_sampling_check(&how, &err), err);
			for (int draw = 0; draw < 12; draw++)
			{
				how.min_p = (double[]){0, 0.05, 1}[draw % 3];
				double u = draw == 0 ? 0 : draw == 1 ? 1 - 0x1p-53 : (test_random(&state) >> 11) * 0x1p-53;
				int want = plain_sample(&how, logits, u);
				int32_t id = -1;

				llm_set_isa((LlmIsa) (draw % LLM_ISA_COUNT)); /* no effect if this machine lacks it */
				CHECK_OK(llm_sample(&how, V, logits, u, &memory, &id, &err), err);
				CHECK(id == want && (how.topk != 1 || logits[id] != -INFINITY));
			}
		}
	}
	CHECK(counted.held == 0);
}

/* Logits of few tokens, after sequences with many repetitions. */
static void
penalties(void)
{
	enum
	{
		FEW = 7
	};
	uint64_t state = 8;
	float logits[FEW], out[FEW];
	int32_t ids[40];
	LlmError err;

	for (int round = 0; round < 2000; round++)
	{
		int count = (int) (test_random(&state) % 40), n = round % 6;
		LlmSampling how = {.repetition_penalty = (double[]){1, 1.5, 0.25}[round % 3], .no_repeat_ngram = n};
		bool left = false;

		for (int i = 0; i < count; i++) /* one of them has no logit */
			ids[i] = (int32_t) (test_random(&state) % (FEW + 1));
		for (int i = 0; i < FEW; i++)
			logits[i] = 4 * test_uniform(&state);
		llm_penalize(&how, count, ids, FEW, logits, out, &err);
		for (int id = 0; id < FEW; id++)
		{
			float penalty = (float) how.repetition_penalty, want = logits[id];
			bool seen = false, again = false;

			for (int i = 0; i < count; i++)
				seen |= ids[i] == id;
			for (int i = 0; n > 0 && i <= count - n; i++)
			{
				bool equal = ids[i + n - 1] == id;

				for (int j = 0; j < n - 1; j++)
					equal &= ids[i + j] == ids[count - n + 1 + j];
				again |= equal;
			}
			if (seen)
				want = want < 0 ? want * penalty : want / penalty;
			CHECK(out[id] == (again ? -INFINITY : want));
			left |= !again;
		}
		CHECK(left || (err.code == LLM_INVALID && err.hint[0] != 0));
	}
}

static void
top(void)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmCandidate best[V + 5];
	uint64_t state = 7;
	float logits[V];
	double sum = 0;
	LlmError err;

	for (int i = 0; i < V; i++)
		logits[i] = (float) (test_random(&state) % 40) / 4;
	CHECK_OK(llm_top(V, logits, V + 5, best, &memory, &err), err);
	for (int i = 0; i < V; i++)
	{
		CHECK(best[i].logit == logits[best[i].id]);
		CHECK(i == 0 || best[i - 1].logit > best[i].logit ||
			  (best[i - 1].logit == best[i].logit && best[i - 1].id < best[i].id));
		sum += best[i].probability;
	}
	CHECK(fabs(sum - 1) < 1e-9);
	CHECK_OK(llm_top(V, logits, 0, best, &memory, &err), err);
	CHECK(counted.held == 0);
	counted.fail_after = 0;
	CHECK_FAILS(llm_top(V, logits, 3, best, &memory, &err), LLM_NO_MEMORY, "300 tokens", err);
}

static void
refusals(void)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmSampling how = {1, 0, 1},
				bad[] = {{-1, 0, 1}, {NAN, 0, 1}, {INFINITY, 0, 1}, {1, -1, 1}, {1, 0, 0}, {1, 0, -1},
					{1, 0, 1.1}, {1, 0, NAN}, {1, 0, 1, -1, 1}, {1, 0, 1, 1.1, 1}, {1, 0, 1, NAN, 1},
					{1, 0, 1, 0, 0}, {1, 0, 1, 0, -2}, {1, 0, 1, 0, NAN}, {1, 0, 1, 0, 1, -1}};
	float nan[3] = {1, NAN, 2}, none[3] = {-INFINITY, -INFINITY, -INFINITY}, inf[3] = {1, INFINITY, 2},
		  one[1] = {-3};
	LlmCandidate best[3];
	int32_t id;
	LlmError err;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		CHECK(llm_sampling_check(&bad[i], &err) == LLM_INVALID && err.hint[0] != 0);
	CHECK_FAILS(llm_sample(&how, 3, nan, 0.5, &memory, &id, &err), LLM_INVALID, "token 1 is NaN", err);
	CHECK_FAILS(llm_sample(&how, 3, none, 0.5, &memory, &id, &err), LLM_INVALID, "minus infinite", err);
	CHECK_FAILS(llm_sample(&how, 3, inf, 0.5, &memory, &id, &err), LLM_INVALID, "infinite", err);
	CHECK_FAILS(llm_sample(&how, 0, NULL, 0.5, &memory, &id, &err), LLM_INVALID, "no logits", err);
	CHECK_FAILS(llm_top(3, nan, 3, best, &memory, &err), LLM_INVALID, "NaN", err);
	CHECK_OK(llm_sample(&how, 1, one, 0.9, &memory, &id, &err), err);
	CHECK(id == 0);
	counted.fail_after = 0;
	CHECK_FAILS(
		llm_sample(&how, 3, (float[]){1, 2, 3}, 0.5, &memory, &id, &err), LLM_NO_MEMORY, "3 tokens", err);
	CHECK(counted.held == 0);
}

int
main(void)
{
	against_a_sort();
	penalties();
	top();
	refusals();
	return 0;
}
