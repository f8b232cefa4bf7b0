/*
 * Prepared SPI statements of the extension itself. The text names the extension's schema as %s (each one is
 * replaced), so that nothing in search_path or pg_temp can stand in for a table.
 */
#ifndef LLM_SRC_BASE_SPI_H
#define LLM_SRC_BASE_SPI_H

#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"

/*
 * columns says what the rows hold, a letter a column: i l f d b x for int4, int8, float4, float8, boolean and
 * xid, s text, n name, j jsonb, y bytea, t tensor, r a row of a table, I L S for arrays of int4, int8 and
 * text; with ? where NULL is expected. one: the statement must bring, or write, one row. Tables may have been
 * altered by hand, functions replaced and triggers added, whatever constraints and declarations promise: what
 * is not as declared here is an ERROR before other code sees it.
 */
typedef struct LlmQuery
{
	const char *text;
	int nargs;
	Oid types[12];
	const char *columns;
	bool one;
	/* private */
	SPIPlanPtr plan;
	Oid extension;
} LlmQuery;

/* The plan, made on first use. Call inside SPI_connect. */
extern SPIPlanPtr LlmPlan(LlmQuery *query);
/* Runs it; read_only reads by the statement's own snapshot. ERROR unless the result code is the expected
 * kind. */
extern void LlmRun(LlmQuery *query, Datum *values, const char *nulls, bool read_only, long limit);
/* A cursor over its rows, by the statement's own snapshot. */
extern Portal LlmOpen(LlmQuery *query, Datum *values);
/* A cursor over its rows, by a new snapshot: it sees what this statement has written so far. */
extern Portal LlmOpenLatest(LlmQuery *query, Datum *values);
/* The cursor's next rows, at most n, in SPI_tuptable; false where there are none. */
extern bool LlmFetch(LlmQuery *query, Portal portal, long n);
/* Column of a row of SPI_tuptable: NULL gives NULL, else palloc'd text in the caller's context. */
extern char *LlmField(uint64 row, int column);
/* Text of the server's encoding in UTF-8, as files hold it. */
extern char *LlmUtf8(const char *text);
/* A function's row result; nulls NULL: no column is. */
extern Datum LlmRowResult(FunctionCallInfo fcinfo, Datum *values, bool *nulls);
/* The same of n tensors or buffers with full headers, which may be large; and ERROR, before they are made,
 * where a row cannot hold so many elements. */
extern Datum LlmLargeRow(FunctionCallInfo fcinfo, struct varlena *const *values, int n);
extern void LlmCheckRow(int64 numel);

#endif
