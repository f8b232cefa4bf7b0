/*
 * llm_story_heads: which positions each attention head attends to when the model must repeat what the story
 * said before.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "engine/tape.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/stories/story_batch.h"

/* Sums over the tokens of each kind, for one attention node: total (NH, kinds). */
typedef struct Layer
{
	int node, NH;
	double *total;
} Layer;

typedef struct Heads
{
	Layer *layer;
	int layers;
	int64 tokens[LLM_STORY_KINDS];
	bool source[LLM_STORY_TOKENS]; /* the positions that contain the current token's answer */
} Heads;

/*
 * A copy repeats the word that followed an earlier occurrence of the current word; the other kinds ask for a
 * name or a place that was mentioned earlier in other words.
 */
static bool
IsCopy(LlmStoryKind kind)
{
	return kind == LLM_STORY_SONG || kind == LLM_STORY_OBJECT_COPY || kind == LLM_STORY_SURNAME_COPY;
}

/* Marks in heads->source those of the positions 0 … t that contain the answer to target t; false if none
 * does. */
static bool
FindSources(Heads *heads, LlmStoryKind kind, const int32 *tokens, int t, int32 answer)
{
	bool found = false;

	for (int k = 0; k <= t; k++)
	{
		heads->source[k] = tokens[k] == answer && (!IsCopy(kind) || (k > 0 && tokens[k - 1] == tokens[t]));
		found |= heads->source[k];
	}
	return found;
}

/* probs (NH,T,T): the attention probabilities of a story */
static void
AddStory(Layer *layer, const Heads *heads, LlmStoryKind kind, int T, int t, const float *probs)
{
	for (int h = 0; h < layer->NH; h++)
	{
		const float *row = probs + ((Size) h * T + t) * T;

		for (int k = 0; k <= t; k++)
			if (heads->source[k])
				layer->total[h * LLM_STORY_KINDS + kind] += row[k];
	}
}

static void
AddTraces(Heads *heads, const StoryBatch *b, const LlmTraced *traced)
{
	for (int i = 0; i < b->B; i++)
		for (int t = 0; t + 1 < b->story[i].count; t++)
		{
			const int32 *tokens = b->tokens + (Size) i * b->T;
			LlmStoryKind kind = StoryKind(&b->story[i], t);

			if (kind <= LLM_STORY_PRONOUN || !FindSources(heads, kind, tokens, t, tokens[t + 1]))
				continue;
			heads->tokens[kind]++;
			for (int l = 0; l < heads->layers; l++)
				AddStory(&heads->layer[l], heads, kind, b->T, t,
					traced[l].probs.floats + (Size) i * heads->layer[l].NH * b->T * b->T);
		}
}

static void
AddBatch(const StoryRequest *r, const StoryBatch *b, Heads *heads)
{
	LlmTraced *traced = palloc0(sizeof(LlmTraced) * heads->layers);
	LlmInput in[2];
	LlmValue value;
	LlmExec *exec;
	LlmError err;

	StoryInputs(b, in);
	LLM_CHECK(
		llm_exec_open(&r->m->model, OutputOf(r->m, "logits"), false, b->T, ContextAllocator(), &exec, &err),
		&err);
	llm_exec_trace(exec);
	LLM_CHECK(llm_exec_run(exec, in, 2, &value, &err), &err);
	for (int l = 0; l < heads->layers; l++)
	{
		const LlmValue *probs = &traced[l].probs;
		const char *name = r->m->model.graph.nodes[heads->layer[l].node].name;

		llm_exec_traced(exec, heads->layer[l].node, &traced[l]);
		if (!traced[l].ran || probs->ndim != 4 || probs->dims[0] != b->B || probs->dims[2] != b->T ||
			probs->dims[3] != b->T)
			ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					errmsg("the node \"%s\" of model \"%s\" has no probabilities of %d queries and keys",
						name, r->m->name, b->T),
					errhint("Its attention must read the stories' tokens, and the logits must need it.")));
		if (heads->layer[l].total == NULL)
		{
			heads->layer[l].NH = probs->dims[1];
			heads->layer[l].total = MemoryContextAllocZero(
				GetMemoryChunkContext(heads->layer), sizeof(double) * probs->dims[1] * LLM_STORY_KINDS);
		}
	}
	AddTraces(heads, b, traced);
	llm_exec_close(exec);
}

static void
OpenHeads(Heads *heads, const LoadedModel *m)
{
	const LlmGraph *graph = &m->model.graph;

	heads->layer = palloc0(sizeof(Layer) * Max(1, graph->count));
	for (int i = 0; i < graph->count; i++)
	{
		int node = graph->order[i];

		if (graph->nodes[node].op == LLM_OP_ATTENTION)
			heads->layer[heads->layers++].node = node;
	}
}

static void
PutHeads(ReturnSetInfo *result, const LoadedModel *m, const Heads *heads)
{
	for (int l = 0; l < heads->layers; l++)
		for (int h = 0; h < heads->layer[l].NH; h++)
			for (int kind = 0; kind < LLM_STORY_KINDS; kind++)
			{
				Datum values[6] = {CStringGetTextDatum(m->model.graph.nodes[heads->layer[l].node].name),
					Int32GetDatum(l), Int32GetDatum(h), CStringGetTextDatum(llm_story_kind_names[kind]),
					Int64GetDatum(heads->tokens[kind])};
				bool nulls[6] = {0};

				if (heads->tokens[kind] == 0)
					continue;
				values[5] = Float8GetDatum(
					heads->layer[l].total[h * LLM_STORY_KINDS + kind] / (double) heads->tokens[kind]);
				tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
			}
}

/* llm_story_attention(model, from_seed, n, end) */
PG_FUNCTION_INFO_V1(llm_story_attention);
Datum
llm_story_attention(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	StoryRequest r = StoryRequestOf(fcinfo);
	MemoryContext batch = AllocSetContextCreate(CurrentMemoryContext, "stories", ALLOCSET_DEFAULT_SIZES);
	Heads heads = {0};

	OpenHeads(&heads, r.m);
	for (int first = 0; first < r.n && heads.layers > 0; first += STORY_BATCH)
	{
		MemoryContext caller = MemoryContextSwitchTo(batch);

		CHECK_FOR_INTERRUPTS();
		AddBatch(&r, StoryBatchRead(&r, first), &heads);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(batch);
	}
	InitMaterializedSRF(fcinfo, 0);
	PutHeads(result, r.m, &heads);
	return (Datum) 0;
}
