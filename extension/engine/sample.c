/*
 * Candidates are popped from a heap in order of descending logit (ties: lowest id first), so only as many
 * are sorted as the choice needs. Probabilities come from the kernels' exp and are added in float64 in a
 * fixed order.
 */
#include <math.h>
#include <string.h>

#include "engine/pool.h"
#include "engine/rows.h"
#include "engine/sample.h"

/* Candidates between two polls of the stop function. */
#define FEW 4096

static bool
before(const LlmCandidate *a, const LlmCandidate *b)
{
	return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void
sift_down(LlmCandidate *heap, int n, int at)
{
	LlmCandidate moving = heap[at];

	for (int child; (child = 2 * at + 1) < n; at = child)
	{
		if (child + 1 < n && before(&heap[child + 1], &heap[child]))
			child++;
		if (!before(&heap[child], &moving))
			break;
		heap[at] = heap[child];
	}
	heap[at] = moving;
}

/* Pops the best candidate from the heap and stores it behind the heap's end. */
static LlmCandidate *
pop(LlmCandidate *heap, int *n)
{
	LlmCandidate best = heap[0];

	heap[0] = heap[--*n];
	if (*n > 0)
		sift_down(heap, *n, 0);
	heap[*n] = best;
	return &heap[*n];
}

typedef struct Largest
{
	int V;
	const float *logits;
	size_t top;
} Largest;

static void
largest_task(void *context, int task, int worker)
{
	Largest *l = context;

	(void) task;
	llm_row_max(worker, l->V, l->logits, &l->top);
}

static LlmCode
check_logits(int V, const float *logits, size_t *top, LlmError *err)
{
	Largest l = {V, logits, 0};

	if (V < 1)
		return llm_fail(err, LLM_INVALID, "there are no logits to choose from");
	if (llm_parallel(1, largest_task, &l, err) != LLM_OK)
		return err->code;
	*top = l.top;
	if (isnan(logits[*top]))
		return llm_fail(err, LLM_INVALID, "the logit of token %zu is NaN", *top);
	if (isinf(logits[*top]))
		return llm_fail(
			err, LLM_INVALID, "the largest logit is %sinfinite", logits[*top] < 0 ? "minus " : "");
	return LLM_OK;
}

/*
 * Builds a heap of all tokens with weight exp((logit - largest) / temperature); total is the sum of weights
 * by id.
 */
static LlmCode
fill_heap(int V, const float *logits, float top, double temperature, LlmCandidate *heap, double *total,
	LlmError *err)
{
	float weight[256];
	LlmCode code = LLM_OK;

	*total = 0;
	for (int at = 0; at < V && code == LLM_OK; at += 256)
	{
		int n = V - at < 256 ? V - at : 256;

		if (at % FEW == 0)
			code = llm_poll(err);
		for (int i = 0; i < n; i++)
			weight[i] = (float) (((double) logits[at + i] - top) / temperature);
		llm_kernels->unary(LLM_EXP, n, weight, weight);
		for (int i = 0; i < n; i++)
		{
			heap[at + i] = (LlmCandidate){logits[at + i], at + i, weight[i]};
			*total += weight[i];
		}
	}
	for (int i = V / 2 - 1; i >= 0 && code == LLM_OK; i--)
	{
		sift_down(heap, V, i);
		if (i % FEW == 0)
			code = llm_poll(err);
	}
	return code;
}

LlmCode
llm_sampling_check(const LlmSampling *how, LlmError *err)
{
	char given[32];

	if (!(how->temperature >= 0 && how->temperature <= 1e6))
	{
		llm_fail(err, LLM_INVALID, "temperature is %s; it must be from 0 to 1000000",
			llm_decimal(how->temperature, given));
		return llm_hint(err, "0 selects the most likely token, 1 samples from the model's own distribution.");
	}
	if (how->topk < 0)
	{
		llm_fail(err, LLM_INVALID, "topk is %d; it must be 0 or more", how->topk);
		return llm_hint(err, "0 or NULL keeps every token.");
	}
	if (!(how->topp > 0 && how->topp <= 1))
	{
		llm_fail(
			err, LLM_INVALID, "topp is %s; it must be above 0 and at most 1", llm_decimal(how->topp, given));
		return llm_hint(err, "1 or NULL keeps every token.");
	}
	if (!(how->min_p >= 0 && how->min_p <= 1))
	{
		llm_fail(err, LLM_INVALID, "min_p is %s; it must be from 0 to 1", llm_decimal(how->min_p, given));
		return llm_hint(err, "0.1 drops tokens with less than a tenth of the most likely one's probability.");
	}
	if (!(how->repetition_penalty >= 1e-6 && how->repetition_penalty <= 1e6))
	{
		llm_fail(err, LLM_INVALID, "repetition_penalty is %s; it must be from 0.000001 to 1000000",
			llm_decimal(how->repetition_penalty, given));
		return llm_hint(err, "1 changes nothing, 1.2 makes tokens that have occurred less likely.");
	}
	if (how->no_repeat_ngram < 0)
	{
		llm_fail(err, LLM_INVALID, "no_repeat_ngram is %d; it must be 0 or more", how->no_repeat_ngram);
		return llm_hint(err, "3 lets no sequence of three tokens occur twice; 0 or NULL lets any.");
	}
	return LLM_OK;
}

/* Excludes each token with which the last n tokens would be the same as n tokens before. */
static LlmCode
exclude_repeats(int n, int count, const int32_t *ids, int V, float *logits, LlmError *err)
{
	bool left = false;

	for (int i = 0; i + n <= count; i++)
	{
		if (i % FEW == 0 && llm_poll(err) != LLM_OK)
			return err->code;
		if (memcmp(ids + i, ids + count - (n - 1), (n - 1) * sizeof(*ids)) == 0 && ids[i + n - 1] < V)
			logits[ids[i + n - 1]] = -INFINITY;
	}
	for (int id = 0; id < V && !left; id++)
		left = logits[id] != -INFINITY;
	if (left)
		return LLM_OK;
	llm_fail(err, LLM_INVALID, "each token would repeat a sequence of %d tokens", n);
	return llm_hint(err, "Raise no_repeat_ngram, or generate fewer tokens.");
}

LlmCode
llm_penalize(const LlmSampling *how, int count, const int32_t *ids, int V, const float *logits, float *out,
	LlmError *err)
{
	float penalty = (float) how->repetition_penalty;

	memcpy(out, logits, V * sizeof(float));
	for (int i = 0; i < count && penalty != 1; i++)
	{
		if (i % FEW == 0 && llm_poll(err) != LLM_OK)
			return err->code;
		if (ids[i] < V)
			out[ids[i]] = logits[ids[i]] < 0 ? logits[ids[i]] * penalty : logits[ids[i]] / penalty;
	}
	if (how->no_repeat_ngram > 0)
		return exclude_repeats(how->no_repeat_ngram, count, ids, V, out, err);
	return LLM_OK;
}

/* The choice among the candidates of a heap; see llm_sampling. */
static LlmCode
choose(const LlmSampling *how, int V, LlmCandidate *heap, double total, double u, int32_t *id, LlmError *err)
{
	int left = V, kept = 0, limit = how->topk > 0 && how->topk < V ? how->topk : V;
	double sum = 0, all = 0, aim;
	LlmCode code = LLM_OK;

	while (limit < V && kept < limit && code == LLM_OK)
	{
		all += pop(heap, &left)->probability;
		if (++kept % FEW == 0)
			code = llm_poll(err);
	}
	if (limit < V)
		total = all;
	/* top-p: from the most likely token on until topp of the total is reached; its own weight is 1 */
	for (int i = 0; code == LLM_OK && i < limit && (i == 0 || how->topp >= 1 || sum < how->topp * total); i++)
	{
		if (i == V - left)
			pop(heap, &left);
		if (heap[V - 1 - i].probability < how->min_p)
			break;
		sum += heap[V - 1 - i].probability;
		kept = i + 1;
		if (kept % FEW == 0)
			code = llm_poll(err);
	}
	aim = u * sum;
	*id = heap[V - kept].id; /* rounding may leave the draw just past the sum */
	sum = 0;
	for (int i = 0; code == LLM_OK && i < kept; i++)
	{
		sum += heap[V - 1 - i].probability;
		if (aim < sum)
		{
			*id = heap[V - 1 - i].id;
			break;
		}
		if (i % FEW == 0)
			code = llm_poll(err);
	}
	return code;
}

LlmCode
llm_sample(const LlmSampling *how, int V, const float *logits, double u, const LlmAllocator *memory,
	int32_t *id, LlmError *err)
{
	size_t top;
	double total;
	LlmCandidate *heap;
	LlmCode code = check_logits(V, logits, &top, err);

	if (code != LLM_OK)
		return code;
	*id = (int32_t) top;
	if (how->temperature == 0 || how->topk == 1 || V == 1)
		return LLM_OK;
	heap = memory->alloc(memory->context, V * sizeof(LlmCandidate));
	if (heap == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory to choose from %d tokens", V);
	code = fill_heap(V, logits, logits[top], how->temperature, heap, &total, err);
	if (code == LLM_OK)
		code = choose(how, V, heap, total, u, id, err);
	memory->release(memory->context, heap, V * sizeof(LlmCandidate));
	return code;
}

LlmCode
llm_top(int V, const float *logits, int k, LlmCandidate *best, const LlmAllocator *memory, LlmError *err)
{
	size_t top;
	int left = V;
	double total;
	LlmCandidate *heap;
	LlmCode code = check_logits(V, logits, &top, err);

	if (code != LLM_OK)
		return code;
	heap = memory->alloc(memory->context, V * sizeof(LlmCandidate));
	if (heap == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory to rank %d tokens", V);
	code = fill_heap(V, logits, logits[top], 1, heap, &total, err);
	for (int i = 0; code == LLM_OK && i < k && i < V; i++)
	{
		best[i] = *pop(heap, &left);
		best[i].probability /= total;
		if (i % FEW == 0)
			code = llm_poll(err);
	}
	memory->release(memory->context, heap, V * sizeof(LlmCandidate));
	return code;
}
