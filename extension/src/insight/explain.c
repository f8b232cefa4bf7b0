/*
 * llm_explain: a statement that generates two tokens, run a few times and watched. The first token takes a
 * run over the whole prompt (prefill), the second a run over one position (decode); what is left of the
 * statement's time is PostgreSQL's and the glue's.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"

#include "engine/timing.h"
#include "src/insight/explain.h"
#include "src/model/forward.h"
#include "src/insight/measure.h"
#include "src/pg_llm.h"
#include "src/tokenizer/tokenizer.h"

#define MOST_REPEATS 1000

/* One run of the executor. */
typedef struct Run
{
	int tokens;
	double microseconds; /* of its ops together */
	LlmTiming *nodes;    /* in graph order; NULL: there was no such run */
} Run;

typedef enum Phase
{
	PREFILL,
	DECODE,
	PHASES
} Phase;

/* What a statement took. */
typedef struct Watch
{
	MemoryContext context;
	double last;
	double part[EXPLAIN_PARTS];
	int runs;
	Run run[PHASES];
} Watch;

/* The statement being explained, while it runs. */
static Watch *watch = NULL;

static double
Now(void)
{
	instr_time t;

	INSTR_TIME_SET_CURRENT(t);
	return INSTR_TIME_GET_DOUBLE(t) * 1e6;
}

/* ---- watching ---- */

void
ExplainMark(ExplainPart part)
{
	double now;

	if (watch == NULL)
		return;
	now = Now();
	watch->part[part] += now - watch->last;
	watch->last = now;
}

void
ExplainBeforeRun(LlmExec *exec)
{
	if (watch == NULL)
		return;
	ExplainMark(EXPLAIN_EXECUTOR);
	llm_exec_time(exec);
}

void
ExplainRun(const LlmExec *exec, const LlmModel *model, int tokens)
{
	const LlmGraph *graph = &model->graph;
	Run *run;

	if (watch == NULL)
		return;
	ExplainMark(EXPLAIN_EXECUTOR);
	if (watch->runs < PHASES)
	{
		run = &watch->run[watch->runs++];
		run->tokens = tokens;
		run->nodes = MemoryContextAlloc(watch->context, sizeof(LlmTiming) * Max(1, graph->count));
		for (int i = 0; i < graph->count; i++)
		{
			llm_exec_timing(exec, i, &run->nodes[i]);
			if (run->nodes[i].ran)
				run->microseconds += run->nodes[i].microseconds;
		}
		watch->part[EXPLAIN_EXECUTOR] -= run->microseconds;
	}
	watch->last = Now(); /* the looking itself is not counted */
}

/* Runs the statement and says what it took. */
static void
WatchStatement(const char *model, const char *prompt, int tokens, Watch *w)
{
	Oid types[3] = {TEXTOID, INT4OID, TEXTOID};
	Datum values[3] = {CStringGetTextDatum(prompt), Int32GetDatum(tokens), CStringGetTextDatum(model)};
	char *query =
		psprintf("SELECT %s.llm_generate($1, $2, temperature => 0, model => $3, eos => -1)", LlmSchema());
	int result;

	*w = (Watch){.context = CurrentMemoryContext};
	SPI_connect();
	PG_TRY();
	{
		watch = w;
		w->last = Now();
		result = SPI_execute_with_args(query, 3, types, values, NULL, false, 1);
		ExplainMark(EXPLAIN_STATEMENT);
	}
	PG_FINALLY();
	{
		watch = NULL;
	}
	PG_END_TRY();
	if (result != SPI_OK_SELECT)
		elog(ERROR, "llm_explain: %s", SPI_result_code_string(result));
	SPI_finish();
}

static double
Overhead(const Watch *w)
{
	double sum = 0;

	for (int i = 0; i < EXPLAIN_PARTS; i++)
		sum += w->part[i];
	return sum;
}

/* Of each phase the fastest run, of what is around them the fastest too. */
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

/* ---- rows ---- */

#define COLUMNS 11

typedef struct Row
{
	const char *phase, *node, *op; /* node NULL: none */
	int step;
	const Run *run;          /* NULL: not of the executor */
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
PutRun(ReturnSetInfo *result, const MachinePeak *peak, const LlmGraph *graph, Phase phase, const Run *run)
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

/* Tokens to generate: two, or one where the prompt fills the model's positions. */
static int
TokensThatFit(const LoadedModel *m, const char *prompt)
{
	LlmDim P = {1, "P"};
	int64 positions = llm_dim_value(&P, &m->model.graph.sizes);
	Size count;

	TokenizerEncode(TokenizerPin(m->name, CurrentMemoryContext), prompt, strlen(prompt), false, &count);
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

	if (repeats < 1 || repeats > MOST_REPEATS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("repeats is %d; it must be from 1 to %d", repeats, MOST_REPEATS)));
	if (*prompt == '\0')
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the prompt is empty"),
						   errhint("Give it some words: they are what prefill computes.")));
	/* the statement itself loads what is not there yet, so that the first one's cost is seen */
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
	peak = SessionPeak();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < best.runs; i++)
		PutRun(result, peak, &m->model.graph, i, &best.run[i]);
	PutParts(result, peak, "overhead", &best);
	PutParts(result, peak, "first", &first);
	return (Datum) 0;
}
