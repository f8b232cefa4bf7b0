/* A small random tokenizer: every byte (even seeds) or only a to e and a few more, and merges. */
#ifndef LLM_TOY_BPE_H
#define LLM_TOY_BPE_H

#include "test.h"

#include "formats/bpe.h"

#define TOY_TOKENS 1200
#define TOY_LENGTH 24

typedef struct ToyToken
{
	char text[2 * TOY_LENGTH];
	size_t text_size, size;
} ToyToken;

static inline size_t
toy_find(const ToyToken *tokens, size_t count, const char *text, size_t size)
{
	for (size_t i = 0; i < count; i++)
		if (tokens[i].text_size == size && memcmp(tokens[i].text, text, size) == 0)
			return i;
	return count;
}

/* NULL: err says why. Ids are 3 i, so that they have gaps. */
static inline LlmBpe *
toy_bpe(const LlmAllocator *allocator, uint64_t seed, size_t merges, LlmError *err)
{
	static ToyToken tokens[TOY_TOKENS];
	static size_t pairs[TOY_TOKENS][2];
	size_t count = 0, made = 0, first;
	uint64_t random = seed + 1;
	LlmBpe *bpe = llm_bpe_new(allocator, "toy", err);

	for (int b = 0; bpe != NULL && b < 256; b++)
	{
		unsigned char byte = (unsigned char) b;

		if (seed % 2 == 0 && strchr("abcde", b) == NULL)
			continue;
		tokens[count].size = 1;
		tokens[count].text_size = llm_bpe_to_text(&byte, 1, tokens[count].text);
		count++;
	}
	first = toy_find(tokens, count, "a", 1);
	for (int tries = 0; bpe != NULL && tries < 20000 && made < merges; tries++)
	{
		/* Most halves are a to e and tokens merged from them, so that merges interact. */
		size_t half[2], n = count;
		ToyToken *t = &tokens[count];

		for (int i = 0; i < 2; i++)
		{
			size_t grown = 5 + made, pick = test_random(&random) % grown;

			half[i] = pick < 5 ? first + pick : count - made + pick - 5;
		}
		t->size = tokens[half[0]].size + tokens[half[1]].size;
		t->text_size = tokens[half[0]].text_size + tokens[half[1]].text_size;
		if (count == TOY_TOKENS || t->size > TOY_LENGTH)
			continue;
		memcpy(t->text, tokens[half[0]].text, tokens[half[0]].text_size);
		memcpy(t->text + tokens[half[0]].text_size, tokens[half[1]].text, tokens[half[1]].text_size);
		if (toy_find(tokens, n, t->text, t->text_size) < n)
			continue;
		pairs[made][0] = half[0];
		pairs[made++][1] = half[1];
		count++;
	}
	for (size_t i = count; bpe != NULL && i-- > 0;) /* backwards: the order must not matter */
	{
		unsigned char bytes[2 * TOY_LENGTH];
		size_t size;

		if (!llm_bpe_from_text(tokens[i].text, tokens[i].text_size, bytes, &size) ||
			llm_bpe_add_token(bpe, (int32_t) (3 * i), tokens[i].text, tokens[i].text_size,
				(const char *) bytes, size, err) != LLM_OK)
			goto failed;
	}
	/* Ranks in random order: a result may come before the merges of its halves, as in no trained file. */
	for (size_t i = 0; bpe != NULL && i < made; i++)
	{
		const ToyToken *left = &tokens[pairs[i][0]], *right = &tokens[pairs[i][1]];
		int32_t rank = (int32_t) (seed % 3 == 0 ? i * 7919 % 100003 : i);

		if (llm_bpe_add_merge(bpe, rank, left->text, left->text_size, right->text, right->text_size, err) !=
			LLM_OK)
			goto failed;
	}
	if (bpe == NULL || llm_bpe_finish(bpe, err) == LLM_OK)
		return bpe;
failed:
	llm_bpe_free(bpe);
	return NULL;
}

#endif
