/*
 * The kernels over tensors: pg_llm_softmax and similar functions. Addition, product and transposition are
 * the operators' own functions.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "engine/broadcast.h"
#include "engine/layout.h"
#include "engine/parallel.h"
#include "engine/sql_layers.h"
#include "src/base/errors.h"
#include "src/base/machine.h"
#include "src/base/memory.h"
#include "src/ops/kernels_sql.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(pg_llm_gelu);
PG_FUNCTION_INFO_V1(pg_llm_layernorm);
PG_FUNCTION_INFO_V1(pg_llm_cross_entropy);
PG_FUNCTION_INFO_V1(pg_llm_cross_entropy_row);
PG_FUNCTION_INFO_V1(pg_llm_attention);
PG_FUNCTION_INFO_V1(pg_llm_embedding);
PG_FUNCTION_INFO_V1(pg_llm_dropout);
PG_FUNCTION_INFO_V1(pg_llm_ones_like);
PG_FUNCTION_INFO_V1(pg_llm_zeros_like);

Datum
pg_llm_gelu(PG_FUNCTION_ARGS)
{
	Tensor *x = PG_GETARG_TENSOR(0);
	LlmUnary f = PG_GETARG_BOOL(1) ? LLM_GELU_ERF : LLM_GELU_TANH;
	LlmAttr exact = {.key = "approximate", .kind = LLM_ATTR_TEXT, .text = "none"};
	LlmError err = {0};
	Tensor *out = TensorNew(x->ndim, x->dims);

	if (pg_llm_autograd)
		TapeStart();
	LLM_CHECK(llm_unary(f, TensorNumel(x), TENSOR_DATA(x), TENSOR_DATA(out), &err), &err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
		TapeRecord(out, "gelu", 1, &x, f == LLM_GELU_ERF, &exact);
	PG_RETURN_TENSOR(out);
}

Tensor *
SwapWithLast(Tensor *t, int axis)
{
	int axes[LLM_MAX_DIMS], order[LLM_MAX_DIMS], dims[LLM_MAX_DIMS];
	LlmError err = {0};
	Tensor *out;

	if (axis == t->ndim - 1)
		return t;
	for (int i = 0; i < t->ndim; i++)
		axes[i] = i == axis ? t->ndim - 1 : i == t->ndim - 1 ? axis : i;
	LLM_CHECK(llm_permute_shape(t->ndim, t->dims, t->ndim, axes, order, dims, &err), &err);
	out = TensorNew(t->ndim, dims);
	LLM_CHECK(llm_permute(t->ndim, t->dims, order, TENSOR_DATA(t), TENSOR_DATA(out), &err), &err);
	return out;
}

Datum
pg_llm_layernorm(PG_FUNCTION_ARGS)
{
	Tensor *x = PG_GETARG_TENSOR_SHAPE(0);
	Tensor *gamma = PG_GETARG_TENSOR_SHAPE(1);
	Tensor *beta = PG_GETARG_TENSOR_SHAPE(2);
	LlmError err = {0};
	int C;
	Tensor *out;

	if (pg_llm_autograd)
		TapeStart();
	LLM_CHECK(
		llm_layernorm_shape(x->ndim, x->dims, gamma->ndim, gamma->dims, beta->ndim, beta->dims, &err), &err);
	x = PG_GETARG_TENSOR_REST(0, x);
	gamma = PG_GETARG_TENSOR_REST(1, gamma);
	beta = PG_GETARG_TENSOR_REST(2, beta);
	C = x->dims[x->ndim - 1];
	out = TensorNew(x->ndim, x->dims);
	if (C > 0)
		LLM_CHECK(llm_layernorm(TensorNumel(x) / C, C, TENSOR_DATA(x), TENSOR_DATA(gamma), TENSOR_DATA(beta),
					  PG_GETARG_FLOAT4(3), TENSOR_DATA(out), &err),
			&err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
	{
		LlmAttr attr = TapeAttrFloat("eps", PG_GETARG_FLOAT4(3));

		TapeRecord(out, "layernorm", 3, (Tensor *[]){x, gamma, beta}, 1, &attr);
	}
	PG_RETURN_TENSOR(out);
}

/* Mean over rows; a target of -100 leaves its row out. */
static Datum
CrossEntropy(Datum datum, const int32 *targets, int64 rows)
{
	Tensor *logits = LogitsOf(datum, targets, rows), *mean = TensorNew(0, NULL);
	LlmError err = {0};
	float *losses;

	if (pg_llm_autograd)
		TapeStart();
	ReserveMemory(rows * sizeof(float));
	losses = MemoryContextAllocHuge(CurrentMemoryContext, Max(rows, 1) * sizeof(float));
	MachineHugePages(losses, rows * sizeof(float));
	LLM_CHECK(llm_cross_entropy(rows, logits->dims[logits->ndim - 1], TENSOR_DATA(logits), targets, losses,
				  TENSOR_DATA(mean), &err),
		&err);
	TensorCanonicalize(mean);
	if (pg_llm_autograd)
	{
		uint32 numbers[2] = {
			TapeNumber(logits), TapeIntegers("targets", logits->ndim - 1, logits->dims, targets)};

		TapeRecordNumbers(mean, "cross_entropy", 2, numbers, logits, TensorNumel(logits) + rows, 0, NULL);
	}
	PG_RETURN_TENSOR(mean);
}

