#include "src/generate/watch.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"

#include "src/base/catalog.h"

/* The statement that llm_explain is measuring, while it is executed. */
static Watch *watch = NULL;

static double
Now(void)
{
	instr_time t;

	INSTR_TIME_SET_CURRENT(t);
	return INSTR_TIME_GET_DOUBLE(t) * 1e6;
}

/* ---- measuring ---- */

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
	WatchedRun *run;

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
	watch->last = Now(); /* the time spent on measuring is not counted */
}

void
WatchStatement(const char *model, const char *prompt, int tokens, Watch *w)
{
	Oid types[3] = {TEXTOID, INT4OID, TEXTOID};
	Datum values[3] = {CStringGetTextDatum(prompt), Int32GetDatum(tokens), CStringGetTextDatum(model)};
	char *query = psprintf(
		"SELECT %s.llm_generate($1, $2, temperature => 0, model => $3, eos => -1)", ExtensionSchemaName());
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
