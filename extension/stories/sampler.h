/*
 * The teller connects the plot to its words. The plot offers the possible next words, each with a weight, and
 * takes one; the teller draws it at random, or reads it from a given text. Both use the same plot, so stories
 * and probabilities cannot disagree.
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

typedef struct Teller
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
		TELLER_GOES_ON,
		TELLER_TEXT_ENDS,
		TELLER_WRONG_WORD
	} state;
} Teller;

/* The size of the token at the start of text: a space and letters, or one mark. */
extern int story_piece(const char *text, size_t size);
extern void story_offer(Teller *t, const char *word, int size, int weight, int id);
/* Takes one of the words offered since the last call and returns its id; 0 after the end of the text, which
 * the plot must tolerate. */
extern int story_take(Teller *t, LlmStoryKind kind);
extern double story_offered(const Teller *t, int i);

/* The plot: the whole grammar. */
extern void story_plot(Teller *t);

#endif
