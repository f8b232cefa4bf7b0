/* Held-out stories as batches of sequences, with the kind of each token. */
#ifndef LLM_SRC_STORIES_STORY_BATCH_H
#define LLM_SRC_STORIES_STORY_BATCH_H

#include "postgres.h"

#include "formats/bpe.h"
#include "src/model/inputs.h"
#include "stories/story.h"

/* Stories per forward pass. */
#define STORY_BATCH 16

typedef struct StoryBatch
{
	int B, T;
	LlmStory story[STORY_BATCH];
	int32 *tokens, *targets; /* (B,T); the last target of a story is the end token, padding is -1 */
} StoryBatch;

/* The checked arguments of the functions over many stories: (model, from_seed, n, end token or NULL). */
typedef struct StoryRequest
{
	LoadedModel *m;
	LlmBpe *bpe;
	uint64 from;
	int n;
	int32 end; /* -1: none */
} StoryRequest;

extern StoryRequest StoryRequestOf(FunctionCallInfo fcinfo);
/* The batch of stories that starts at story `first` of the request, in the current memory context; their
 * number is in B. */
extern StoryBatch *StoryBatchRead(const StoryRequest *r, int first);
/* Fills in the executor's inputs, tokens and positions. */
extern void StoryInputs(const StoryBatch *b, LlmInput in[2]);
/* The kind of target t of a story; the end token is syntax. */
extern LlmStoryKind StoryKind(const LlmStory *story, int t);

#endif
