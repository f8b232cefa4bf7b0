/*
 * The counts of pairs, updated as merges change words, and the heap that yields the most frequent pair. Each
 * pair remembers the words that contain it. Heap entries become stale when a count falls, and are pushed
 * again with the current count when they are popped.
 */
#include "formats/bpe_learner.h"

BpePairCount *
llm_bpe_find_pair(const BpeLearner *l, uint64_t key)
{
	BpePairCount *pairs = (BpePairCount *) l->pairs.data;
	size_t mask = ((size_t) 1 << l->pair_bits) - 1, at = llm_bpe_pair_place(key, l->pair_bits);

	while (pairs[at].key != key && pairs[at].key != LLM_BPE_NO_PAIR)
		at = (at + 1) & mask;
	return &pairs[at];
}

bool
llm_bpe_grow_pairs(BpeLearner *l)
{
	BpeArray old = l->pairs;
	size_t size = sizeof(BpePairCount) << ++l->pair_bits;

	l->pairs = (BpeArray){0};
	if (!llm_bpe_reserve(l->allocator, &l->pairs, size))
	{
		l->pairs = old;
		return false;
	}
	memset(l->pairs.data, 0xff, size);
	l->pairs.size = size;
	for (const BpePairCount *pair = (const BpePairCount *) old.data;
		 (const char *) pair < old.data + old.size; pair++)
		if (pair->key != LLM_BPE_NO_PAIR)
			*llm_bpe_find_pair(l, pair->key) = *pair;
	llm_bpe_release(l->allocator, &old);
	return true;
}

LlmCode
llm_bpe_add_count(BpeLearner *l, uint32_t left, uint32_t right, uint32_t word, int64_t count, uint32_t merge)
{
	uint64_t key = (uint64_t) left << 32 | right, *grown;
	size_t place = l->places.size / sizeof(BpePlace);
	BpePairCount *pair = llm_bpe_find_pair(l, key);
	BpePlace *places = (BpePlace *) l->places.data, *added;

	if (pair->key == LLM_BPE_NO_PAIR)
	{
		if (2 * (l->pair_count + 1) > (size_t) 1 << l->pair_bits)
		{
			if (!llm_bpe_grow_pairs(l))
				return llm_bpe_train_no_memory(l->err);
			pair = llm_bpe_find_pair(l, key);
		}
		*pair = (BpePairCount){key, 0, LLM_BPE_NONE, LLM_BPE_NONE};
		l->pair_count++;
	}
	pair->count += count;
	if (pair->grew != merge)
	{
		pair->grew = merge;
		if ((grown = llm_bpe_append(l, &l->grown, sizeof(*grown))) == NULL)
			return llm_bpe_train_no_memory(l->err);
		*grown = key;
	}
	if (pair->places != LLM_BPE_NONE && places[pair->places].word == word)
		return LLM_OK;
	if (place >= LLM_BPE_NONE || (added = llm_bpe_append(l, &l->places, sizeof(*added))) == NULL)
		return llm_bpe_train_no_memory(l->err);
	*added = (BpePlace){word, pair->places};
	pair->places = (uint32_t) place;
	return LLM_OK;
}

void
llm_bpe_take_count(BpeLearner *l, uint32_t left, uint32_t right, int64_t count)
{
	llm_bpe_find_pair(l, (uint64_t) left << 32 | right)->count -= count;
}

/* ---- the heap: highest count first, smallest key among equals ---- */

static inline bool
before(BpeCandidate a, BpeCandidate b)
{
	return a.count != b.count ? a.count > b.count : a.key < b.key;
}

static LlmCode
heap_push(BpeLearner *l, BpeCandidate candidate)
{
	size_t at = l->heap.size / sizeof(BpeCandidate);
	BpeCandidate *heap;

	if (llm_bpe_append(l, &l->heap, sizeof(BpeCandidate)) == NULL)
		return llm_bpe_train_no_memory(l->err);
	heap = (BpeCandidate *) l->heap.data;
	for (size_t parent; at > 0 && before(candidate, heap[parent = (at - 1) / 2]); at = parent)
		heap[at] = heap[parent];
	heap[at] = candidate;
	return LLM_OK;
}

static BpeCandidate
heap_pop(BpeLearner *l)
{
	BpeCandidate *heap = (BpeCandidate *) l->heap.data, top = heap[0], moving;
	size_t size = (l->heap.size -= sizeof(BpeCandidate)) / sizeof(BpeCandidate), at = 0;

	moving = heap[size];
	for (size_t child; (child = 2 * at + 1) < size; at = child)
	{
		if (child + 1 < size && before(heap[child + 1], heap[child]))
			child++;
		if (!before(heap[child], moving))
			break;
		heap[at] = heap[child];
	}
	heap[at] = moving;
	return top;
}

/* True if the pair's token is short enough for the tables. */
static bool
can_merge(const BpeLearner *l, uint64_t key)
{
	const struct LlmBpeLearnedToken *tokens = (const struct LlmBpeLearnedToken *) l->tokens.data;

	return tokens[key >> 32].size + tokens[(uint32_t) key].size <= LLM_BPE_LONGEST;
}

LlmCode
llm_bpe_push_grown(BpeLearner *l)
{
	const uint64_t *grown = (const uint64_t *) l->grown.data;
	LlmCode code = LLM_OK;

	for (size_t i = 0; code == LLM_OK && i < l->grown.size / sizeof(uint64_t); i++)
	{
		int64_t count = llm_bpe_find_pair(l, grown[i])->count;

		if (count >= BPE_MIN_COUNT && can_merge(l, grown[i]))
			code = heap_push(l, (BpeCandidate){count, grown[i]});
	}
	l->grown.size = 0;
	return code;
}

LlmCode
llm_bpe_best_pair(BpeLearner *l, uint64_t *key, bool *found)
{
	LlmCode code = LLM_OK;

	*found = false;
	while (code == LLM_OK && l->heap.size > 0)
	{
		BpeCandidate top = heap_pop(l);
		int64_t count = llm_bpe_find_pair(l, top.key)->count;

		*key = top.key;
		if ((*found = count == top.count))
			break;
		if (count >= BPE_MIN_COUNT)
			code = heap_push(l, (BpeCandidate){count, top.key});
		if (code == LLM_OK)
			code = llm_bpe_poll(l, 1);
	}
	return code;
}
