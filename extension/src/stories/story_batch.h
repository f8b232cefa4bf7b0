/* Held-out stories as batches that a model reads, each token with what it asks for. */
#ifndef LLM_SRC_STORIES_STORY_BATCH_H
#define LLM_SRC_STORIES_STORY_BATCH_H

#include "postgres.h"

#include "formats/bpe.h"
#include "src/model/inputs.h"
#include "stories/story.h"

/* Stories that a model reads at once. */
#define STORY_BATCH 16

typedef struct StoryBatch
{
	int B, T;
	LlmStory story[STORY_BATCH];
	int32 *tokens, *targets; /* (B,T); the last target of a story is the end token, padding is -1 */
} StoryBatch;

/* What the functions over many stories are asked, checked: (model, from_seed, n, end token or NULL). */
typedef struct StoryRequest
{
	LoadedModel *m;
	LlmBpe *bpe;
	uint64 from;
	int n;
	int32 end; /* -1: none */
} StoryRequest;

extern StoryRequest StoryRequestOf(FunctionCallInfo fcinfo);
/* Stories first … of the request, in the current memory context; their number is in B. */
extern StoryBatch *StoryBatchRead(const StoryRequest *r, int first);
/* tokens and positions as the executor wants them. */
extern void StoryInputs(const StoryBatch *b, LlmInput in[2]);
/* What target t of a story asks for; the end token is syntax. */
extern LlmStoryKind StoryKind(const LlmStory *story, int t);

#endif
