/*
 * Beam search: keeps the `width` best continuations, all in one batch of the executor. A score is a sum of
 * log probabilities and can only fall, so the search ends once no live sequence has a better score than the
 * worst of `width` finished ones.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "kernels/kernels.h"
#include "src/base/arguments.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/generate/generate.h"

typedef struct Beam
{
	double score; /* sum of log probabilities */
	int parent;   /* the live sequence it continues */
	int32 id;     /* its last token */
	int32 *ids;   /* all of its tokens; NULL until it is kept */
	int count;
} Beam;

typedef struct Beams
{
	Generation *g;
	double temperature;
	int width, live, ended;
	Beam *beams; /* live sequences, in the executor's order */
	Beam *done;  /* sequences that reached the end token, best first */
} Beams;

static int
CompareBeams(const void *a, const void *b)
{
	const Beam *x = a, *y = b;

	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	return x->parent != y->parent ? x->parent - y->parent : x->id - y->id;
}

/* Computes the logits for the last tokens of all live sequences. */
static LlmValue
RunBeams(Beams *s)
{
	int first = llm_exec_length(s->g->exec), T = s->beams[0].count - first;
	int32 *tokens = palloc(sizeof(int32) * (Size) s->live * T);
	LlmInput in[2] = {{.name = "tokens", .ndim = 2, .dims = {s->live, T}, .integers = tokens}};
	LlmValue value;
	LlmError err;

	for (int b = 0; b < s->live; b++)
		memcpy(tokens + (Size) b * T, s->beams[b].ids + first, sizeof(int32) * T);
	in[1] = PositionsInput(first, T);
	LLM_CHECK(llm_exec_run(s->g->exec, in, 2, &value, &err), &err);
	pfree((void *) in[1].integers);
	pfree(tokens);
	return value;
}

/* The logarithm of the sum of the weights exp((logit - top) / temperature). */
static float
LogSum(const Beams *s, int V, const float *logits, LlmCandidate top)
{
	float *scaled, sum;

	if (s->temperature == 1)
		return llm_kernels->cross_entropy(V, logits, top.id);
	ReserveMemory(sizeof(float) * (Size) V);
	scaled = palloc(sizeof(float) * (Size) V);
	for (int i = 0; i < V; i++)
		scaled[i] = (float) (((double) logits[i] - top.logit) / s->temperature);
	sum = llm_kernels->cross_entropy(V, scaled, top.id);
	pfree(scaled);
	return sum;
}

/* The best continuations of one live sequence: width + 1 of them, because one may end it. Returns their
 * count. */
static int
Continuations(const Beams *s, int beam, const LlmValue *value, Beam *out)
{
	int V, k, n = 0;
	const float *logits = LastLogits(s->g, value, s->live, beam, &V);
	LlmCandidate *best;
	float log_sum;
	LlmError err;

	k = Min(s->width + 1, V);
	best = palloc(sizeof(LlmCandidate) * k);
	LLM_CHECK(llm_top(V, logits, k, best, SessionAllocator(), &err), &err);
	log_sum = LogSum(s, V, logits, best[0]);
	for (int i = 0; i < k && !isinf(best[i].logit); i++)
		out[n++] = (Beam){.score = s->beams[beam].score +
								   (((double) best[i].logit - best[0].logit) / s->temperature - log_sum),
			.parent = beam,
			.id = best[i].id,
			.count = s->beams[beam].count + 1};
	pfree(best);
	return n;
}

/* Sets a candidate's tokens: those of its parent followed by its own. */
static void
Keep(const Beams *s, Beam *beam)
{
	beam->ids = palloc(sizeof(int32) * s->g->most);
	memcpy(beam->ids, s->beams[beam->parent].ids, sizeof(int32) * (beam->count - 1));
	beam->ids[beam->count - 1] = beam->id;
}

/* Inserts a finished sequence into the list of the best ones; a full list drops the worst. */
static void
End(Beams *s, Beam *beam)
{
	int at = s->ended;

	while (at > 0 && beam->score > s->done[at - 1].score)
		at--;
	if (at == s->width)
		return;
	Keep(s, beam);
	if (s->ended == s->width)
		pfree(s->done[--s->ended].ids);
	memmove(s->done + at + 1, s->done + at, sizeof(Beam) * (s->ended - at));
	s->done[at] = *beam;
	s->ended++;
}

