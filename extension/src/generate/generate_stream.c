/*
 * llm_generate as rows: one row per call, so that each row is sent as soon as it is made.
 */
#include "postgres.h"

#include "funcapi.h"
/* Debian's server headers refer to GSSAPI's headers, which may not be installed; nothing here uses them. */
#undef ENABLE_GSS
#include "libpq/libpq.h"
#include "mb/pg_wchar.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

#include "src/generate/generate.h"

/* The length of the complete characters: an incomplete one at the end waits for the next token. */
static int
WholeCharacters(const char *bytes, int length)
{
	int start = length;

	for (int back = 1; back <= 4 && back <= length; back++)
	{
		unsigned char c = bytes[length - back];

		if ((c & 0xc0) == 0x80)
			continue;
		if (c >= 0xc0 && pg_utf_mblen((const unsigned char *) bytes + length - back) > back)
			start = length - back;
		break;
	}
	return start;
}

static Datum
StreamRow(FuncCallContext *call, Generation *g)
{
	int32 id = g->ids[g->count - 1];
	int shown = g->complete ? g->bytes.len : WholeCharacters(g->bytes.data, g->bytes.len);
	Datum values[5];
	bool nulls[5] = {0};

	values[0] = Int32GetDatum(g->count - g->prompt);
	values[1] = Int32GetDatum(id);
	nulls[2] = !TextOfToken(g->bpe, id, &values[2]);
	values[3] = PointerGetDatum(TokenizerText(g->bytes.data, shown));
	values[4] = BoolGetDatum(g->complete);
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
	Generation *g;
	bool more;
	MemoryContext caller;

	if (SRF_IS_FIRSTCALL())
	{
		call = SRF_FIRSTCALL_INIT();
		caller = MemoryContextSwitchTo(call->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &call->tuple_desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "_llm_generate_rows must return a row type");
		call->tuple_desc = BlessTupleDesc(call->tuple_desc);
		call->user_fctx = GenerationFromArguments(fcinfo);
		MemoryContextSwitchTo(caller);
	}
	else if (whereToSendOutput == DestRemote)
		pq_flush();
	call = SRF_PERCALL_SETUP();
	g = call->user_fctx;
	caller = MemoryContextSwitchTo(call->multi_call_memory_ctx);
	more = GenerationStep(g);
	MemoryContextSwitchTo(caller);
	if (!more)
		SRF_RETURN_DONE(call);
	SRF_RETURN_NEXT(call, StreamRow(call, g));
}
