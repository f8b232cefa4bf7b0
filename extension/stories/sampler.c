/* See sampler.h. */
#include <string.h>

#include "stories/sampler.h"

static bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

int
story_piece(const char *text, size_t size)
{
	size_t n = size > 0 && text[0] == ' ';

	if (n == size || !is_letter(text[n]))
		return size == 0 ? 0 : 1;
	while (n < size && is_letter(text[n]) && n < 1000)
		n++;
	return (int) n;
}

void
story_offer(StorySampler *t, const char *word, int size, int weight, int id)
{
	if (t->state == SAMPLER_GOES_ON)
		t->offer[t->offers++] = (Offer){word, size, weight, id};
}

static int
total_weight(const StorySampler *t)
{
	int total = 0;

	for (int i = 0; i < t->offers; i++)
		total += t->offer[i].weight;
	return total;
}

double
story_offered(const StorySampler *t, int i)
{
	return (double) t->offer[i].weight / total_weight(t);
}

/*
 * The position in the story determines the random number of its word: a prefix never depends on what follows.
 */
static int
draw(const StorySampler *t, int total)
{
	int left = total == t->offer[0].weight ? 0 : (int) (llm_uniform(t->dice, t->story->count) * total);
	int i = 0;

	while (left >= t->offer[i].weight)
		left -= t->offer[i++].weight;
	return i;
}

/* The offer with which the text continues, or -1. */
static int
match(const StorySampler *t)
{
	int size = story_piece(t->text + t->at, t->size - t->at);

	for (int i = 0; i < t->offers; i++)
		if (t->offer[i].size == size && memcmp(t->offer[i].word, t->text + t->at, size) == 0)
			return i;
	return -1;
}

int
story_take(StorySampler *t, LlmStoryKind kind)
{
	int total = total_weight(t), i;
	LlmStoryToken *token = &t->story->token[t->story->count];

	if (t->state == SAMPLER_GOES_ON && t->dice == NULL && t->at == t->size)
		t->state = SAMPLER_TEXT_ENDS;
	if (t->story->count ==
		LLM_STORY_TOKENS) /* a lexicon edited beyond the grammar's budget must not crash the server */
		t->state = SAMPLER_WRONG_WORD;
	if (t->state != SAMPLER_GOES_ON)
		return 0;
	i = t->dice ? draw(t, total) : match(t);
	if (i < 0)
	{
		t->state = SAMPLER_WRONG_WORD;
		return 0;
	}
	token->text = t->offer[i].word;
	token->size = t->offer[i].size;
	token->kind = t->offers == 1 && kind == LLM_STORY_CHOICE ? LLM_STORY_SYNTAX : kind;
	token->probability = (double) t->offer[i].weight / total;
	token->logprob = t->offers == 1 ? 0 : llm_log_unit(token->probability);
	t->story->logprob += token->logprob;
	t->story->count++;
	t->at += t->offer[i].size;
	t->offers = 0;
	return t->offer[i].id;
}
