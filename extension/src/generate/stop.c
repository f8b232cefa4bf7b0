/*
 * Texts that end a continuation, as transformers' stop_strings do: at the token in which one of them ends,
 * also if it begins in the prompt. They are compared as bytes of UTF-8.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"

#include "src/base/memory.h"
#include "src/generate/generate.h"

void
StopArgument(Generation *g, FunctionCallInfo fcinfo, int n)
{
	Datum *elements;
	bool *nulls;

	if (PG_ARGISNULL(n))
		return;
	deconstruct_array((ArrayType *) DetoastWhole(PG_GETARG_DATUM(n)), TEXTOID, -1, false, TYPALIGN_INT,
		&elements, &nulls, &g->stops);
	g->stop = palloc(sizeof(StopText) * Max(1, g->stops));
	for (int i = 0; i < g->stops; i++)
	{
		const char *utf8;

		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("stop must not contain NULL")));
		utf8 = TokenizerUtf8(DatumGetTextPP(elements[i]), &g->stop[i].size);
		ReserveMemory(g->stop[i].size);
		g->stop[i].bytes = pnstrdup(utf8, g->stop[i].size); /* a stream outlives the call */
		if (g->stop[i].size == 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							   errmsg("stop contains an empty text, which would end every continuation"),
							   errhint("NULL or an empty array stops at no text.")));
	}
}

bool
StopReached(Generation *g, int before)
{
	int end = g->bytes.len;

	for (int i = 0; i < g->stops; i++)
	{
		int size = (int) g->stop[i].size;

		for (int at = Max(0, before + 1 - size); at + size <= g->bytes.len && at < end; at++)
			if (memcmp(g->bytes.data + at, g->stop[i].bytes, size) == 0)
				end = at;
	}
	if (end == g->bytes.len)
		return false;
	g->bytes.len = Max(end, g->prompt_bytes);
	return true;
}

int
GenerationShown(const Generation *g)
{
	int shown = g->bytes.len;

	for (int i = 0; i < g->stops && !g->complete; i++)
		for (int begun = Min(g->bytes.len, (int) g->stop[i].size - 1); begun > g->bytes.len - shown; begun--)
			if (memcmp(g->bytes.data + g->bytes.len - begun, g->stop[i].bytes, begun) == 0)
				shown = g->bytes.len - begun;
	return Max(shown, g->prompt_bytes);
}
