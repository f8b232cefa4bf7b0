/*
 * The teller stands between the plot and its words. The plot offers the words that may come, each with a
 * weight, and takes one; the teller draws it by lot, or reads which one a given text has. Both run the same
 * plot, so the stories told and the probabilities answered cannot disagree.
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
	int id; /* what take() returns when this word is the one */
} Offer;

typedef struct Teller
{
	LlmStory *story;
	const LlmStream *dice; /* NULL: the words are read from text */
	const char *text;
	size_t size, at;
	Offer offer[LLM_STORY_OFFERS];
	int offers;
	/* Once the text has ended or has a wrong word, offers stay as they are and the plot runs on in vain. */
	enum
	{
		TELLER_GOES_ON,
		TELLER_TEXT_ENDS,
		TELLER_WRONG_WORD
	} state;
} Teller;

/* The size of the token that text begins with: a space and letters, or one mark. */
extern int story_piece(const char *text, size_t size);
extern void story_offer(Teller *t, const char *word, int size, int weight, int id);
/* One of the words offered since the last take: its id. 0 once the text has ended: the plot must bear that.
 */
extern int story_take(Teller *t, LlmStoryKind kind);
extern double story_offered(const Teller *t, int i);

/* The plot: the whole grammar. */
extern void story_plot(Teller *t);

#endif
