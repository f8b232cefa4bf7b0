/*
 * The kernels over raw bytea buffers of little-endian float32, row-major, with dimensions as arguments. They
 * are never recorded on the tape.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "fmgr.h"
#include "utils/memutils.h"

#include "engine/layout.h"
#include "engine/parallel.h"
#include "engine/sql_layers.h"
#include "src/base/errors.h"
#include "src/base/machine.h"
#include "src/base/memory.h"
#include "src/ops/kernels_bytea.h"
#include "src/ops/kernels_sql.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(bytea_matmul);
PG_FUNCTION_INFO_V1(bytea_add);
PG_FUNCTION_INFO_V1(bytea_gelu);
PG_FUNCTION_INFO_V1(bytea_softmax);
PG_FUNCTION_INFO_V1(bytea_layernorm);
PG_FUNCTION_INFO_V1(bytea_cross_entropy);
PG_FUNCTION_INFO_V1(bytea_attention);
PG_FUNCTION_INFO_V1(bytea_embedding);
PG_FUNCTION_INFO_V1(bytea_dropout);
PG_FUNCTION_INFO_V1(bytea_transpose);
PG_FUNCTION_INFO_V1(bytea_ones_like);
PG_FUNCTION_INFO_V1(bytea_zeros_like);

int64
ByteaCount(FunctionCallInfo fcinfo, int n, const char *name)
{
	Size size = toast_raw_datum_size(PG_GETARG_DATUM(n)) - VARHDRSZ;

	if (size % sizeof(float) != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("%s has %zu bytes, which is no whole number of float32", name, size)));
	return size / sizeof(float);
}

void
ByteaCheck(FunctionCallInfo fcinfo, int n, const char *name, int64 rows, int64 columns)
{
	int64 count = ByteaCount(fcinfo, n, name);

	if (rows < 0 || columns < 0)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s: a length of (%lld,%lld) is negative", name,
														   (long long) rows, (long long) columns)));
	if ((columns == 0 || rows <= INT64_MAX / columns) && rows * columns == count)
		return;
	ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					   errmsg("%s has %lld floats, shape (%lld,%lld) has another number", name,
						   (long long) count, (long long) rows, (long long) columns),
					   errhint("Buffers are row-major float32, 4 bytes each; weights are (in, out).")));
}

const float *
ByteaFloats(FunctionCallInfo fcinfo, int n)
{
	return (const float *) VARDATA(
		DetoastWhole(PG_GETARG_DATUM(n))); /* with a four-byte header: the floats are aligned */
}

bytea *
ByteaNew(int64 rows, int64 columns, float **x)
{
	int64 count;
	Size size;
	bytea *raw;

	if (__builtin_mul_overflow(rows, columns, &count) ||
		count > (int64) ((MaxAllocSize - VARHDRSZ) / sizeof(float)))
		ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("a result of %lld by %lld floats is too large",
														  (long long) rows, (long long) columns)));
	size = VARHDRSZ + count * sizeof(float);
	ReserveResult(size, LLM_BYTES_SHOWN * size);
	raw = palloc(size);
	MachineHugePages(raw, size);
	SET_VARSIZE(raw, size);
	*x = (float *) VARDATA(raw);
	return raw;
}

Datum
ByteaResult(bytea *raw)
{
	LlmError err;

	LLM_CHECK(
		llm_canonicalize((VARSIZE(raw) - VARHDRSZ) / sizeof(float), (float *) VARDATA(raw), &err), &err);
	PG_RETURN_BYTEA_P(raw);
}

void
CheckRows(const char *what, int64 n, int64 C)
{
	if (C == 0 || n % C != 0)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("%s: %lld floats are no whole rows of gamma's %lld", what, (long long) n,
							   (long long) C)));
}

