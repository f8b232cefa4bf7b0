/*
 * The tokenizer's SQL functions: encoding, decoding and inspection.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "formats/unicode.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/tokenizer/tokenizer.h"

/* The longest word that llm_bpe_steps accepts: each of its rows holds all remaining symbols. */
#define STEPS_MAX 1024
/* Ids decoded between two checks for interrupts. */
#define CHUNK ((Size) 1 << 18)

PG_FUNCTION_INFO_V1(llm_encode);
PG_FUNCTION_INFO_V1(llm_decode);
PG_FUNCTION_INFO_V1(llm_decode_bytes);
PG_FUNCTION_INFO_V1(llm_token_text);
PG_FUNCTION_INFO_V1(llm_pretokenize);
PG_FUNCTION_INFO_V1(llm_pretokenize_model);
PG_FUNCTION_INFO_V1(llm_bpe_steps);
PG_FUNCTION_INFO_V1(llm_bpe_text);

Datum
llm_encode(PG_FUNCTION_ARGS)
{
	text *input = DetoastWhole(PG_GETARG_DATUM(0));
	LlmBpe *bpe = TokenizerOf(text_to_cstring(PG_GETARG_TEXT_PP(1)), CurrentMemoryContext);
	Size count, size;
	int32 *ids =
		TokenizerEncode(bpe, VARDATA_ANY(input), VARSIZE_ANY_EXHDR(input), PG_GETARG_BOOL(2), &count);
	ArrayType *array;

	if (count == 0)
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(INT4OID));
	size = ARR_OVERHEAD_NONULLS(1) + count * sizeof(int32);
	if (size > MaxAllocSize)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						   errmsg("the text has %zu tokens, more than one array holds", count),
						   errhint("Encode the text in pieces.")));
	ReserveResult(size, LLM_ELEMENT_SHOWN * count);
	array = palloc0(ARR_OVERHEAD_NONULLS(1));
	array = repalloc(array, size);
	SET_VARSIZE(array, size);
	array->ndim = 1;
	array->dataoffset = 0;
	array->elemtype = INT4OID;
	ARR_DIMS(array)[0] = (int) count;
	ARR_LBOUND(array)[0] = 1;
	CopyMemory(ARR_DATA_PTR(array), ids, count * sizeof(int32));
	PG_RETURN_ARRAYTYPE_P(array);
}

/* llm_bpe_decode in parts, so that a cancel interrupts it. */
static Size
DecodeIds(const LlmBpe *bpe, const int32 *ids, Size count, char *out)
{
	Size size = 0;

	for (Size at = 0; at < count; at += CHUNK)
	{
		size_t chunk = Min(count - at, CHUNK), done;

		size += llm_bpe_decode(bpe, ids + at, chunk, out != NULL ? out + size : NULL, &done);
		if (done < chunk)
			TokenizerNoToken(bpe, ids[at + done], at + done + 1);
		CHECK_FOR_INTERRUPTS();
	}
	return size;
}

/* The bytes of the tokens given by the arguments (ids int[], model text). */
static bytea *
DecodeArguments(FunctionCallInfo fcinfo)
{
	ArrayType *array = (ArrayType *) DetoastWhole(PG_GETARG_DATUM(0));
	const int32 *ids = (const int32 *) ARR_DATA_PTR(array);
	LlmBpe *bpe = TokenizerOf(text_to_cstring(PG_GETARG_TEXT_PP(1)), CurrentMemoryContext);
	Size count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)), size;
	bytea *result;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				errmsg("token ids are a one-dimensional array, not one of %d dimensions", ARR_NDIM(array)),
				errhint("Decode each row of the array by itself.")));
	if (array_contains_nulls(array))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("a token id is NULL"),
						   errhint("Leave it out: array_remove(ids, NULL).")));
	size = DecodeIds(bpe, ids, count, NULL);
	if (size > MaxAllocSize - VARHDRSZ - LLM_BPE_SLACK)
		TokenizerTooLong();
	ReserveResult(size, LLM_BYTES_SHOWN * size);
	result = palloc(VARHDRSZ + size + LLM_BPE_SLACK);
	DecodeIds(bpe, ids, count, VARDATA(result));
	SET_VARSIZE(result, VARHDRSZ + size);
	return result;
}

