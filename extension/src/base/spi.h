/*
 * Prepared SPI statements of the extension itself. The text writes the extension's schema as %s (each
 * occurrence is replaced), so that nothing in search_path or pg_temp can take a table's place.
 */
#ifndef LLM_SRC_BASE_SPI_H
#define LLM_SRC_BASE_SPI_H

#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"

/*
 * columns declares the result's columns, one letter each: i l f d b x for int4, int8, float4, float8, boolean
 * and xid, s text, n name, j jsonb, y bytea, t tensor, r a row of a table, I L S T for arrays of int4, int8,
 * text and tensor; followed by ? if NULL is expected. one: the statement must return, or write, exactly one
 * row. Tables may have been altered by hand, functions replaced and triggers added, whatever constraints and
 * declarations promise: a result that differs from this declaration is an ERROR before other code sees it.
 */
typedef struct SpiQuery
{
	const char *text;
	int nargs;
	Oid types[12];
	const char *columns;
	bool one;
	/* private */
	SPIPlanPtr plan;
	Oid extension;
} SpiQuery;

/* The plan, made on first use. Call inside SPI_connect. */
extern SPIPlanPtr SpiPlan(SpiQuery *query);
/* Runs the query; read_only reads with the statement's own snapshot. ERROR unless the result code is of the
 * expected kind. */
extern void SpiRun(SpiQuery *query, Datum *values, const char *nulls, bool read_only, long limit);
/* A cursor over its rows, with the statement's own snapshot. */
extern Portal SpiOpen(SpiQuery *query, Datum *values);
/* A cursor over its rows, with a new snapshot that sees what this statement has written so far. */
extern Portal SpiOpenLatest(SpiQuery *query, Datum *values);
/* Fetches up to n of the cursor's next rows into SPI_tuptable; false if there are none. */
extern bool SpiFetch(SpiQuery *query, Portal portal, long n);
/* A column of a row of SPI_tuptable as text palloc'd in the caller's context; NULL stays NULL. */
extern char *SpiField(uint64 row, int column);
/* Converts text from the server's encoding to UTF-8, the encoding of files. */
extern char *ServerToUtf8(const char *text);
/* A function's row result; nulls may be NULL if no column is null. */
extern Datum RowResult(FunctionCallInfo fcinfo, Datum *values, bool *nulls);
/* The same for n tensors or buffers with full headers, which may be large; CheckRowSize raises an ERROR
 * before they are made if a row cannot hold so many elements. */
extern Datum LargeRowResult(FunctionCallInfo fcinfo, struct varlena *const *values, int n);
extern void CheckRowSize(int64 numel);

#endif