/* Extends every live sequence by one token. */
static void
StepBeams(Beams *s)
{
	LlmValue value = RunBeams(s);
	Beam *all = palloc(sizeof(Beam) * s->live * (s->width + 1)), *next = palloc0(sizeof(Beam) * s->width);
	int *parents = palloc(sizeof(int) * s->width), n = 0, live = 0;
	bool moved = false;
	LlmError err;

	for (int b = 0; b < s->live; b++)
		n += Continuations(s, b, &value, all + n);
	qsort(all, n, sizeof(Beam), CompareBeams);
	for (int i = 0; i < n; i++)
		if (all[i].id == s->g->eos)
			End(s, &all[i]);
		else if (live < s->width)
		{
			Keep(s, &all[i]);
			moved |= all[i].parent != live;
			parents[live] = all[i].parent;
			next[live++] = all[i];
		}
	if (live > 0 && (moved || live != s->live))
		LLM_CHECK(llm_exec_reorder(s->g->exec, parents, live, &err), &err);
	for (int b = 0; b < s->live; b++)
		pfree(s->beams[b].ids);
	pfree(s->beams);
	pfree(all);
	pfree(parents);
	s->beams = next;
	s->live = live;
}

/* Searches to the end, then collects live and finished sequences, best first, which need no executor any
 * more. */
static void
Search(Beams *s)
{
	const Generation *g = s->g;

	while (s->live > 0 && s->beams[0].count < g->most &&
		   !(s->ended == s->width && s->beams[0].score <= s->done[s->width - 1].score))
	{
		CHECK_FOR_INTERRUPTS();
		StepBeams(s);
	}
	s->beams = repalloc(s->beams, sizeof(Beam) * (s->width + s->ended));
	for (int i = 0; i < s->live; i++)
		s->beams[i].parent = s->width + i; /* after finished sequences of the same score */
	for (int i = 0; i < s->ended; i++)
	{
		s->done[i].parent = i;
		s->beams[s->live++] = s->done[i];
	}
	qsort(s->beams, s->live, sizeof(Beam), CompareBeams);
}

static Datum
BeamText(const Generation *g, const Beam *beam)
{
	StringInfoData bytes;

	initStringInfo(&bytes);
	appendBinaryStringInfo(&bytes, g->bytes.data, g->bytes.len);
	for (int i = g->prompt; i < beam->count; i++)
		if (i < beam->count - 1 || beam->ids[i] != g->eos)
			AppendToken(g->bpe, beam->ids[i], &bytes);
	return PointerGetDatum(TokenizerText(bytes.data, bytes.len));
}

PG_FUNCTION_INFO_V1(llm_beam_search);
Datum
llm_beam_search(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Prompt prompt = PromptArgument(fcinfo, 6);
	char *model = NameArgument(fcinfo, 3, "model");
	int most = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2);
	int eos = PG_ARGISNULL(5) ? -1 : PG_GETARG_INT32(5);
	Beams s = {.temperature = PG_ARGISNULL(4) ? 1 : PG_GETARG_FLOAT8(4),
		.width = PG_ARGISNULL(1) ? 4 : PG_GETARG_INT32(1),
		.live = 1};
	char given[32];

	if (s.width < 1 || s.width > 256)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("beam_width is %d; it must be from 1 to 256", s.width)));
	if (!(s.temperature >= 1e-5 && s.temperature <= 1e6))
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("temperature is %s; it must be from 0.00001 to 1000000",
					llm_decimal(s.temperature, given)),
				errhint(
					"It scales the scores; beam_width 1 is greedy, as temperature 0 is in llm_generate.")));
	s.g = GenerationOpen(model, &prompt, PG_ARGISNULL(2) ? NULL : &most, &eos);
	s.g->exec = GenerationExec(s.g->m, s.g->most);
	ReserveMemory(sizeof(int32) * (Size) s.g->most * s.width * 2);
	s.beams = palloc0(sizeof(Beam) * s.width);
	s.done = palloc0(sizeof(Beam) * (s.width + 1));
	s.beams[0].count = s.g->count;
	s.beams[0].ids = palloc(sizeof(int32) * s.g->most);
	memcpy(s.beams[0].ids, s.g->ids, sizeof(int32) * s.g->count);
	Search(&s);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < s.live && i < s.width; i++)
	{
		Datum values[4] = {Int32GetDatum(i + 1), Float8GetDatum(s.beams[i].score), BeamText(s.g, &s.beams[i]),
			TokenArray(s.g, s.beams[i].ids, s.beams[i].count)};
		bool nulls[4] = {0};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
