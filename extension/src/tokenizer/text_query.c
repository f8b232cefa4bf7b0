#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "tcop/cmdtag.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"

#include "src/base/memory.h"
#include "src/tokenizer/text_query.h"
#include "src/tokenizer/tokenizer.h"

#define FETCH 16 /* rows at a time; a document may have a megabyte */
#define EXAMPLE                                                                                              \
	"corpus is a query with one column of text, such as 'SELECT body FROM documents', or "                   \
	"format('SELECT %L', text) for a text itself."

/* Explains the syntax error that usually follows when text is passed in place of a query. */
static void
ExplainCorpus(void *query)
{
	if (geterrcode() == ERRCODE_SYNTAX_ERROR)
		errhint("%s", EXAMPLE);
	errcontext("the corpus query");
}

static Portal
OpenQuery(const char *query)
{
	SPIPlanPtr plan = SPI_prepare(query, 0, NULL);
	List *sources = plan != NULL ? SPI_plan_get_plan_sources(plan) : NIL;
	CachedPlanSource *source;

	if (list_length(sources) != 1)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("the corpus is one query, not %d", list_length(sources)), errhint("%s", EXAMPLE)));
	source = linitial(sources);
	if (source->commandTag != CMDTAG_SELECT)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("the corpus is a SELECT, not %s", GetCommandTagName(source->commandTag)),
						   errhint("%s", EXAMPLE)));
	if (linitial_node(Query, source->query_list)->hasModifyingCTE)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("the corpus query writes to a table, and it may only read"), errhint("%s", EXAMPLE)));
	return SPI_cursor_open(NULL, plan, NULL, NULL, true);
}

static void
CheckColumns(TupleDesc columns)
{
	Oid type = columns->natts > 0 ? getBaseType(TupleDescAttr(columns, 0)->atttypid) : InvalidOid;

	if (columns->natts != 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("the corpus query returns %d columns, expected one", columns->natts),
						   errhint("%s", EXAMPLE)));
	if (type != TEXTOID && type != VARCHAROID && type != BPCHAROID)
		ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
				errmsg("the corpus query returns a column of type %s, expected text", format_type_be(type)),
				errhint("Cast it in the query: SELECT (...)::text.")));
}

Corpus *
CorpusOpen(const char *query)
{
	Corpus *corpus = palloc0(sizeof(Corpus));
	ErrorContextCallback context = {error_context_stack, ExplainCorpus, NULL};

	error_context_stack = &context;
	corpus->portal = OpenQuery(query);
	error_context_stack = context.previous;
	CheckColumns(corpus->portal->tupDesc);
	corpus->memory = AllocSetContextCreate(CurrentMemoryContext, "corpus text", ALLOCSET_DEFAULT_SIZES);
	return corpus;
}

/* Fetched rows are kept apart from SPI_tuptable, which the caller's own queries overwrite in the meantime. */
static bool
Fetch(Corpus *corpus)
{
	ErrorContextCallback context = {error_context_stack, ExplainCorpus, NULL};

	if (corpus->rows != NULL)
		SPI_freetuptable(corpus->rows);
	error_context_stack = &context;
	SPI_cursor_fetch(corpus->portal, true, FETCH);
	error_context_stack = context.previous;
	corpus->rows = SPI_tuptable;
	corpus->row = 0;
	return SPI_processed > 0;
}

const char *
CorpusNext(Corpus *corpus, Size *size)
{
	for (;;)
	{
		MemoryContext outer;
		bool null;
		Datum value;
		char *utf8;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(corpus->memory);
		if ((corpus->rows == NULL || corpus->row == corpus->rows->numvals) && !Fetch(corpus))
			return NULL;
		value = SPI_getbinval(corpus->rows->vals[corpus->row++], corpus->rows->tupdesc, 1, &null);
		if (null)
			continue;
		outer = MemoryContextSwitchTo(corpus->memory);
		utf8 = TokenizerUtf8(DetoastWhole(value), size);
		MemoryContextSwitchTo(outer);
		if (*size == 0)
			continue;
		corpus->documents++;
		return utf8;
	}
}

void
CorpusClose(Corpus *corpus)
{
	SPI_cursor_close(corpus->portal);
	if (corpus->documents == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the corpus query returned no text"),
						   errhint("%s", EXAMPLE)));
	MemoryContextDelete(corpus->memory);
}
