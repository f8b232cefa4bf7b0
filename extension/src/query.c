#include "postgres.h"

#include "lib/stringinfo.h"

#include "src/pg_llm.h"
#include "src/query.h"

SPIPlanPtr
LlmPlan(LlmQuery *query)
{
	StringInfoData text;
	const char *schema;

	if (query->plan && query->schema == LlmNamespace())
		return query->plan;
	if (query->plan)
		SPI_freeplan(query->plan);
	query->plan = NULL;
	schema = LlmSchema();
	initStringInfo(&text);
	for (const char *c = query->text; *c; c++)
		if (c[0] == '%' && c[1] == 's')
		{
			appendStringInfoString(&text, schema);
			c++;
		}
		else
			appendStringInfoChar(&text, *c);
	/* A plan made for its values would hold copies of them, and a value may be a tensor of hundreds of MB. */
	query->plan = SPI_prepare_cursor(text.data, query->nargs, query->types, CURSOR_OPT_GENERIC_PLAN);
	if (query->plan == NULL)
		elog(ERROR, "pg_llm: cannot prepare \"%s\": %s", text.data, SPI_result_code_string(SPI_result));
	SPI_keepplan(query->plan);
	query->schema = LlmNamespace();
	return query->plan;
}

void
LlmRun(LlmQuery *query, Datum *values, const char *nulls, bool read_only, long limit)
{
	int code = SPI_execute_plan(LlmPlan(query), values, nulls, read_only, limit);

	if (code < 0)
		elog(ERROR, "pg_llm: \"%s\" failed: %s", query->text, SPI_result_code_string(code));
}

char *
LlmField(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}
