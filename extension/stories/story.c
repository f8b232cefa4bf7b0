/* See story.h: telling a story, following a text, and the lower bound of every loss. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "stories/sampler.h"

const char *const llm_story_kind_names[LLM_STORY_KINDS] = {"syntax", "choice", "pronoun", "song",
	"object copy", "surname copy", "who", "where", "where-by-holder", "recipient"};

void
llm_story_tell(uint64_t seed, LlmStory *story)
{
	LlmStream dice = llm_stream(seed, "story", 0, 0);
	StorySampler sampler = {.story = story, .dice = &dice};

	story->count = 0;
	story->logprob = 0;
	story_grammar(&sampler);
}

/* ---- following a text ---- */

/* " Tom", " Anna" and 3 more: the words that were possible. */
static void
list_offers(const StorySampler *t, char *out, size_t size)
{
	size_t used = 0;
	int shown = t->offers > 10 ? 8 : t->offers;

	out[0] = '\0';
	for (int i = 0; i < shown && used < size; i++)
		used += snprintf(
			out + used, size - used, "%s\"%.*s\"", i ? ", " : "", t->offer[i].size, t->offer[i].word);
	if (shown < t->offers && used < size)
		snprintf(out + used, size - used, " and %d more", t->offers - shown);
}

/* At most 40 bytes, cut at a character of any encoding. */
static int
shown_size(const char *word, int size)
{
	int ascii = 0;

	while (ascii < 40 && ascii < size && (unsigned char) word[ascii] < 0x80)
		ascii++;
	return size <= 40 ? size : ascii;
}

static LlmCode
wrong_word(const StorySampler *t, LlmError *err)
{
	const char *word = t->text + t->at;
	size_t left = t->size - t->at, from = t->at;
	int size = story_piece(word, left);
	char offers[300];

	/* A word with letters beyond ASCII is shown up to the next space. */
	if (size > 0 && size < left &&
		((unsigned char) word[size - 1] >= 0x80 || (unsigned char) word[size] >= 0x80))
		while (size < left && size < 1000 && word[size] != ' ')
			size++;
	list_offers(t, offers, sizeof(offers));
	/* The preceding words, all from the lexicon. */
	for (int back = 0; back < 5 && back < t->story->count; back++)
		from -= t->story->token[t->story->count - 1 - back].size;
	if (t->at == 0)
		llm_fail(err, LLM_INVALID, "\"%.*s\" cannot begin a story", shown_size(word, size), word);
	else
		llm_fail(err, LLM_INVALID, "word %d, \"%.*s\", cannot come after \"%s%.*s\" in a story",
			t->story->count + 1, shown_size(word, size), word, from > 0 ? "..." : "", (int) (t->at - from),
			t->text + from);
	if (size == 1 && word[0] == ' ' && left == 1)
		return llm_hint(err, "A word has its space in front: leave out the space at the end of the text.");
	return llm_hint(err, "One of these comes there: %s.", offers);
}

LlmCode
llm_story_follow(const char *text, size_t size, LlmStory *story, LlmStoryNext *next, LlmError *err)
{
	StorySampler sampler = {.story = story, .text = text, .size = size};

	story->count = 0;
	story->logprob = 0;
	next->count = 0;
	story_grammar(&sampler);
	if (sampler.state == SAMPLER_GOES_ON && sampler.at < size)
	{
		llm_fail(err, LLM_INVALID, "the story ends with its word %d; \"%.*s\" comes after the end",
			story->count,
			shown_size(text + sampler.at, (int) (size - sampler.at < 1000 ? size - sampler.at : 1000)),
			text + sampler.at);
		return llm_hint(err, "Give one story at a time.");
	}
	if (sampler.state == SAMPLER_WRONG_WORD)
		return wrong_word(&sampler, err);
	if (sampler.state == SAMPLER_TEXT_ENDS)
		for (int i = 0; i < sampler.offers; i++)
			next->token[next->count++] = (LlmStoryToken){.text = sampler.offer[i].word,
				.size = sampler.offer[i].size,
				.probability = story_offered(&sampler, i)};
	return LLM_OK;
}

/* ---- the loss floor ---- */

void
llm_story_add(LlmStorySums *sums, const LlmStory *story)
{
	double nats = -story->logprob, tokens = story->count;

	sums->stories++;
	sums->tokens += tokens;
	sums->tokens2 += tokens * tokens;
	sums->nats += nats;
	sums->nats2 += nats * nats;
	sums->nats_tokens += nats * tokens;
	for (int i = 0; i < story->count; i++)
		sums->characters += story->token[i].size;
}

void
llm_story_floor(const LlmStorySums *s, double *nats, double *standard_error, double *bits)
{
	double ratio = s->nats / s->tokens, n = s->stories;
	double squares = s->nats2 - 2 * ratio * s->nats_tokens + ratio * ratio * s->tokens2;

	*nats = ratio;
	*standard_error = sqrt(fmax(squares, 0) / (n * (n - 1))) / (s->tokens / n);
	*bits = s->nats / s->characters / 0.69314718055994531;
}
