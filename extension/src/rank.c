/*
 * Ranking what may come next: llm_next_tokens, llm_beam_search, pg_llm_sample.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "kernels/kernels.h"
#include "src/generate.h"
#include "src/kernels_sql.h"
#include "src/pg_llm.h"

static Datum
TokenText(const LlmBpe *bpe, int32 id)
{
	StringInfoData bytes;

	initStringInfo(&bytes);
	TokenizerAppend(bpe, id, 1, &bytes);
	return PointerGetDatum(TokenizerText(bytes.data, bytes.len));
}

PG_FUNCTION_INFO_V1(llm_next_tokens);
Datum
llm_next_tokens(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	char *prompt = TextArgument(fcinfo, 0, "prompt"), *model = TextArgument(fcinfo, 2, "model");
	int none = 0, V, k;
	LoadedModel *m = ModelOf(model, CurrentMemoryContext);
	Generation *g = GenerationOpen(model, prompt, &none, EndToken(model, VocabularySize(m), false, GPT2_EOS));
	const float *logits = GenerationLogits(g, &V);
	LlmCandidate *best;
	LlmError err;

	k = PG_ARGISNULL(1) ? V : PG_GETARG_INT32(1);
	if (k < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("k is %d; it must be 1 or more", k),
						   errhint("NULL shows every token.")));
	k = Min(k, V);
	best = palloc(sizeof(LlmCandidate) * k);
	LLM_CHECK(llm_top(V, logits, k, best, LlmSessionAllocator(), &err), &err);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < k; i++)
	{
		Datum values[4] = {Int32GetDatum(i + 1), Int32GetDatum(best[i].id), TokenText(g->bpe, best[i].id),
			Float8GetDatum(best[i].probability)};
		bool nulls[4] = {0};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---- beam search ---- */

typedef struct Beam
{
	double score; /* sum of log probabilities */
	int parent;	  /* beam it continues */
	int32 *ids;	  /* most of them */
	int count;
	bool done;
} Beam;

typedef struct Beams
{
	Generation *g;
	int width, live, V;
	Beam *beams; /* live ones first in the executor's order */
	int finished;
	Beam *ended;
} Beams;

static int
CompareBeams(const void *a, const void *b)
{
	double x = ((const Beam *) a)->score, y = ((const Beam *) b)->score;

	return x > y ? -1 : x < y ? 1 : ((const Beam *) a)->parent - ((const Beam *) b)->parent;
}

/* The best continuations of one beam: 2 * width, so that as many as width are left when some end. */
static int
Continuations(Beams *s, int beam, const float *logits, Beam *out)
{
	int k = Min(2 * s->width, s->V);
	LlmCandidate *best = palloc(sizeof(LlmCandidate) * k);
	const Beam *from = &s->beams[beam];
	float log_sum;
	LlmError err;

	LLM_CHECK(llm_top(s->V, logits, k, best, LlmSessionAllocator(), &err), &err);
	log_sum = llm_kernels->cross_entropy(s->V, logits, best[0].id);
	for (int i = 0; i < k; i++)
	{
		out[i] = *from;
		out[i].parent = beam;
		out[i].score = from->score + ((best[i].logit - best[0].logit) - log_sum);
		out[i].done = best[i].id == s->g->eos;
		out[i].ids = palloc(sizeof(int32) * s->g->most);
		memcpy(out[i].ids, from->ids, sizeof(int32) * from->count);
		out[i].ids[out[i].count++] = best[i].id;
	}
	pfree(best);
	return k;
}

/* Runs the newest tokens of all live beams. */
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
	return value;
}

/* One more token for every live beam; the best `width` continuations live on. */
static void
StepBeams(Beams *s)
{
	LlmValue value = RunBeams(s);
	Size rows;
	Beam *all;
	int n = 0, live = 0, *parents;
	LlmError err;

	s->V = value.dims[value.ndim - 1];
	rows = value.numel / s->V / s->live;
	all = palloc(sizeof(Beam) * s->live * 2 * s->width);
	parents = palloc(sizeof(int) * s->width);
	for (int b = 0; b < s->live; b++)
		n += Continuations(s, b, value.floats + ((Size) (b + 1) * rows - 1) * s->V, all + n);
	qsort(all, n, sizeof(Beam), CompareBeams);
	for (int i = 0; i < n && live < s->width; i++)
		if (all[i].done)
		{
			if (s->finished < s->width)
				s->ended[s->finished++] = all[i];
		}
		else
		{
			parents[live] = all[i].parent;
			s->beams[live++] = all[i];
		}
	if (llm_exec_continues(s->g->exec))
		LLM_CHECK(llm_exec_reorder(s->g->exec, parents, live, &err), &err);
	s->live = live;
}

