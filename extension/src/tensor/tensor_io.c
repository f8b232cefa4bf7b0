/*
 * Input and output of tensors: text for people, binary for programs.
 *
 * Binary form, all little-endian: int32 ndim, ndim int32 dimensions, then the elements as float32 in
 * row-major order. A client on any common machine reads the elements in place, without a copy.
 */
#include "postgres.h"

#include <math.h>

#include "common/shortest_dec.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#if PG_VERSION_NUM >= 160000
#include "nodes/miscnodes.h"
#endif

#include "engine/parallel.h"
#include "formats/tensor_text.h"
#include "src/base/copy.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/progress.h"
#include "src/base/settings.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(tensor_in);
PG_FUNCTION_INFO_V1(tensor_out);
PG_FUNCTION_INFO_V1(tensor_to_json);
PG_FUNCTION_INFO_V1(tensor_recv);
PG_FUNCTION_INFO_V1(tensor_send);

static int
TextSqlState(LlmCode code)
{
	return code == LLM_RANGE   ? ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE
		   : code == LLM_LIMIT ? ERRCODE_PROGRAM_LIMIT_EXCEEDED
		   : code == LLM_SHAPE ? ERRCODE_ARRAY_SUBSCRIPT_ERROR
							   : ERRCODE_INVALID_TEXT_REPRESENTATION;
}

/* Reports a soft error to a caller that asked for one (pg_input_is_valid, COPY … ON_ERROR), and raises an
 * ERROR otherwise. */
static Datum
TextError(FunctionCallInfo fcinfo, const LlmError *err)
{
	if (err->code == LLM_CANCELED)
		RaiseError(err);
#if PG_VERSION_NUM >= 160000
	ereturn(fcinfo->context, (Datum) 0,
		(errcode(TextSqlState(err->code)), errmsg("%s", err->message),
			err->hint[0] ? errhint("%s", err->hint) : 0));
#else
	ereport(ERROR, (errcode(TextSqlState(err->code)), errmsg("%s", err->message),
					   err->hint[0] ? errhint("%s", err->hint) : 0));
	return (Datum) 0;
#endif
}

Datum
tensor_in(PG_FUNCTION_ARGS)
{
	char *text = PG_GETARG_CSTRING(0);
	int32 typmod = PG_GETARG_INT32(2);
	LlmError err = {0};
	int dims[LLM_MAX_DIMS];
	int ndim;
	Tensor *t;

	if (llm_tensor_text_shape(text, &CancelStop, &ndim, dims, &err) != LLM_OK ||
		!TypmodAccepts(typmod, ndim, dims, &err))
		return TextError(fcinfo, &err);
	t = TensorNew(ndim, dims);
	if (llm_tensor_text_values(text, &CancelStop, TensorNumel(t), TENSOR_DATA(t), &err) != LLM_OK)
		return TextError(fcinfo, &err);
	TensorCanonicalize(t);
	PG_RETURN_TENSOR(t);
}

/* Elements written between two checks for a cancel request. */
#define AT_ONCE 4096

/* json: what is no number there is a string. */
static void
AppendFloat(StringInfo out, float value, bool json)
{
	char text[FLOAT_SHORTEST_DECIMAL_LEN];
	const char *quote = json && !isfinite(value) ? "\"" : "";

	if (out->len > (int) (MaxAllocSize - sizeof(text) - 2 * LLM_MAX_DIMS))
		ereport(
			ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("the text of this tensor passes 1 GB"),
					   errhint("SET pg_llm.display_limit = 100 shows a summary; binary output is smaller.")));
	appendStringInfoString(out, quote);
	appendBinaryStringInfo(out, text, float_to_shortest_decimal_bufn(value, text));
	appendStringInfoString(out, quote);
}

/* Appends the elements from x on that share one index of all earlier axes; returns a pointer past them. */
static const float *
AppendAxis(StringInfo out, const Tensor *t, int axis, const float *x, bool json)
{
	if (axis == t->ndim)
	{
		AppendFloat(out, *x, json);
		return x + 1;
	}
	appendStringInfoChar(out, '[');
	for (int i = 0; i < t->dims[axis]; i++)
	{
		if (i % AT_ONCE == 0)
			CHECK_FOR_INTERRUPTS();
		if (i > 0)
			appendStringInfoChar(out, ',');
		x = AppendAxis(out, t, axis + 1, x, json);
	}
	appendStringInfoChar(out, ']');
	return x;
}

static void
AppendElements(StringInfo out, const Tensor *t, bool json)
{
	Size most = Min(TensorNumel(t) * FLOAT_SHORTEST_DECIMAL_LEN, MaxAllocSize);

	ReserveResult(most, most);
	AppendAxis(out, t, 0, TENSOR_DATA(t), json);
}

static void
AppendRounded(StringInfo out, double value)
{
	if (isnan(value))
		appendStringInfoString(out, "NaN");
	else if (isinf(value))
		appendStringInfoString(out, value > 0 ? "Infinity" : "-Infinity");
	else
		appendStringInfo(out, "%.3g", value);
}

