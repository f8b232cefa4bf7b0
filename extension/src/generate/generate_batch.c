/*
 * Many continuations at a time, so that the weights are read from memory once for all. The sequences of a
 * batch advance together, position by position: where one still reads its prompt, another samples. None is
 * padded, and each has the bits that it has alone. The samples of a prompt are one row of the executor until
 * their first token.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/generate/generate.h"

/* Sequences at a time: more take more memory and are hardly faster. */
#define BATCH 32
#define MAX_SAMPLES 10000

/* A row of the executor: a sequence, or the samples of a prompt that is still being read. */
typedef struct Row
{
	Generation **samples;
	int n;
} Row;

typedef struct Batch
{
	LlmExec *exec;
	Row rows[BATCH];
	int live; /* rows; sequences that are complete have none */
} Batch;

/* Computes the positions from `first` to `end` of all rows. */
static LlmValue
RunBatch(const Batch *b, int first, int end)
{
	int T = end - first;
	int32 *tokens;
	LlmInput in[2] = {{.name = "tokens", .ndim = 2, .dims = {b->live, T}}};
	LlmValue value;
	LlmError err;

	ReserveMemory(sizeof(int32) * (Size) b->live * T);
	in[0].integers = tokens = palloc(sizeof(int32) * (Size) b->live * T);
	for (int r = 0; r < b->live; r++)
		memcpy(tokens + (Size) r * T, b->rows[r].samples[0]->ids + first, sizeof(int32) * T);
	in[1] = PositionsInput(first, T);
	LLM_CHECK(llm_exec_run(b->exec, in, 2, &value, &err), &err);
	pfree((void *) in[1].integers);
	pfree(tokens);
	return value;
}

/* Reads as far as the shortest sequence goes, and appends a token to each sequence of that length. */
static void
StepBatch(Batch *b)
{
	Row rows[BATCH];
	int end = INT_MAX, live = 0, V, parents[BATCH];
	bool moved = false;
	LlmValue value;
	LlmError err;

	for (int r = 0; r < b->live; r++)
		end = Min(end, b->rows[r].samples[0]->count);
	value = RunBatch(b, llm_exec_length(b->exec), end);
	for (int r = 0; r < b->live; r++)
	{
		const Row *row = &b->rows[r];
		bool reading = row->samples[0]->count > end;
		const float *logits = LastLogits(row->samples[0], &value, b->live, r, &V);

		for (int i = 0; i < (reading ? 1 : row->n); i++)
		{
			Generation *g = row->samples[i];

			if (!reading)
				GenerationAppend(g, V, logits);
			if (g->complete)
				continue;
			moved |= live != r;
			parents[live] = r;
			rows[live++] = reading ? *row : (Row){row->samples + i, 1};
		}
	}
	if (live > 0 && (moved || live != b->live))
		LLM_CHECK(llm_exec_reorder(b->exec, parents, live, &err), &err);
	memcpy(b->rows, rows, sizeof(Row) * live);
	b->live = live;
}

/* ---- SQL ---- */

typedef struct Request
{
	FunctionCallInfo fcinfo;
	Datum *prompts;
	bool *nulls;
	int count, n; /* prompts, samples of each */
	bool special;
} Request;

static Request
BatchArguments(FunctionCallInfo fcinfo)
{
	Request r = {.fcinfo = fcinfo,
		.n = PG_ARGISNULL(12) ? 1 : PG_GETARG_INT32(12),
		.special = !PG_ARGISNULL(13) && PG_GETARG_BOOL(13)};

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("prompts must not be NULL")));
	if (r.n < 1 || r.n > MAX_SAMPLES)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("n is %d; it must be from 1 to %d", r.n, MAX_SAMPLES)));
	deconstruct_array((ArrayType *) DetoastWhole(PG_GETARG_DATUM(0)), TEXTOID, -1, false, TYPALIGN_INT,
		&r.prompts, &r.nulls, &r.count);
	for (int i = 0; i < r.count; i++)
		if (r.nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							   errmsg("prompts must not contain NULL; prompt %d is NULL", i + 1)));
	return r;
}

/* Sequence `at` of all: the samples of the first prompt come first. */
static Generation *
OpenSample(const Request *r, int64 at)
{
	FunctionCallInfo fcinfo = r->fcinfo;
	text *prompt = DatumGetTextPP(r->prompts[at / r->n]);
	Generation *g;

	ReserveMemory(VARSIZE_ANY(prompt));
	g = GenerationFromArguments(fcinfo, &(Prompt){.text = text_to_cstring(prompt), .special = r->special});
	if (!PG_ARGISNULL(7))
		GenerationSeed(g, g->seed + (uint64) (at % r->n));
	return g;
}

static void
PutSample(ReturnSetInfo *result, const Request *r, int64 at, const Generation *g)
{
	Datum values[6] = {Int32GetDatum((int32) (at / r->n) + 1), Int32GetDatum((int32) (at % r->n) + 1),
		PointerGetDatum(TokenizerText(g->bytes.data, g->bytes.len)), TokenArray(g, g->ids, g->count),
		Float8GetDatum(g->score), Int64GetDatum((int64) g->seed)};
	bool nulls[6] = {0};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
RunSamples(const Request *r, int64 first, int count)
{
	Generation *all[BATCH];
	Batch b = {.live = 0};
	int most = 0;

	for (int i = 0; i < count; i++)
	{
		all[i] = OpenSample(r, first + i);
		most = Max(most, all[i]->most);
		if (all[i]->complete)
			continue;
		if (i > 0 && b.live > 0 && (first + i) % r->n > 0)
			b.rows[b.live - 1].n++;
		else
			b.rows[b.live++] = (Row){all + i, 1};
	}
	if (b.live > 0)
		b.exec = GenerationExec(all[0]->m, most);
	while (b.live > 0)
	{
		CHECK_FOR_INTERRUPTS();
		StepBatch(&b);
	}
	for (int i = 0; i < count; i++)
		PutSample((ReturnSetInfo *) r->fcinfo->resultinfo, r, first + i, all[i]);
}

PG_FUNCTION_INFO_V1(llm_generate_batch);
Datum
llm_generate_batch(PG_FUNCTION_ARGS)
{
	Request r = BatchArguments(fcinfo);
	MemoryContext batch = AllocSetContextCreate(CurrentMemoryContext, "batch", ALLOCSET_DEFAULT_SIZES);

	InitMaterializedSRF(fcinfo, 0);
	for (int64 first = 0; first < (int64) r.count * r.n; first += BATCH)
	{
		MemoryContext caller = MemoryContextSwitchTo(batch);

		RunSamples(&r, first, (int) Min(BATCH, (int64) r.count * r.n - first));
		MemoryContextSwitchTo(caller);
		MemoryContextReset(batch);
	}
	return (Datum) 0;
}