Datum
llm_decode(PG_FUNCTION_ARGS)
{
	bytea *bytes = DecodeArguments(fcinfo);

	const char *data = VARDATA(bytes);
	Size size = VARSIZE(bytes) - VARHDRSZ;

	/* usually the bytes are valid text without conversion */
	if (GetDatabaseEncoding() == PG_UTF8 && TokenizerIsText(data, size))
		PG_RETURN_TEXT_P(bytes);
	PG_RETURN_TEXT_P(TokenizerText(data, size));
}

Datum
llm_decode_bytes(PG_FUNCTION_ARGS)
{
	PG_RETURN_BYTEA_P(DecodeArguments(fcinfo));
}

/* Bytes as readable text: bytes that are no character, and invisible characters, appear as
 * , \t or \xhh. */
static text *
ReadableText(const char *bytes, Size size)
{
	StringInfoData out;

	initStringInfo(&out);
	for (Size at = 0; at < size;)
	{
		LlmChar c = llm_utf8_read((const unsigned char *) bytes + at, size - at);

		if (c.valid && c.code_point == '\n')
			appendStringInfoString(&out, "\\n");
		else if (c.valid && c.code_point == '\t')
			appendStringInfoString(&out, "\\t");
		else if (c.valid && c.code_point >= 0x20 && (c.code_point < 0x7f || c.code_point > 0x9f))
			appendBinaryStringInfo(&out, bytes + at, c.length);
		else
			for (int i = 0; i < c.length; i++)
				appendStringInfo(&out, "\\x%02x", (unsigned char) bytes[at + i]);
		at += c.length;
	}
	return TokenizerText(out.data, out.len);
}

Datum
llm_token_text(PG_FUNCTION_ARGS)
{
	LlmBpe *bpe = TokenizerOf(text_to_cstring(PG_GETARG_TEXT_PP(1)), CurrentMemoryContext);
	StringInfoData bytes;

	initStringInfo(&bytes);
	TokenizerAppend(bpe, PG_GETARG_INT32(0), 1, &bytes);
	PG_RETURN_TEXT_P(ReadableText(bytes.data, bytes.len));
}

Datum
llm_bpe_text(PG_FUNCTION_ARGS)
{
	bytea *bytes = DetoastWhole(PG_GETARG_DATUM(0));
	Size size = VARSIZE_ANY_EXHDR(bytes);
	char *form;

	ReserveMemory(2 * size);
	form = palloc_extended(2 * size + 1, MCXT_ALLOC_HUGE);
	size = llm_bpe_to_text((const unsigned char *) VARDATA_ANY(bytes), size, form);
	form[size] = '\0';
	PG_RETURN_TEXT_P(cstring_to_text(pg_any_to_server(form, (int) size, PG_UTF8)));
}

static Size
PieceEnd(const LlmBpe *bpe, const char *text, Size size, Size at)
{
	size_t end = bpe != NULL ? llm_bpe_own_piece_end(bpe, text, size, at, &CancelStop)
							 : llm_bpe_piece_end(text, size, at, &CancelStop);

	CHECK_FOR_INTERRUPTS();
	if (end == SIZE_MAX)
		ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("canceled at byte %zu of %zu", at, size)));
	return end;
}

/* The pieces as rows; bpe NULL: by GPT-2's pattern. */
static Datum
Pieces(FunctionCallInfo fcinfo, const LlmBpe *bpe)
{
	ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;
	Size size, at = 0, end;
	const char *utf8 = TokenizerUtf8(DetoastWhole(PG_GETARG_DATUM(0)), &size);
	size_t marked = 0; /* where the next token begins that is found as it is */
	uint32_t symbol = 0;
	MemoryContext row =
		AllocSetContextCreate(CurrentMemoryContext, "llm_pretokenize row", ALLOCSET_SMALL_SIZES);
	LlmError err;

	if (bpe != NULL)
		utf8 = TokenizerNormal(bpe, utf8, &size);
	InitMaterializedSRF(fcinfo, 0);
	for (int position = 1; at < size; position++, at = end)
	{
		MemoryContext outer = MemoryContextSwitchTo(row);
		Datum values[2];
		bool nulls[2] = {false, false};

		if (bpe != NULL && at >= marked)
			LLM_CHECK(
				llm_bpe_find_marked(bpe, utf8, size, false, at, &marked, &symbol, &CancelStop, &err), &err);
		if (bpe == NULL)
			end = PieceEnd(bpe, utf8, size, at);
		else if (at == marked)
			end = at + llm_bpe_token(bpe, symbol).size;
		else
			end = PieceEnd(bpe, utf8, marked, at);
		values[0] = Int32GetDatum(position);
		values[1] = PointerGetDatum(TokenizerText(utf8 + at, end - at));
		tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
		MemoryContextSwitchTo(outer);
		MemoryContextReset(row);
	}
	return (Datum) 0;
}

