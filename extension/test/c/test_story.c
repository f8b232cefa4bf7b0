/* Stories: generating and parsing agree; every derivation is unique; wrong words are named. */
#include <math.h>

#include "stories/sampler.h"
#include "stories/words.h"
#include "test.h"

static size_t
render(const LlmStory *story, char *out)
{
	size_t size = 0;

	for (int i = 0; i < story->count; size += story->token[i++].size)
		memcpy(out + size, story->token[i].text, story->token[i].size);
	return size;
}

static bool
same_token(const LlmStoryToken *a, const LlmStoryToken *b)
{
	return a->size == b->size && memcmp(a->text, b->text, a->size) == 0;
}

/* After each prefix: the probabilities sum to 1, the words differ, and the story's own word has its
 * probability. */
static void
followed(const LlmStory *told)
{
	char text[2048];
	size_t size = render(told, text), at = 0;
	LlmStory story;
	LlmStoryNext next;
	LlmError err;
	double logprob = 0;

	for (int i = 0; i <= told->count; at += told->token[i++].size)
	{
		double sum = 0, own = 0;
		/* A copy of exactly this size: the sanitizer detects a read past a prefix. */
		char *prefix = malloc(at + !at);

		memcpy(prefix, text, at);
		CHECK_OK(llm_story_follow(prefix, at, &story, &next, &err), err);
		free(prefix);
		CHECK(story.count == i);
		CHECK(story.logprob == logprob);
		if (i == told->count)
			break;
		for (int j = 0; j < next.count; j++)
		{
			sum += next.token[j].probability;
			if (same_token(&next.token[j], &told->token[i]))
				own = next.token[j].probability;
			for (int k = 0; k < j; k++)
				CHECK(!same_token(&next.token[j], &next.token[k]));
		}
		CHECK(fabs(sum - 1) < 1e-12);
		CHECK(own == told->token[i].probability && fabs(log(own) - told->token[i].logprob) < 1e-14);
		CHECK((told->token[i].kind == LLM_STORY_CHOICE) == (own < 1));
		logprob += told->token[i].logprob;
	}
	CHECK(next.count == 0 && at == size && story.logprob == told->logprob);
	for (int i = 0; i < told->count; i++)
		CHECK(same_token(&story.token[i], &told->token[i]) && story.token[i].kind == told->token[i].kind);
}

/*
 * Draws have the stated probabilities: over all choices of all stories, hits compared with their
 * expectation.
 */
static void
frequencies(void)
{
	double hits = 0, expected = 0, variance = 0;
	LlmStory story;
	LlmStoryNext next;
	LlmError err;

	for (uint64_t seed = 0; seed < 3000; seed++)
	{
		char text[2048];
		size_t at = 0;

		llm_story_tell(seed, &story);
		render(&story, text);
		LlmStory told = story;
		for (int i = 0; i < told.count; at += told.token[i++].size)
		{
			if (told.token[i].probability == 1 || (i + seed) % 7)
				continue;
			CHECK_OK(llm_story_follow(text, at, &story, &next, &err), err);
			/* Count how often the first word offered is the one drawn. */
			hits += same_token(&next.token[0], &told.token[i]);
			expected += next.token[0].probability;
			variance += next.token[0].probability * (1 - next.token[0].probability);
		}
	}
	CHECK(variance > 1000 && fabs(hits - expected) < 4 * sqrt(variance));
}

