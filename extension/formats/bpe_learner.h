/* The state of training, shared by bpe_train.c and bpe_pairs.c; see bpe_train.h. */
#ifndef LLM_FORMATS_BPE_LEARNER_H
#define LLM_FORMATS_BPE_LEARNER_H

#include "formats/bpe_pieces.h"
#include "formats/bpe_train.h"

/* A pair that occurs only once is not merged. */
#define BPE_MIN_COUNT 2

/* A piece as its current tokens. */
typedef struct BpeWordTokens
{
	int64_t count;
	uint32_t at, size; /* in symbols */
} BpeWordTokens;

typedef struct BpePairCount
{
	uint64_t key; /* left << 32 | right; LLM_BPE_NO_PAIR: free */
	int64_t count;
	uint32_t places; /* its first place; LLM_BPE_NONE if it has none */
	uint32_t grew;   /* the merge in which its count last grew */
} BpePairCount;

/* A word that contains or contained a pair, and the next such place in the list. */
typedef struct BpePlace
{
	uint32_t word, next;
} BpePlace;

typedef struct BpeCandidate
{
	int64_t count;
	uint64_t key;
} BpeCandidate;

typedef struct BpeLearner
{
	const LlmAllocator *allocator;
	const LlmStop *stop;
	LlmError *err;
	BpeArray symbols; /* uint32_t: the tokens of all words */
	BpeArray words;   /* BpeWordTokens */
	BpeArray places;  /* BpePlace */
	BpeArray heap;    /* BpeCandidate */
	BpeArray grown;   /* uint64_t: pairs whose count grew in this merge */
	BpeArray pairs;   /* BpePairCount: the hash table */
	unsigned pair_bits;
	size_t pair_count;
	BpeArray tokens, bytes, merges; /* these become LlmBpeLearned */
	size_t steps;
	LlmBpeLearned *learned; /* its merge_count is kept up to date */
} BpeLearner;

/* Appends room for one entry of `entry` bytes to an array; NULL if there is no memory. */
extern void *llm_bpe_append(BpeLearner *l, BpeArray *array, size_t entry);
/* Counts steps; LLM_CANCELED if the caller's stop function requests it. */
extern LlmCode llm_bpe_poll(BpeLearner *l, size_t steps);

/* ---- bpe_pairs.c ---- */

/* The pair's entry, or the free entry where it would be inserted. */
extern BpePairCount *llm_bpe_find_pair(const BpeLearner *l, uint64_t key);
extern bool llm_bpe_grow_pairs(BpeLearner *l);
/* Adds `count` occurrences of the pair in a word; merge is the number of this round. */
extern LlmCode llm_bpe_add_count(
	BpeLearner *l, uint32_t left, uint32_t right, uint32_t word, int64_t count, uint32_t merge);
extern void llm_bpe_take_count(BpeLearner *l, uint32_t left, uint32_t right, int64_t count);
/* Adds the pairs that this merge created, or made more frequent, to the heap. */
extern LlmCode llm_bpe_push_grown(BpeLearner *l);
/* Finds the pair to merge; false if none occurs twice. */
extern LlmCode llm_bpe_best_pair(BpeLearner *l, uint64_t *key, bool *found);

#endif
