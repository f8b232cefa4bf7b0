#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/guc.h"

#include "src/pg_llm.h"
#include "src/query.h"

SPIPlanPtr
LlmPlan(LlmQuery *query)
{
	StringInfoData text;
	const char *schema;

	/* the type tells one CREATE EXTENSION from the next, even in the same schema */
	if (query->plan && query->extension == LlmTensorType())
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
	query->extension = LlmTensorType();
	return query->plan;
}

/* Tables are named with their schema, but operators are not: whatever stands before pg_catalog must not
 * count. */
static int
SafePath(void)
{
	int level = NewGUCNestLevel();

	set_config_option(
		"search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

void
LlmRun(LlmQuery *query, Datum *values, const char *nulls, bool read_only, long limit)
{
	int level = SafePath();
	int code = SPI_execute_plan(LlmPlan(query), values, nulls, read_only, limit);

	if (code < 0)
		elog(ERROR, "pg_llm: \"%s\" failed: %s", query->text, SPI_result_code_string(code));
	AtEOXact_GUC(true, level);
}

static Portal
Open(LlmQuery *query, Datum *values, bool read_only)
{
	int level = SafePath();
	Portal portal = SPI_cursor_open(NULL, LlmPlan(query), values, NULL, read_only);

	AtEOXact_GUC(true, level);
	return portal;
}

Portal
LlmOpen(LlmQuery *query, Datum *values)
{
	return Open(query, values, true);
}

Portal
LlmOpenLatest(LlmQuery *query, Datum *values)
{
	return Open(query, values, false);
}

char *
LlmField(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}