static void
errors(void)
{
	LlmStory story;
	LlmStoryNext next;
	LlmError err;
	char text[2048], whole[1024];
	size_t size;

	CHECK_FAILS(llm_story_follow("It was March", 12, &story, &next, &err), LLM_INVALID,
		"word 3, \" March\", cannot come after \"It was\"", err);
	CHECK(strstr(err.hint, "\" spring\"") != NULL);
	CHECK_FAILS(llm_story_follow("It was ", 7, &story, &next, &err), LLM_INVALID, "word 3, \" \"", err);
	CHECK(strstr(err.hint, "leave out the space") != NULL);
	CHECK_FAILS(llm_story_follow("It wa", 5, &story, &next, &err), LLM_INVALID, "\" wa\"", err);
	CHECK_FAILS(llm_story_follow("It na\xc3\xafve x", 11, &story, &next, &err), LLM_INVALID,
		"\" na\xc3\xafve\"", err);
	CHECK_FAILS(llm_story_follow("It\0was", 6, &story, &next, &err), LLM_INVALID, "word 2", err);
	memset(text, 'x', sizeof(text));
	CHECK_FAILS(llm_story_follow(text, sizeof(text), &story, &next, &err), LLM_INVALID, "\"xxxx", err);
	llm_story_tell(1, &story);
	size = render(&story, text);
	snprintf(whole, sizeof(whole), "%.*s It", (int) size, text);
	CHECK_FAILS(llm_story_follow(whole, size + 3, &story, &next, &err), LLM_INVALID,
		"\" It\" comes after the end", err);
	/* Any truncation and any changed byte is read without a fault. */
	for (size_t i = 0; i < size; i++)
	{
		char *copy = malloc(size);

		memcpy(copy, text, size);
		copy[i] ^= 0x85;
		CHECK(llm_story_follow(copy, size, &story, &next, &err) == LLM_INVALID);
		(void) llm_story_follow(copy + i, size - i, &story, &next, &err);
		free(copy);
	}
}

/* The lists share no word, and each word is one token. */
static void
lexicon(void)
{
	const char *all[400];
	int n = 0;

#define ADD(list)                                                                                            \
	for (int i = 0; i < COUNT(list); i++)                                                                    \
	all[n++] = (list)[i]
	ADD(SEASONS);
	ADD(SCENERY);
	ADD(MOODS);
	ADD(NAMES);
	ADD(SURNAMES);
	ADD(PLACES);
	ADD(VERBS);
	ADD(SOON);
	ADD(ADJECTIVES);
	ADD(THINGS);
	ADD(SONG);
	ADD(HOURS);
	for (int i = 0; i < n; i++)
	{
		CHECK(story_piece(all[i], strlen(all[i])) == strlen(all[i]) && all[i][0] == ' ');
		for (int j = 0; j < i; j++)
			CHECK(strcmp(all[i], all[j]) != 0);
	}
	for (int i = 0; i < COUNT(ENDINGS); i++) /* grammar.c relies on this */
	{
		int tokens = 0;

		for (const char *c = ENDINGS[i]; *c; c += story_piece(c, strlen(c)))
			tokens++;
		CHECK(tokens <= 4);
	}
	for (int i = 0; i < COUNT(ADJECTIVES); i++)
		CHECK((strchr("aeiou", ADJECTIVES[i][1]) != NULL) == (i >= VOWELS));
	CHECK(
		COUNT(SONG) + 1 <= LLM_STORY_OFFERS && COUNT(NAMES) <= LLM_STORY_OFFERS && 2 * GIRLS == COUNT(NAMES));
}

int
main(void)
{
	LlmStory story;
	LlmStorySums sums = {0};
	double nats, standard_error, bits;
	bool seen[LLM_STORY_KINDS] = {false};
	uint64_t hash = 14695981039346656037u;
	int longest = 0;

	lexicon();
	for (uint64_t seed = 0; seed < 100; seed++)
	{
		llm_story_tell(seed * 0x123456789abcdefu, &story);
		followed(&story);
	}
	for (uint64_t seed = 0; seed < 50000; seed++)
	{
		llm_story_tell(seed, &story);
		llm_story_add(&sums, &story);
		longest = story.count > longest ? story.count : longest;
		CHECK(strchr(".!", story.token[story.count - 1].text[0]));
		for (int i = 0; i < story.count; i++)
		{
			seen[story.token[i].kind] = true;
			for (int k = 0; k < story.token[i].size; k++)
				hash = (hash ^ (unsigned char) story.token[i].text[k]) * 1099511628211u;
		}
	}
	for (int kind = 0; kind < LLM_STORY_KINDS; kind++)
		CHECK(seen[kind]);
	CHECK(longest <= LLM_STORY_TOKENS);
	llm_story_floor(&sums, &nats, &standard_error, &bits);
	CHECK(standard_error > 0 && standard_error < 0.001 && nats > 0.5 && nats < 1.5 && bits < nats);
	frequencies();
	errors();
	/* The stories of seeds 0 to 49999 must never change: models were trained on them. */
	if (hash != 0x075157cce7b383e4u)
		printf("     the stories have changed: hash %016llx\n", (unsigned long long) hash);
	CHECK(hash == 0x075157cce7b383e4u);
	return 0;
}
