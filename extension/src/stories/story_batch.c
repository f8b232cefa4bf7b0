/*
 * See story_batch.h.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"

#include "src/base/arguments.h"
#include "src/stories/story_batch.h"
#include "src/tokenizer/tokenizer.h"

/* A call for more would take hours. */
#define MAX_STORIES 1000000

StoryRequest
StoryRequestOf(FunctionCallInfo fcinfo)
{
	char *model = NameArgument(fcinfo, 0, "model");
	StoryRequest r = {.end = PG_ARGISNULL(3) ? -1 : PG_GETARG_INT32(3)};

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("from_seed and n must not be NULL")));
	r.from = (uint64) PG_GETARG_INT64(1);
	r.n = PG_GETARG_INT32(2);
	if (r.n < 1 || r.n > MAX_STORIES)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("n is %d, expected 1 to %d stories", r.n, MAX_STORIES),
				errhint("A thousand stories determine the accuracy of each kind to about a percent.")));
	r.m = ModelOf(model, CurrentMemoryContext);
	r.bpe = TokenizerOf(model, CurrentMemoryContext);
	return r;
}

/* The ids of a story's tokens; ERROR unless the tokenizer encodes each of its words as one token. */
static int32 *
Encode(const StoryRequest *r, const LlmStory *story)
{
	StringInfoData text;
	Size count;
	int32 *ids;

	initStringInfo(&text);
	for (int i = 0; i < story->count; i++)
		appendBinaryStringInfo(&text, story->token[i].text, story->token[i].size);
	ids = TokenizerEncodeUtf8(r->bpe, text.data, text.len, false, &count);
	if (count != story->count)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("tokenizer \"%s\" makes %zu tokens of a story's %d words and marks",
							   llm_bpe_name(r->bpe), count, story->count),
						   errhint("Train one on stories: llm_bpe_train('SELECT (llm_story(i)).text FROM "
								   "generate_series(0, 19999) AS i', 2048, 'my_tokenizer').")));
	return ids;
}

StoryBatch *
StoryBatchRead(const StoryRequest *r, int first)
{
	StoryBatch *b = palloc(sizeof(StoryBatch));
	int32 *ids[STORY_BATCH];
	Size size;

	b->B = Min(STORY_BATCH, r->n - first);
	b->T = 0;
	for (int i = 0; i < b->B; i++)
	{
		llm_story_tell(r->from + (uint64) (first + i), &b->story[i]);
		ids[i] = Encode(r, &b->story[i]);
		b->T = Max(b->T, b->story[i].count);
	}
	CheckLength(r->m, b->T);
	size = sizeof(int32) * b->B * b->T;
	b->tokens = palloc0(size);
	b->targets = palloc(size);
	memset(b->targets, -1, size);
	for (int i = 0; i < b->B; i++)
	{
		int count = b->story[i].count;

		memcpy(b->tokens + (Size) i * b->T, ids[i], sizeof(int32) * count);
		memcpy(b->targets + (Size) i * b->T, ids[i] + 1, sizeof(int32) * (count - 1));
		b->targets[(Size) i * b->T + count - 1] = r->end;
	}
	return b;
}

void
StoryInputs(const StoryBatch *b, LlmInput in[2])
{
	in[0] = (LlmInput){.name = "tokens", .ndim = 2, .dims = {b->B, b->T}, .integers = b->tokens};
	in[1] = PositionsInput(0, b->T);
}

LlmStoryKind
StoryKind(const LlmStory *story, int t)
{
	return t + 1 < story->count ? story->token[t + 1].kind : LLM_STORY_SYNTAX;
}