/* out (m,n) = a (m,k) @ b (k,n) */
Datum
bytea_matmul(PG_FUNCTION_ARGS)
{
	int m = PG_GETARG_INT32(2), k = PG_GETARG_INT32(3), n = PG_GETARG_INT32(4);
	LlmError err = {0};
	float *x;
	bytea *out;

	ByteaCheck(fcinfo, 0, "a", m, k);
	ByteaCheck(fcinfo, 1, "b", k, n);
	out = ByteaNew(m, n, &x);
	LLM_CHECK(llm_matmul(m, n, k, ByteaFloats(fcinfo, 0), ByteaFloats(fcinfo, 1), false, x,
				  ContextAllocator(), &err),
		&err);
	return ByteaResult(out);
}

Datum
bytea_add(PG_FUNCTION_ARGS)
{
	int64 n = ByteaCount(fcinfo, 0, "a");
	LlmError err = {0};
	float *x;
	bytea *out;

	ByteaCheck(fcinfo, 1, "b", 1, n);
	out = ByteaNew(1, n, &x);
	LLM_CHECK(llm_binary(LLM_ADD, 1, n, ByteaFloats(fcinfo, 0), true, true, ByteaFloats(fcinfo, 1), true,
				  true, x, &err),
		&err);
	return ByteaResult(out);
}

Datum
bytea_gelu(PG_FUNCTION_ARGS)
{
	int64 n = ByteaCount(fcinfo, 0, "x");
	LlmError err = {0};
	float *x;
	bytea *out = ByteaNew(1, n, &x);

	LLM_CHECK(llm_unary(LLM_GELU_TANH, n, ByteaFloats(fcinfo, 0), x, &err), &err);
	return ByteaResult(out);
}

/* The whole buffer is one row. */
Datum
bytea_softmax(PG_FUNCTION_ARGS)
{
	int64 n = ByteaCount(fcinfo, 0, "x");
	LlmError err = {0};
	float *x;
	bytea *out = ByteaNew(1, n, &x);

	LLM_CHECK(llm_softmax(1, n, 1.0f, ByteaFloats(fcinfo, 0), x, &err), &err);
	return ByteaResult(out);
}

/* Rows as long as gamma, each normalised by itself. */
Datum
bytea_layernorm(PG_FUNCTION_ARGS)
{
	int64 n = ByteaCount(fcinfo, 0, "x"), C = ByteaCount(fcinfo, 1, "gamma");
	LlmError err = {0};
	float *x;
	bytea *out;

	ByteaCheck(fcinfo, 2, "beta", 1, C);
	CheckRows("layernorm", n, C);
	out = ByteaNew(1, n, &x);
	LLM_CHECK(llm_layernorm(n / C, (int) C, ByteaFloats(fcinfo, 0), ByteaFloats(fcinfo, 1),
				  ByteaFloats(fcinfo, 2), PG_GETARG_FLOAT4(3), x, &err),
		&err);
	return ByteaResult(out);
}

Datum
bytea_cross_entropy(PG_FUNCTION_ARGS)
{
	int V = (int) ByteaCount(fcinfo, 0, "logits");
	int32 target = PG_GETARG_INT32(1);
	LlmError err = {0};
	float loss, mean;

	CheckTarget(target, V, false);
	LLM_CHECK(llm_cross_entropy(1, V, ByteaFloats(fcinfo, 0), &target, &loss, &mean, &err), &err);
	llm_kernels->canonicalize(1, &mean);
	PG_RETURN_FLOAT4(mean);
}

void
CheckAttention(FunctionCallInfo fcinfo, int n_head, int64 T, int64 C)
{
	ByteaCheck(fcinfo, 0, "x", T, C);
	ByteaCheck(fcinfo, 1, "w_qkv", C, 3 * C);
	ByteaCheck(fcinfo, 2, "b_qkv", 1, 3 * C);
	ByteaCheck(fcinfo, 3, "w_o", C, C);
	ByteaCheck(fcinfo, 4, "b_o", 1, C);
	if (n_head < 1 || C < 1 || C % n_head != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("attention: %d heads do not divide %lld channels", n_head, (long long) C),
						   errhint("Each head has the same number of channels.")));
}