Tensor *
LogitsOf(Datum datum, const int32 *targets, int64 rows)
{
	Tensor *logits = DatumGetTensorShape(datum);
	int V = logits->ndim > 0 ? logits->dims[logits->ndim - 1] : 0;

	if (V == 0 || TensorNumel(logits) / V != rows)
		ereport(ERROR,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				errmsg("cross_entropy: logits %s and %lld targets do not fit", TensorShape(logits),
					(long long) rows),
				errhint(
					"The last axis of the logits is the vocabulary; each row before it needs one target.")));
	for (int64 i = 0; i < rows; i++)
	{
		LLM_POLL(i);
		CheckTarget(targets[i], V, true);
	}
	return DatumGetTensorRest(datum, logits);
}

Datum
pg_llm_cross_entropy(PG_FUNCTION_ARGS)
{
	int64 rows;
	int32 *targets = IntArrayElements(PG_GETARG_DATUM(1), "targets", &rows);

	return CrossEntropy(PG_GETARG_DATUM(0), targets, rows);
}

Datum
pg_llm_cross_entropy_row(PG_FUNCTION_ARGS)
{
	int32 target = PG_GETARG_INT32(1);

	return CrossEntropy(PG_GETARG_DATUM(0), &target, 1);
}

void
LayerShapes(FunctionCallInfo fcinfo, Tensor *in[5], LlmShape shape[5])
{
	for (int i = 0; i < 5; i++)
	{
		in[i] = PG_GETARG_TENSOR_SHAPE(i);
		shape[i].ndim = in[i]->ndim;
		memcpy(shape[i].dims, in[i]->dims, sizeof(int) * in[i]->ndim);
	}
}

Datum
pg_llm_attention(PG_FUNCTION_ARGS)
{
	Tensor *in[5];
	LlmShape shape[5];
	LlmAttentionWeights weights;
	LlmError err = {0};
	int n_head = PG_GETARG_INT32(5);
	int batch, T, C;
	Tensor *out;

	LayerShapes(fcinfo, in, shape);
	LLM_CHECK(llm_attention_shape(&shape[0], shape + 1, n_head, &err), &err);
	for (int i = 0; i < 5; i++)
		in[i] = PG_GETARG_TENSOR_REST(i, in[i]);
	if (pg_llm_autograd)
		PG_RETURN_TENSOR(RecordedAttention(in, n_head, PG_GETARG_BOOL(6)));
	batch = in[0]->ndim == 3 ? in[0]->dims[0] : 1;
	T = in[0]->dims[in[0]->ndim - 2];
	C = in[0]->dims[in[0]->ndim - 1];
	weights =
		(LlmAttentionWeights){TENSOR_DATA(in[1]), TENSOR_DATA(in[2]), TENSOR_DATA(in[3]), TENSOR_DATA(in[4])};
	out = TensorNew(in[0]->ndim, in[0]->dims);
	LLM_CHECK(llm_attention_layer(batch, T, C, n_head, PG_GETARG_BOOL(6), TENSOR_DATA(in[0]), &weights,
				  TENSOR_DATA(out), ContextAllocator(), &err),
		&err);
	TensorCanonicalize(out);
	PG_RETURN_TENSOR(out);
}

/*
 * out (…,C): the row of the table (V,C) for each id. If few rows of a large stored table are needed, only
 * those are read.
 */