static Datum
BeamText(const Generation *g, const Beam *beam)
{
	StringInfoData bytes;
	int count = beam->count - (beam->done ? 1 : 0);

	initStringInfo(&bytes);
	appendBinaryStringInfo(&bytes, g->bytes.data, g->bytes.len);
	for (int i = g->prompt; i < count; i++)
		TokenizerAppend(g->bpe, beam->ids[i], i + 1, &bytes);
	return PointerGetDatum(TokenizerText(bytes.data, bytes.len));
}

PG_FUNCTION_INFO_V1(llm_beam_search);
Datum
llm_beam_search(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	char *prompt = TextArgument(fcinfo, 0, "prompt"), *model = TextArgument(fcinfo, 3, "model");
	int most = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2);
	LoadedModel *m = ModelOf(model, CurrentMemoryContext);
	Beams s = {.width = PG_ARGISNULL(1) ? 4 : PG_GETARG_INT32(1), .live = 1};

	if (s.width < 1 || s.width > 256)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("beam_width is %d; it must be from 1 to 256", s.width)));
	s.g = GenerationOpen(model, prompt, PG_ARGISNULL(2) ? NULL : &most,
		EndToken(model, VocabularySize(m), false, GPT2_EOS));
	s.beams = palloc0(sizeof(Beam) * 2 * s.width);
	s.ended = palloc0(sizeof(Beam) * s.width);
	s.beams[0] = (Beam){.ids = s.g->ids, .count = s.g->count};
	while (s.live > 0 && s.beams[0].count < s.g->most && s.finished < s.width)
		StepBeams(&s);
	memcpy(s.beams + s.live, s.ended, sizeof(Beam) * s.finished);
	s.live += s.finished;
	for (int i = 0; i < s.live; i++)
		s.beams[i].parent = i;
	qsort(s.beams, s.live, sizeof(Beam), CompareBeams);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < s.live && i < s.width; i++)
	{
		Datum values[3] = {Int32GetDatum(i + 1), Float8GetDatum(s.beams[i].score), BeamText(s.g, &s.beams[i])};
		bool nulls[3] = {0};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---- one choice ---- */

static Datum
Sample(FunctionCallInfo fcinfo, int64 V, const float *logits)
{
	LlmSampling how;
	uint64 seed;
	LlmStream stream;
	int32 id;
	LlmError err;

	how.temperature = PG_ARGISNULL(1) ? 1 : PG_GETARG_FLOAT8(1);
	how.topk = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2);
	how.topp = PG_ARGISNULL(3) ? 1 : PG_GETARG_FLOAT8(3);
	LLM_CHECK(llm_sampling_check(&how, &err), &err);
	seed = SeedArgument(fcinfo, 4);
	stream = llm_stream(seed, "sample", 0, 0);
	LLM_CHECK(llm_sample(&how, (int) V, logits, llm_uniform(&stream, 0), LlmSessionAllocator(), &id, &err), &err);
	PG_RETURN_INT32(id);
}

PG_FUNCTION_INFO_V1(pg_llm_sample);
Datum
pg_llm_sample(PG_FUNCTION_ARGS)
{
	Tensor *t;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	t = PG_GETARG_TENSOR(0);
	if (t->ndim != 1)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("sample: logits must be (V), not %s", TensorShape(t))));
	return Sample(fcinfo, TensorNumel(t), TENSOR_DATA(t));
}

PG_FUNCTION_INFO_V1(pg_llm_sample_bytea);
Datum
pg_llm_sample_bytea(PG_FUNCTION_ARGS)
{
	bytea *b;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	b = PG_GETARG_BYTEA_P(0);
	if (VARSIZE_ANY_EXHDR(b) % sizeof(float) != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("sample: %zu bytes are not a whole number of float32", (Size) VARSIZE_ANY_EXHDR(b))));
	return Sample(fcinfo, VARSIZE_ANY_EXHDR(b) / sizeof(float), (const float *) VARDATA_ANY(b));
}
