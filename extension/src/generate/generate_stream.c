/*
 * llm_generate as rows: one row per call, so that each row is sent as soon as it is made.
 */
#include "postgres.h"

#include "funcapi.h"
/* Debian's server headers refer to GSSAPI's headers, which may not be installed; nothing here uses them. */
#undef ENABLE_GSS
#include "libpq/libpq.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

#include "formats/unicode.h"
#include "src/generate/generate.h"

typedef struct Stream
{
	Generation *g;
	int shown; /* bytes of the text that the rows so far have shown */
} Stream;

/*
 * The length of the text to show: an incomplete character at the end, or what may begin a stop text, waits
 * for the next token.
 */
static int
Shown(const Generation *g)
{
	int shown = GenerationShown(g);

	if (g->complete)
		return g->bytes.len;
	return shown - (int) llm_utf8_unfinished((unsigned char *) g->bytes.data, shown);
}

static Datum
StreamRow(FuncCallContext *call, Stream *stream)
{
	const Generation *g = stream->g;
	int before = stream->shown;
	Datum values[6];
	bool nulls[6] = {0};

	stream->shown = Shown(g);
	values[0] = Int32GetDatum(g->count - g->prompt);
	values[1] = Int32GetDatum(g->ids[g->count - 1]);
	values[2] = PointerGetDatum(TokenizerText(g->bytes.data + before, stream->shown - before));
	values[3] = PointerGetDatum(TokenizerText(g->bytes.data, stream->shown));
	values[4] = BoolGetDatum(g->complete);
	values[5] = Float8GetDatum(g->logprob);
	return HeapTupleGetDatum(heap_form_tuple(call->tuple_desc, values, nulls));
}

/*
 * One row per call, so that each row is sent as soon as it is made. The server's send buffer would hold small
 * rows back, so each later call flushes the rows before it.
 */
PG_FUNCTION_INFO_V1(llm_generate_rows);
Datum
llm_generate_rows(PG_FUNCTION_ARGS)
{
	FuncCallContext *call;
	Stream *stream;
	Prompt prompt;
	bool more;
	MemoryContext caller;

	if (SRF_IS_FIRSTCALL())
	{
		call = SRF_FIRSTCALL_INIT();
		caller = MemoryContextSwitchTo(call->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &call->tuple_desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "_llm_generate_rows must return a row type");
		call->tuple_desc = BlessTupleDesc(call->tuple_desc);
		prompt = PromptArgument(fcinfo, 12);
		stream = palloc(sizeof(Stream));
		stream->g = GenerationFromArguments(fcinfo, &prompt);
		stream->g->exec = GenerationExec(stream->g->m, stream->g->most);
		stream->shown = Shown(stream->g);
		call->user_fctx = stream;
		MemoryContextSwitchTo(caller);
	}
	else if (whereToSendOutput == DestRemote)
		pq_flush();
	call = SRF_PERCALL_SETUP();
	stream = call->user_fctx;
	caller = MemoryContextSwitchTo(call->multi_call_memory_ctx);
	more = GenerationStep(stream->g);
	MemoryContextSwitchTo(caller);
	if (!more)
		SRF_RETURN_DONE(call);
	SRF_RETURN_NEXT(call, StreamRow(call, stream));
}
