/*
 * llm_story_score: how well a model predicts the tokens of held-out stories, by kind.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "kernels/kernels.h"
#include "src/model/forward.h"
#include "src/stories/story_batch.h"

typedef struct Score
{
	int64 tokens, correct, characters;
	double nats, true_nats;
} Score;

static void
AddToken(Score *score, const LlmStory *story, int t, int V, const float *logits, int32 target)
{
	const LlmStoryToken *told = t + 1 < story->count ? &story->token[t + 1] : NULL;
	size_t best;

	llm_kernels->max(V, logits, &best);
	score->tokens++;
	score->correct += best == (size_t) target;
	score->nats += llm_kernels->cross_entropy(V, logits, target);
	if (told)
	{
		score->true_nats -= told->logprob;
		score->characters += told->size;
	}
}

static void
AddBatch(const StoryRequest *r, const StoryBatch *b, Score *scores)
{
	LlmInput in[2];
	LlmValue logits;
	int V;

	StoryInputs(b, in);
	logits = RunNode(r->m, OutputOf(r->m, "logits"), in, 2);
	V = logits.ndim == 3 ? logits.dims[2] : 0;
	if (logits.ndim != 3 || logits.dims[0] != b->B || logits.dims[1] != b->T || logits.floats == NULL)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("the node \"logits\" of model \"%s\" is %s, not (%d,%d,V)", r->m->name,
							   ShapeToString(logits.ndim, logits.dims), b->B, b->T)));
	for (int i = 0; i < b->B; i++)
	{
		/* the first token is given and always the same: it has no loss, but its characters count */
		scores[b->story[i].token[0].kind].characters += b->story[i].token[0].size;
		for (int t = 0; t < b->T; t++)
		{
			Size at = (Size) i * b->T + t;

			CHECK_FOR_INTERRUPTS();
			if (b->targets[at] >= V)
				ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
								   errmsg("token %d is outside the vocabulary of %d of model \"%s\"",
									   b->targets[at], V, r->m->name),
								   errhint("The model's tokenizer has more tokens than the model.")));
			if (b->targets[at] >= 0)
				AddToken(&scores[StoryKind(&b->story[i], t)], &b->story[i], t, V, logits.floats + at * V,
					b->targets[at]);
		}
	}
}

/* llm_story_score(model, from_seed, n, end) */
PG_FUNCTION_INFO_V1(llm_story_score);
Datum
llm_story_score(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	StoryRequest r = StoryRequestOf(fcinfo);
	Score scores[LLM_STORY_KINDS] = {0};
	MemoryContext batch = AllocSetContextCreate(CurrentMemoryContext, "stories", ALLOCSET_DEFAULT_SIZES);

	for (int first = 0; first < r.n; first += STORY_BATCH)
	{
		MemoryContext caller = MemoryContextSwitchTo(batch);

		CHECK_FOR_INTERRUPTS();
		AddBatch(&r, StoryBatchRead(&r, first), scores);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(batch);
	}
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < LLM_STORY_KINDS; i++)
	{
		const Score *s = &scores[i];
		Datum values[6] = {CStringGetTextDatum(llm_story_kind_names[i]), Int64GetDatum(s->tokens),
			Int64GetDatum(s->correct), Float8GetDatum(s->nats), Float8GetDatum(s->true_nats),
			Int64GetDatum(s->characters)};
		bool nulls[6] = {0};

		if (s->tokens > 0)
			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
