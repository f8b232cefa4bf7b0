/*
 * Small stories with a known answer: text made from left to right by a machine whose every random choice
 * shows in the very next token, so that a text has one derivation and its probability can be told exactly. A
 * model's loss has a floor here, and each token says what one must remember to predict it.
 */
#ifndef LLM_STORY_H
#define LLM_STORY_H

#include "common/base.h"

/* No story is longer: with an end token it fits a context of 128. */
#define LLM_STORY_TOKENS 127
#define LLM_STORY_OFFERS 40

/* What a token asks of whoever predicts it. */
typedef enum LlmStoryKind
{
	LLM_STORY_SYNTAX,          /* always so: grammar and turns of phrase */
	LLM_STORY_CHOICE,          /* drawn by lot: nobody can know */
	LLM_STORY_PRONOUN,         /* he or she, of the person just named */
	LLM_STORY_SONG,            /* a song resumed: the word that followed the last one */
	LLM_STORY_OBJECT_COPY,     /* the thing that has this adjective */
	LLM_STORY_SURNAME_COPY,    /* the surname of this first name */
	LLM_STORY_WHO,             /* the person who has a thing now */
	LLM_STORY_WHERE,           /* the place where a person is now */
	LLM_STORY_WHERE_BY_HOLDER, /* the place of the person who has a thing now */
	LLM_STORY_RECIPIENT,       /* the person other than the giver */
	LLM_STORY_KINDS
} LlmStoryKind;

extern const char *const llm_story_kind_names[LLM_STORY_KINDS];

/* A token, a word with its leading space or a mark; text has no end byte. */
typedef struct LlmStoryToken
{
	const char *text;
	int size;
	LlmStoryKind kind;
	double probability;
	double logprob;
} LlmStoryToken;

typedef struct LlmStory
{
	int count;
	double logprob; /* of the tokens so far, in nats */
	LlmStoryToken token[LLM_STORY_TOKENS];
} LlmStory;

/* What may come after a prefix; count 0: the story has ended. */
typedef struct LlmStoryNext
{
	int count;
	LlmStoryToken token[LLM_STORY_OFFERS];
} LlmStoryNext;

/* The story of a seed. */
extern void llm_story_tell(uint64_t seed, LlmStory *story);
/*
 * Follows the machine along a text, a whole story or the beginning of one. Tokens point into the machine's
 * own words, not into text. A word that cannot come is an error that names it.
 */
extern LlmCode llm_story_follow(
	const char *text, size_t size, LlmStory *story, LlmStoryNext *next, LlmError *err);

/* Running sums over stories told; see llm_story_floor. */
typedef struct LlmStorySums
{
	double stories, tokens, tokens2, nats, nats2, nats_tokens, characters;
} LlmStorySums;

extern void llm_story_add(LlmStorySums *sums, const LlmStory *story);
/*
 * The loss that no model can beat on average: nats per token = sum(-logprob) / sum(tokens), its standard
 * error as that of a ratio, sqrt(sum((nats - ratio * tokens)^2) / (n (n-1))) / mean(tokens), and bits per
 * character.
 */
extern void llm_story_floor(const LlmStorySums *sums, double *nats, double *standard_error, double *bits);

#endif
