/*
 * llm_explain: executes a statement that generates two tokens a few times and measures it. The first token
 * takes a forward pass over the whole prompt (prefill), the second one over a single position (decode); the
 * rest of the statement's time is spent in PostgreSQL and in the extension's SQL functions.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "engine/timing.h"
#include "src/base/arguments.h"
#include "src/generate/watch.h"
#include "src/insight/measure.h"
#include "src/model/model_cache.h"
#include "src/tokenizer/tokenizer.h"

#define MAX_REPEATS 1000

static double
Overhead(const Watch *w)
{
	double sum = 0;

	for (int i = 0; i < EXPLAIN_PARTS; i++)
		sum += w->part[i];
	return sum;
}

/* For each phase, and for the parts around the phases, the fastest measurement counts. */
static void
KeepBest(Watch *best, const Watch *w)
{
	for (int i = 0; i < w->runs; i++)
		if (i >= best->runs || w->run[i].microseconds < best->run[i].microseconds)
			best->run[i] = w->run[i];
	best->runs = Max(best->runs, w->runs);
	if (Overhead(w) < Overhead(best))
		memcpy(best->part, w->part, sizeof(best->part));
}

/* The highest rate of an op, in operations per second. */
static double
Reached(const Watch *w, int nodes)
{
	double best = 0;

	for (int i = 0; i < w->runs; i++)
		for (int node = 0; node < nodes; node++)
		{
			const LlmTiming *t = &w->run[i].nodes[node];

			if (t->ran && t->microseconds > 0)
				best = Max(best, t->flops / t->microseconds * 1e6);
		}
	return best;
}

/* ---- rows ---- */

#define COLUMNS 11

typedef struct Row
{
	const char *phase, *node, *op; /* node NULL: none */
	int step;
	const WatchedRun *run;   /* NULL: not part of the executor */
	const LlmTiming *timing; /* NULL: microseconds alone */
	double microseconds;
} Row;

static void
PutRow(ReturnSetInfo *result, const MachinePeak *peak, const Row *row)
{
	Datum values[COLUMNS] = {CStringGetTextDatum(row->phase), Int32GetDatum(row->run ? row->run->tokens : 0),
		Int32GetDatum(row->step), row->node ? CStringGetTextDatum(row->node) : (Datum) 0,
		CStringGetTextDatum(row->op), Float8GetDatum(row->microseconds),
		Int64GetDatum(row->timing ? row->timing->flops : 0),
		Int64GetDatum(row->timing ? row->timing->bytes : 0), Int32GetDatum(peak->threads),
		Float8GetDatum(peak->flops / 1e9), Float8GetDatum(peak->bytes / 1e9)};
	bool nulls[COLUMNS] = {false, row->run == NULL, false, row->node == NULL, false, false,
		row->timing == NULL, row->timing == NULL, false, peak->flops == 0, peak->bytes == 0};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
PutRun(
	ReturnSetInfo *result, const MachinePeak *peak, const LlmGraph *graph, Phase phase, const WatchedRun *run)
{
	static const char *const names[PHASES] = {"prefill", "decode"};
	Row row = {.phase = names[phase], .run = run};

	for (int i = 0; i < graph->count; i++)
	{
		const LlmNode *node = &graph->nodes[graph->order[i]];

		row.timing = &run->nodes[graph->order[i]];
		if (!row.timing->ran)
			continue;
		row.step++;
		row.node = node->name;
		row.op = llm_op_name(node->op);
		row.microseconds = row.timing->microseconds;
		PutRow(result, peak, &row);
	}
}

static void
PutParts(ReturnSetInfo *result, const MachinePeak *peak, const char *phase, const Watch *w)
{
	static const char *const names[EXPLAIN_PARTS] = {
		"statement", "loading", "tokenizer", "planning", "executor", "sampling"};

	for (int i = 0; i < EXPLAIN_PARTS; i++)
		PutRow(result, peak,
			&(Row){.phase = phase, .step = i + 1, .op = names[i], .microseconds = Max(0, w->part[i])});
}

/* Tokens to generate: two, or one if the prompt fills the model's positions. */
static int
TokensThatFit(const LoadedModel *m, const char *prompt)
{
	LlmDim P = {1, "P"};
	int64 positions = llm_dim_value(&P, &m->model.graph.sizes);
	Size count;

	TokenizerEncode(TokenizerOf(m->name, CurrentMemoryContext), prompt, strlen(prompt), false, &count);
	return positions < 0 || (int64) count < positions ? 2 : 1;
}

PG_FUNCTION_INFO_V1(llm_explain_rows);
Datum
llm_explain_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	char *model = NameArgument(fcinfo, 0, "model"), *prompt = TextArgument(fcinfo, 1, "prompt");
	int repeats = PG_ARGISNULL(2) ? 3 : PG_GETARG_INT32(2), tokens;
	LoadedModel *m;
	Watch first, best;
	const MachinePeak *peak;

	if (repeats < 1 || repeats > MAX_REPEATS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("repeats is %d; it must be from 1 to %d", repeats, MAX_REPEATS)));
	if (*prompt == '\0')
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the prompt is empty"),
						   errhint("Give it some words: they are what prefill computes.")));
	/* the statement itself loads whatever is not in memory yet, so that the first one shows that cost */
	WatchStatement(model, prompt, 1, &first);
	m = ModelOf(model, CurrentMemoryContext);
	tokens = TokensThatFit(m, prompt);
	WatchStatement(model, prompt, tokens, &best);
	for (int i = 1; i < repeats; i++)
	{
		Watch w;

		CHECK_FOR_INTERRUPTS();
		WatchStatement(model, prompt, tokens, &w);
		KeepBest(&best, &w);
	}
	peak = SessionPeak(Reached(&best, m->model.graph.count));
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < best.runs; i++)
		PutRun(result, peak, &m->model.graph, i, &best.run[i]);
	PutParts(result, peak, "overhead", &best);
	PutParts(result, peak, "first", &first);
	return (Datum) 0;
}