/* tensor(50257,768) [-0.11, 0.0403, …] mean -0.000411 sd 0.144 */
static void
AppendSummary(StringInfo out, const Tensor *t)
{
	const float *x = TENSOR_DATA(t);
	int64 numel = TensorNumel(t);
	double mean, squares;
	LlmError err;

	LLM_CHECK(llm_sum(numel, x, &mean, &err), &err);
	mean /= numel;
	LLM_CHECK(llm_sum_squares(numel, x, (float) mean, &squares, ContextAllocator(), &err), &err);
	appendStringInfo(out, "tensor%s [", TensorShape(t));
	for (int i = 0; i < Min(numel, 3); i++)
	{
		AppendRounded(out, x[i]);
		appendStringInfoString(out, i + 1 < numel ? ", " : "");
	}
	if (numel > 3)
		appendStringInfoString(out, GetDatabaseEncoding() == PG_UTF8 ? "…" : "...");
	appendStringInfoString(out, "] mean ");
	AppendRounded(out, mean);
	appendStringInfoString(out, " sd ");
	AppendRounded(out, sqrt(squares / numel));
}

/* Brackets alone cannot distinguish (0,3) from (0); [[],[]] is unambiguous, and used as long as it stays
 * short. */
static bool
BracketsTellShape(const Tensor *t)
{
	int64 rows = 1;

	for (int i = 0; i < t->ndim - 1 && rows > 0 && rows <= 1000; i++)
		rows *= t->dims[i];
	return rows > 0 && rows <= 1000;
}

Datum
tensor_out(PG_FUNCTION_ARGS)
{
	Tensor *t = PG_GETARG_TENSOR(0);
	int64 numel = TensorNumel(t);
	StringInfoData out;

	initStringInfo(&out);
	if (numel == 0 && !BracketsTellShape(t))
		appendStringInfo(&out, "tensor%s []", TensorShape(t));
	else if (pg_llm_display_limit > 0 && numel > pg_llm_display_limit && !pg_llm_copying)
		AppendSummary(&out, t);
	else
		AppendElements(&out, t, false);
	PG_RETURN_CSTRING(out.data);
}

Datum
tensor_to_json(PG_FUNCTION_ARGS)
{
	StringInfoData out;

	initStringInfo(&out);
	AppendElements(&out, PG_GETARG_TENSOR(0), true);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}

/* The next little-endian int32 of a message. */
static int32
GetLittleEndian32(StringInfo message)
{
	unsigned char b[4];

	pq_copymsgbytes(message, (char *) b, 4);
	return (int32) (b[0] | (uint32) b[1] << 8 | (uint32) b[2] << 16 | (uint32) b[3] << 24);
}

Datum
tensor_recv(PG_FUNCTION_ARGS)
{
	StringInfo message = (StringInfo) PG_GETARG_POINTER(0);
	int32 typmod = PG_GETARG_INT32(2);
	int32 ndim = GetLittleEndian32(message);
	int dims[LLM_MAX_DIMS];
	LlmError err = {0};
	Size size;
	Tensor *t;

	if (ndim < 0 || ndim > LLM_MAX_DIMS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
						   errmsg("binary tensor: %d dimensions; 0 to %d are possible", ndim, LLM_MAX_DIMS),
						   errhint("All numbers of the message are little-endian.")));
	for (int i = 0; i < ndim; i++)
		dims[i] = GetLittleEndian32(message);
	size = TensorDataSize(ndim, dims);
	if (size != message->len - message->cursor)
		ereport(ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
						   errmsg("binary tensor: shape %s needs %zu bytes of elements, %d follow",
							   ShapeToString(ndim, dims), size, message->len - message->cursor)));
	if (!TypmodAccepts(typmod, ndim, dims, &err))
		RaiseError(&err);
	t = TensorNew(ndim, dims);
	CopyMemory(TENSOR_DATA(t), pq_getmsgbytes(message, (int) size), size);
	TensorCanonicalize(t);
	ProgressSqlStep("import"); /* rows of a COPY come one by one */
	PG_RETURN_TENSOR(t);
}

Datum
tensor_send(PG_FUNCTION_ARGS)
{
	Tensor *t = PG_GETARG_TENSOR(0);
	int32 ndim = t->ndim;
	StringInfoData message;

	ReserveResult(VARSIZE(t), VARSIZE(t));
	pq_begintypsend(&message);
	enlargeStringInfo(&message, VARSIZE(t));
	appendBinaryStringInfo(&message, (char *) &ndim, sizeof(ndim));
	CopyMemory(message.data + message.len, t->dims, VARSIZE(t) - offsetof(Tensor, dims));
	message.len += VARSIZE(t) - offsetof(Tensor, dims);
	PG_RETURN_BYTEA_P(pq_endtypsend(&message));
}