Datum
pg_llm_embedding(PG_FUNCTION_ARGS)
{
	ArrayType *array = (ArrayType *) DetoastWhole(PG_GETARG_DATUM(0));
	Datum datum = PG_GETARG_DATUM(1);
	int64 n;
	int32 *ids = IntArrayElements(PointerGetDatum(array), "ids", &n);
	Tensor *table = DatumGetTensorHeader(datum);
	int dims[MAXDIM + 1];
	int ndim = Max(ARR_NDIM(array), 1);
	Tensor *out;
	int C;

	if (table->ndim != 2)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("embedding: the table has shape %s", TensorShape(table)),
						   errhint("A table is (V,C): a row of C elements for each of V ids.")));
	C = table->dims[1];
	CheckIds(ids, n, table->dims[0]);
	for (int i = 0; i < ndim; i++)
		dims[i] = ARR_NDIM(array) ? ARR_DIMS(array)[i] : 0;
	dims[ndim] = C;
	out = TensorNew(ndim + 1, dims);
	if (pg_llm_autograd)
		TapeStart();
	if (n > table->dims[0] / 16)
	{
		table = DatumGetTensor(datum);
		datum = PointerGetDatum(table);
	}
	for (int64 i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		CopyTensorElements(datum, table, (int64) ids[i] * C, C, TENSOR_DATA(out) + i * C);
	}
	if (pg_llm_autograd && TapeKnown(table)) /* a constant's rows are a constant, the table is not read */
	{
		uint32 numbers[2] = {TapeIntegers("ids", ndim, dims, ids), TapeKnown(table)};

		TapeRecordNumbers(out, "embedding", 2, numbers, out, TensorNumel(out), 0, NULL);
	}
	PG_RETURN_TENSOR(out);
}

/* The given seed, or one from random(), which setseed() makes repeatable. */
uint64
SeedArgument(FunctionCallInfo fcinfo, int n)
{
	uint64 seed = 0;

	if (!PG_ARGISNULL(n))
		return (uint64) PG_GETARG_INT64(n);
	for (int half = 0; half < 2; half++)
		seed = seed << 32 | (uint64) (DatumGetFloat8(DirectFunctionCall1(drandom, (Datum) 0)) * 4294967296.0);
	return seed;
}

Datum
pg_llm_dropout(PG_FUNCTION_ARGS)
{
	Tensor *x, *out;
	LlmStream stream;
	LlmError err = {0};
	uint64 seed;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	x = PG_GETARG_TENSOR(0);
	out = TensorNew(x->ndim, x->dims);
	seed = SeedArgument(fcinfo, 3);
	stream = llm_stream(seed, "dropout", 0, 0);
	if (pg_llm_autograd)
		TapeStart();
	LLM_CHECK(llm_dropout(&stream, PG_GETARG_FLOAT4(1), PG_GETARG_BOOL(2), TensorNumel(x), TENSOR_DATA(x),
				  TENSOR_DATA(out), &err),
		&err);
	TensorCanonicalize(out);
	if (pg_llm_autograd && PG_GETARG_BOOL(2))
	{
		LlmAttr attrs[2] = {TapeAttrFloat("p", PG_GETARG_FLOAT4(1)),
			{.key = "seed", .kind = LLM_ATTR_TEXT, .text = psprintf("%llu", (unsigned long long) seed)}};

		TapeRecord(out, "dropout", 1, &x, 2, attrs);
	}
	else if (TapeKnown(x)) /* the result is x itself */
	{
		out->tape_run = x->tape_run;
		out->tape_id = x->tape_id;
	}
	PG_RETURN_TENSOR(out);
}

Datum
pg_llm_ones_like(PG_FUNCTION_ARGS)
{
	Tensor *header = DatumGetTensorHeader(PG_GETARG_DATUM(0));

	PG_RETURN_TENSOR(TensorNewFilled(header->ndim, header->dims, 1.0f));
}

Datum
pg_llm_zeros_like(PG_FUNCTION_ARGS)
{
	Tensor *header = DatumGetTensorHeader(PG_GETARG_DATUM(0));

	PG_RETURN_TENSOR(TensorNewZero(header->ndim, header->dims));
}

int32 *
IntArrayElements(Datum datum, const char *what, int64 *n)
{
	ArrayType *array = (ArrayType *) DetoastWhole(datum);

	if (array_contains_nulls(array))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s: an element is NULL", what)));
	*n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	return (int32 *) ARR_DATA_PTR(array);
}

void
CheckIds(const int32 *ids, int64 n, int size)
{
	for (int64 i = 0; i < n; i++)
	{
		LLM_POLL(i);
		CheckTarget(ids[i], size, false);
	}
}

void
CheckTarget(int32 id, int size, bool may_be_left_out)
{
	if ((id >= 0 && id < size) || (may_be_left_out && id == -100))
		return;
	ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					   errmsg("id %d does not exist: there are %d, counted from 0", id, size),
					   may_be_left_out ? errhint("-100 leaves a row out of the mean.") : 0));
}
