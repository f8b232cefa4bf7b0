/*
 * The sampler connects the grammar to its words. The grammar offers the possible next words, each with a
 * weight, and takes one; the sampler draws it at random, or reads it from a given text. Both use the same
 * grammar, so stories and probabilities cannot disagree.
 */
#ifndef LLM_STORIES_SAMPLER_H
#define LLM_STORIES_SAMPLER_H

#include "kernels/random.h"
#include "stories/story.h"

typedef struct Offer
{
	const char *word;
	int size;
	int weight;
	int id; /* the value of story_take() if this word is taken */
} Offer;

typedef struct StorySampler
{
	LlmStory *story;
	const LlmStream *dice; /* NULL: the words are read from text */
	const char *text;
	size_t size, at;
	Offer offer[LLM_STORY_OFFERS];
	int offers;
	/* After the end of the text, or after a wrong word, offers stay as they are and further choices are
	 * ignored. */
	enum
	{
		SAMPLER_GOES_ON,
		SAMPLER_TEXT_ENDS,
		SAMPLER_WRONG_WORD
	} state;
} StorySampler;

/* The size of the token at the start of text: a space and letters, or one mark. */
extern int story_piece(const char *text, size_t size);
extern void story_offer(StorySampler *t, const char *word, int size, int weight, int id);
/* Takes one of the words offered since the last call and returns its id; 0 after the end of the text, which
 * the grammar must tolerate. */
extern int story_take(StorySampler *t, LlmStoryKind kind);
extern double story_offered(const StorySampler *t, int i);

/* The whole grammar. */
extern void story_grammar(StorySampler *t);

#endif