LlmAttentionWeights
AttentionWeights(FunctionCallInfo fcinfo)
{
	return (LlmAttentionWeights){
		ByteaFloats(fcinfo, 1), ByteaFloats(fcinfo, 2), ByteaFloats(fcinfo, 3), ByteaFloats(fcinfo, 4)};
}

/* out (T,C) = causal attention of n_head heads over x (T,C) */
Datum
bytea_attention(PG_FUNCTION_ARGS)
{
	int n_head = PG_GETARG_INT32(5), T = PG_GETARG_INT32(6), C = PG_GETARG_INT32(7);
	LlmAttentionWeights weights;
	LlmError err = {0};
	float *x;
	bytea *out;

	CheckAttention(fcinfo, n_head, T, C);
	out = ByteaNew(T, C, &x);
	weights = AttentionWeights(fcinfo);
	LLM_CHECK(llm_attention_layer(
				  1, T, C, n_head, true, ByteaFloats(fcinfo, 0), &weights, x, ContextAllocator(), &err),
		&err);
	return ByteaResult(out);
}

/* out (n,d): the row of the table (V,d) for each of n ids */
Datum
bytea_embedding(PG_FUNCTION_ARGS)
{
	int64 n, count = ByteaCount(fcinfo, 1, "table");
	int32 *ids = IntArrayElements(PG_GETARG_DATUM(0), "ids", &n);
	const float *table;
	int d = PG_GETARG_INT32(2);
	float *x;
	bytea *out;

	if (d < 1 || count % d != 0)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("embedding: %lld floats are no whole rows of %d", (long long) count, d)));
	CheckIds(ids, n, (int) (count / d));
	out = ByteaNew(n, d, &x);
	table = ByteaFloats(fcinfo, 1);
	for (int64 i = 0; i < n; i++)
		CopyMemory(x + i * d, table + (int64) ids[i] * d, d * sizeof(float));
	return ByteaResult(out);
}

Datum
bytea_dropout(PG_FUNCTION_ARGS)
{
	int64 n;
	LlmStream stream;
	LlmError err = {0};
	float *x;
	bytea *out;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	n = ByteaCount(fcinfo, 0, "x");
	out = ByteaNew(1, n, &x);
	stream = llm_stream(SeedArgument(fcinfo, 3), "dropout", 0, 0);
	LLM_CHECK(
		llm_dropout(&stream, PG_GETARG_FLOAT4(1), PG_GETARG_BOOL(2), n, ByteaFloats(fcinfo, 0), x, &err),
		&err);
	return ByteaResult(out);
}

/* out (cols,rows) from x (rows,cols) */
Datum
bytea_transpose(PG_FUNCTION_ARGS)
{
	int dims[2] = {PG_GETARG_INT32(1), PG_GETARG_INT32(2)};
	LlmError err = {0};
	float *x;
	bytea *out;

	ByteaCheck(fcinfo, 0, "x", dims[0], dims[1]);
	out = ByteaNew(dims[1], dims[0], &x);
	LLM_CHECK(llm_permute(2, dims, (int[]){1, 0}, ByteaFloats(fcinfo, 0), x, &err), &err);
	return ByteaResult(out);
}

static Datum
Filled(FunctionCallInfo fcinfo, float value)
{
	int64 n = ByteaCount(fcinfo, 0, "x");
	LlmError err;
	float *x;
	bytea *out = ByteaNew(1, n, &x);

	LLM_CHECK(llm_fill(n, value, x, &err), &err);
	PG_RETURN_BYTEA_P(out);
}

Datum
bytea_ones_like(PG_FUNCTION_ARGS)
{
	return Filled(fcinfo, 1.0f);
}

Datum
bytea_zeros_like(PG_FUNCTION_ARGS)
{
	return Filled(fcinfo, 0.0f);
}