Datum
llm_pretokenize(PG_FUNCTION_ARGS)
{
	return Pieces(fcinfo, NULL);
}

Datum
llm_pretokenize_model(PG_FUNCTION_ARGS)
{
	return Pieces(fcinfo, TokenizerOf(text_to_cstring(PG_GETARG_TEXT_PP(1)), CurrentMemoryContext));
}

/* ---- llm_bpe_steps ---- */

/* A token's text form, as the tables store it. */
static Datum
TextForm(const LlmBpe *bpe, uint32 symbol)
{
	LlmBpeToken token = llm_bpe_token(bpe, symbol);

	return PointerGetDatum(cstring_to_text_with_len(token.text, (int) token.text_size));
}

/* One row: (step, rank, left_token, right_token, tokens); merge NULL: the bytes before the first merge. */
static void
PutStep(ReturnSetInfo *set, const LlmBpe *bpe, int step, const LlmBpeMerge *merge, const uint32 *symbols,
	Size count)
{
	Datum tokens[STEPS_MAX], values[5] = {Int32GetDatum(step)};
	bool nulls[5] = {false, merge == NULL, merge == NULL, merge == NULL, false};

	for (Size i = 0; i < count; i++)
		tokens[i] = TextForm(bpe, symbols[i]);
	if (merge != NULL)
	{
		values[1] = Int32GetDatum(merge->rank);
		values[2] = TextForm(bpe, merge->left);
		values[3] = TextForm(bpe, merge->right);
	}
	values[4] = PointerGetDatum(construct_array(tokens, (int) count, TEXTOID, -1, false, TYPALIGN_INT));
	tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
}

Datum
llm_bpe_steps(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;
	LlmBpe *bpe = TokenizerOf(text_to_cstring(PG_GETARG_TEXT_PP(1)), CurrentMemoryContext);
	uint32 symbols[STEPS_MAX];
	LlmBpeMerge merge;
	LlmError err;
	Size size;
	size_t count;
	char *word = TokenizerUtf8(DetoastWhole(PG_GETARG_DATUM(0)), &size);
	MemoryContext row =
		AllocSetContextCreate(CurrentMemoryContext, "llm_bpe_steps row", ALLOCSET_SMALL_SIZES);

	InitMaterializedSRF(fcinfo, 0);
	if (size > STEPS_MAX)
		ereport(
			ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					   errmsg("the word has %zu bytes; steps are shown for at most %d", size, STEPS_MAX)));
	if (size > 0 && PieceEnd(bpe, word, size, 0) < size)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("\"%s\" is more than one piece, and merges never cross pieces",
					text_to_cstring(TokenizerText(word, Min(size, 60)))),
				errhint("Show each piece by itself: SELECT p.piece, s.* FROM llm_pretokenize('...') p, "
						"llm_bpe_steps(p.piece) s.")));
	LLM_CHECK(llm_bpe_symbols(bpe, word, size, symbols, &count, &err), &err);
	for (int step = 0; size > 0; step++)
	{
		MemoryContext outer = MemoryContextSwitchTo(row);

		PutStep(set, bpe, step, step > 0 ? &merge : NULL, symbols, count);
		MemoryContextSwitchTo(outer);
		MemoryContextReset(row);
		CHECK_FOR_INTERRUPTS();
		if (!llm_bpe_merge_once(bpe, symbols, &count, &merge))
			break;
	}
	return (Datum) 0;
}
