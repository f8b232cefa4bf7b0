/*
 * Small stories with a known distribution: text generated from left to right by a machine whose every random
 * choice shows in the very next token, so that a text has one derivation and its exact probability is known.
 * A model's loss has a known lower bound here, and each token is labelled with what one must remember to
 * predict it.
 */
#ifndef LLM_STORY_H
#define LLM_STORY_H

#include "common/base.h"

/* The maximum number of tokens: with an end token it fits a context of 128. */
#define LLM_STORY_TOKENS 127
#define LLM_STORY_OFFERS 40

/* What predicting a token requires. */
typedef enum LlmStoryKind
{
	LLM_STORY_SYNTAX,          /* no alternative: grammar and set phrases */
	LLM_STORY_CHOICE,          /* drawn at random: unpredictable */
	LLM_STORY_PRONOUN,         /* he or she, for the person just named */
	LLM_STORY_SONG,            /* a resumed song: the word that followed the last one */
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
	double logprob; /* log probability of the tokens so far, in nats */
	LlmStoryToken token[LLM_STORY_TOKENS];
} LlmStory;

/* The possible continuations of a prefix; count 0 if the story has ended. */
typedef struct LlmStoryNext
{
	int count;
	LlmStoryToken token[LLM_STORY_OFFERS];
} LlmStoryNext;

/* The story of a seed. */
extern void llm_story_tell(uint64_t seed, LlmStory *story);
/*
 * Follows a text with the machine, a whole story or the beginning of one. Tokens point into the machine's own
 * words, not into text. An impossible word is an error that names it.
 */
extern LlmCode llm_story_follow(
	const char *text, size_t size, LlmStory *story, LlmStoryNext *next, LlmError *err);

/* Running sums over generated stories; see llm_story_floor. */
typedef struct LlmStorySums
{
	double stories, tokens, tokens2, nats, nats2, nats_tokens, characters;
} LlmStorySums;

extern void llm_story_add(LlmStorySums *sums, const LlmStory *story);
/*
 * The loss that no model can beat on average (the floor): nats per token = sum(-logprob) / sum(tokens), its
 * standard error as that of a ratio, sqrt(sum((nats - ratio * tokens)^2) / (n (n-1))) / mean(tokens), and
 * bits per character.
 */
extern void llm_story_floor(const LlmStorySums *sums, double *nats, double *standard_error, double *bits);

#endif
