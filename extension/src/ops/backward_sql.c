/*
 * The kernels' gradients and the optimizer over tensors, for computing a chain rule by hand. They are first
 * derivatives and are not recorded on the tape.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/array.h"

#include "engine/broadcast.h"
#include "engine/broadcast_backward.h"
#include "engine/gradients.h"
#include "engine/layout.h"
#include "engine/sql_layers.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/ops/kernels_sql.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(pg_llm_matmul_backward);
PG_FUNCTION_INFO_V1(pg_llm_add_backward);
PG_FUNCTION_INFO_V1(pg_llm_gelu_backward);
PG_FUNCTION_INFO_V1(pg_llm_layernorm_backward);
PG_FUNCTION_INFO_V1(pg_llm_cross_entropy_backward);
PG_FUNCTION_INFO_V1(pg_llm_cross_entropy_backward_row);
PG_FUNCTION_INFO_V1(pg_llm_attention_backward);
PG_FUNCTION_INFO_V1(pg_llm_mlp_backward);
PG_FUNCTION_INFO_V1(pg_llm_embedding_backward);
PG_FUNCTION_INFO_V1(pg_llm_dropout_backward);
PG_FUNCTION_INFO_V1(pg_llm_transpose_backward);
PG_FUNCTION_INFO_V1(pg_llm_adamw_step);
PG_FUNCTION_INFO_V1(pg_llm_grad_clip);

Datum
TensorRow(FunctionCallInfo fcinfo, Tensor **tensors, int n)
{
	for (int i = 0; i < n; i++)
		TensorCanonicalize(tensors[i]);
	return LargeRowResult(fcinfo, (struct varlena **) tensors, n);
}

void
CheckRow(int n, Tensor *const *like)
{
	int64 numel = 0;

	for (int i = 0; i < n; i++)
		numel += TensorNumel(like[i]);
	CheckRowSize(numel);
}

void
CheckShape(const char *op, const char *name, const Tensor *t, const char *of, int ndim, const int *dims)
{
	if (t->ndim == ndim && memcmp(t->dims, dims, sizeof(int) * ndim) == 0)
		return;
	ereport(ERROR,
		(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
			errmsg("%s: %s has shape %s, %s has %s", op, name, TensorShape(t), of, ShapeToString(ndim, dims)),
			errhint("A gradient has the shape of what it is the gradient of.")));
}

/* (da, db) of a (…,M,K) @ b (…,K,N) from dc (…,M,N); what was broadcast is summed */
Datum
pg_llm_matmul_backward(PG_FUNCTION_ARGS)
{
	Tensor *a = PG_GETARG_TENSOR_SHAPE(0), *b = PG_GETARG_TENSOR_SHAPE(1), *dc = PG_GETARG_TENSOR_SHAPE(2);
	int dims[LLM_MAX_DIMS], ndim;
	LlmError err = {0};
	Tensor *out[2];

	LLM_CHECK(llm_matmul_shape("matmul", a->ndim, a->dims, b->ndim, b->dims, &ndim, dims, &err), &err);
	CheckShape("matmul_backward", "dc", dc, "a @ b", ndim, dims);
	CheckRow(2, (Tensor *[]){a, b});
	a = PG_GETARG_TENSOR_REST(0, a);
	b = PG_GETARG_TENSOR_REST(1, b);
	dc = PG_GETARG_TENSOR_REST(2, dc);
	out[0] = TensorNewZero(a->ndim, a->dims);
	out[1] = TensorNewZero(b->ndim, b->dims);
	LLM_CHECK(
		llm_broadcast_matmul_backward(a->ndim, a->dims, TENSOR_DATA(a), b->ndim, b->dims, TENSOR_DATA(b),
			TENSOR_DATA(dc), TENSOR_DATA(out[0]), TENSOR_DATA(out[1]), ContextAllocator(), &err),
		&err);
	return TensorRow(fcinfo, out, 2);
}

/* (da, db) of a + b from dc: dc itself, summed over the axes that were broadcast */
Datum
pg_llm_add_backward(PG_FUNCTION_ARGS)
{
	Tensor *in[2] = {DatumGetTensorHeader(PG_GETARG_DATUM(0)), DatumGetTensorHeader(PG_GETARG_DATUM(1))};
	Tensor *dc = PG_GETARG_TENSOR_SHAPE(2), *out[2];
	int dims[LLM_MAX_DIMS], ndim;
	LlmError err = {0};

	LLM_CHECK(llm_broadcast_shape(
				  "add", "+", in[0]->ndim, in[0]->dims, in[1]->ndim, in[1]->dims, &ndim, dims, &err),
		&err);
	CheckShape("add_backward", "dc", dc, "a + b", ndim, dims);
	CheckRow(2, in);
	dc = PG_GETARG_TENSOR_REST(2, dc);
	for (int i = 0; i < 2; i++)
	{
		out[i] = TensorNewZero(in[i]->ndim, in[i]->dims);
		LLM_CHECK(llm_broadcast_sum_into(
					  ndim, dims, TENSOR_DATA(dc), in[i]->ndim, in[i]->dims, TENSOR_DATA(out[i]), &err),
			&err);
	}
	return TensorRow(fcinfo, out, 2);
}

Datum
pg_llm_gelu_backward(PG_FUNCTION_ARGS)
{
	Tensor *x = PG_GETARG_TENSOR_SHAPE(0), *dy = PG_GETARG_TENSOR_SHAPE(1), *dx;
	LlmUnary f = PG_GETARG_BOOL(2) ? LLM_GELU_ERF : LLM_GELU_TANH;
	LlmError err = {0};

	CheckShape("gelu_backward", "dy", dy, "x", x->ndim, x->dims);
	x = PG_GETARG_TENSOR_REST(0, x);
	dy = PG_GETARG_TENSOR_REST(1, dy);
	dx = TensorNew(x->ndim, x->dims);
	LLM_CHECK(llm_unary_backward(
				  f, TensorNumel(x), TENSOR_DATA(x), TENSOR_DATA(x), TENSOR_DATA(dy), TENSOR_DATA(dx), &err),
		&err);
	TensorCanonicalize(dx);
	PG_RETURN_TENSOR(dx);
}

/* (dx, dgamma, dbeta) of rows x (…,C) */
Datum
pg_llm_layernorm_backward(PG_FUNCTION_ARGS)
{
	Tensor *x = PG_GETARG_TENSOR_SHAPE(0), *dy = PG_GETARG_TENSOR_SHAPE(1);
	Tensor *gamma = PG_GETARG_TENSOR_SHAPE(2);
	LlmError err = {0};
	Tensor *out[3];
	int C;

	LLM_CHECK(llm_layernorm_shape(x->ndim, x->dims, gamma->ndim, gamma->dims, gamma->ndim, gamma->dims, &err),
		&err);
	CheckShape("layernorm_backward", "dy", dy, "x", x->ndim, x->dims);
	CheckRow(3, (Tensor *[]){x, gamma, gamma});
	x = PG_GETARG_TENSOR_REST(0, x);
	dy = PG_GETARG_TENSOR_REST(1, dy);
	gamma = PG_GETARG_TENSOR_REST(2, gamma);
	C = x->dims[x->ndim - 1];
	out[0] = TensorNew(x->ndim, x->dims);
	out[1] = TensorNewZero(1, &C);
	out[2] = TensorNewZero(1, &C);
	if (C > 0)
		LLM_CHECK(llm_layernorm_backward(TensorNumel(x) / C, C, TENSOR_DATA(x), TENSOR_DATA(gamma),
					  PG_GETARG_FLOAT4(3), TENSOR_DATA(dy), TENSOR_DATA(out[0]), TENSOR_DATA(out[1]),
					  TENSOR_DATA(out[2]), ContextAllocator(), &err),
			&err);
	return TensorRow(fcinfo, out, 3);
}

/* dlogits of the mean over the rows that have a target. */
static Datum
CrossEntropyBackward(Datum datum, const int32 *targets, int64 rows)
{
	Tensor *logits = LogitsOf(datum, targets, rows), *dlogits = TensorNew(logits->ndim, logits->dims);
	LlmError err = {0};

	LLM_CHECK(llm_cross_entropy_backward(rows, logits->dims[logits->ndim - 1], TENSOR_DATA(logits), targets,
				  1.0f, TENSOR_DATA(dlogits), &err),
		&err);
	TensorCanonicalize(dlogits);
	PG_RETURN_TENSOR(dlogits);
}

Datum
pg_llm_cross_entropy_backward(PG_FUNCTION_ARGS)
{
	int64 rows;
	int32 *targets = IntArrayElements(PG_GETARG_DATUM(1), "targets", &rows);

	return CrossEntropyBackward(PG_GETARG_DATUM(0), targets, rows);
}

Datum
pg_llm_cross_entropy_backward_row(PG_FUNCTION_ARGS)
{
	int32 target = PG_GETARG_INT32(1);

	return CrossEntropyBackward(PG_GETARG_DATUM(0), &target, 1);
}

/* The values of these arguments, and a gradient of the shape of each, not initialised. */
static void
LayerValues(FunctionCallInfo fcinfo, Tensor *in[5], Tensor *out[5])
{
	for (int i = 0; i < 5; i++)
	{
		in[i] = PG_GETARG_TENSOR_REST(i, in[i]);
		out[i] = TensorNew(in[i]->ndim, in[i]->dims);
	}
}

/* (dx, dw_qkv, db_qkv, dw_o, db_o) from the gradient of the layer's result */
Datum
pg_llm_attention_backward(PG_FUNCTION_ARGS)
{
	Tensor *in[5], *out[5], *dy = PG_GETARG_TENSOR_SHAPE(5);
	LlmShape shape[5];
	LlmAttentionWeights w;
	LlmAttentionGradients to;
	LlmError err = {0};
	int n_head = PG_GETARG_INT32(6), batch, T, C;

	LayerShapes(fcinfo, in, shape);
	LLM_CHECK(llm_attention_shape(&shape[0], shape + 1, n_head, &err), &err);
	CheckShape("attention_backward", "grad_output", dy, "x", in[0]->ndim, in[0]->dims);
	CheckRow(5, in);
	dy = PG_GETARG_TENSOR_REST(5, dy);
	LayerValues(fcinfo, in, out);
	batch = in[0]->ndim == 3 ? in[0]->dims[0] : 1;
	T = in[0]->dims[in[0]->ndim - 2];
	C = in[0]->dims[in[0]->ndim - 1];
	w = (LlmAttentionWeights){TENSOR_DATA(in[1]), TENSOR_DATA(in[2]), TENSOR_DATA(in[3]), TENSOR_DATA(in[4])};
	to = (LlmAttentionGradients){TENSOR_DATA(out[0]), TENSOR_DATA(out[1]), TENSOR_DATA(out[2]),
		TENSOR_DATA(out[3]), TENSOR_DATA(out[4])};
	LLM_CHECK(llm_attention_layer_backward(batch, T, C, n_head, PG_GETARG_BOOL(7), TENSOR_DATA(in[0]), &w,
				  TENSOR_DATA(dy), &to, ContextAllocator(), &err),
		&err);
	return TensorRow(fcinfo, out, 5);
}

/* (dx, dw_fc, db_fc, dw_proj, db_proj) from the gradient of the layer's result */
Datum
pg_llm_mlp_backward(PG_FUNCTION_ARGS)
{
	Tensor *in[5], *out[5], *dy = PG_GETARG_TENSOR_SHAPE(5);
	LlmShape shape[5];
	LlmMlpWeights w;
	LlmMlpGradients to;
	LlmError err = {0};
	int C, F;

	LayerShapes(fcinfo, in, shape);
	LLM_CHECK(llm_mlp_shape(&shape[0], shape + 1, &err), &err);
	CheckShape("mlp_backward", "dy", dy, "x", in[0]->ndim, in[0]->dims);
	CheckRow(5, in);
	dy = PG_GETARG_TENSOR_REST(5, dy);
	LayerValues(fcinfo, in, out);
	C = in[0]->dims[in[0]->ndim - 1];
	F = in[2]->dims[0];
	w = (LlmMlpWeights){TENSOR_DATA(in[1]), TENSOR_DATA(in[2]), TENSOR_DATA(in[3]), TENSOR_DATA(in[4])};
	to = (LlmMlpGradients){TENSOR_DATA(out[0]), TENSOR_DATA(out[1]), TENSOR_DATA(out[2]), TENSOR_DATA(out[3]),
		TENSOR_DATA(out[4])};
	LLM_CHECK(llm_mlp_backward(C > 0 ? (int) (TensorNumel(in[0]) / C) : 0, C, F, TENSOR_DATA(in[0]), &w,
				  TENSOR_DATA(dy), &to, ContextAllocator(), &err),
		&err);
	return TensorRow(fcinfo, out, 5);
}

/* dweight (V,C): each row is the sum of the dy rows with its id, in the order of positions */
Datum
pg_llm_embedding_backward(PG_FUNCTION_ARGS)
{
	ArrayType *array = (ArrayType *) DetoastWhole(PG_GETARG_DATUM(0));
	int64 n;
	int32 *ids = IntArrayElements(PointerGetDatum(array), "ids", &n);
	Tensor *dy = PG_GETARG_TENSOR_SHAPE(1), *dweight;
	int V = PG_GETARG_INT32(2), ndim = ARR_NDIM(array) ? ARR_NDIM(array) : 1, dims[MAXDIM + 1];
	LlmError err = {0};

	for (int i = 0; i < ndim; i++)
		dims[i] = ARR_NDIM(array) ? ARR_DIMS(array)[i] : 0;
	dims[ndim] = dy->ndim > 0 ? dy->dims[dy->ndim - 1] : 0;
	CheckShape("embedding_backward", "dy", dy, "the result for these ids", ndim + 1, dims);
	CheckIds(ids, n, V);
	dy = PG_GETARG_TENSOR_REST(1, dy);
	dweight = TensorNewZero(2, (int[]){V, dims[ndim]});
	LLM_CHECK(llm_embedding_backward(n, dims[ndim], ids, TENSOR_DATA(dy), TENSOR_DATA(dweight), &err), &err);
	TensorCanonicalize(dweight);
	PG_RETURN_TENSOR(dweight);
}

/* Dropout's forward function applied to dy: dropped elements get no gradient, kept ones are scaled. */
Datum
pg_llm_dropout_backward(PG_FUNCTION_ARGS)
{
	Tensor *dy, *dx;
	LlmStream stream;
	LlmError err = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	if (PG_ARGISNULL(3))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("dropout_backward: seed is NULL"),
						   errhint("Pass the same seed to the forward and the backward function: it "
								   "determines which elements are dropped.")));
	dy = PG_GETARG_TENSOR(0);
	dx = TensorNew(dy->ndim, dy->dims);
	stream = llm_stream((uint64) PG_GETARG_INT64(3), "dropout", 0, 0);
	LLM_CHECK(llm_dropout(&stream, PG_GETARG_FLOAT4(1), PG_GETARG_BOOL(2), TensorNumel(dy), TENSOR_DATA(dy),
				  TENSOR_DATA(dx), &err),
		&err);
	TensorCanonicalize(dx);
	PG_RETURN_TENSOR(dx);
}

Datum
pg_llm_transpose_backward(PG_FUNCTION_ARGS)
{
	Tensor *dy = PG_GETARG_TENSOR(0), *dx;
	int order[LLM_MAX_DIMS], dims[LLM_MAX_DIMS];
	LlmError err = {0};

	LLM_CHECK(llm_permute_shape(dy->ndim, dy->dims, 0, NULL, order, dims, &err), &err);
	dx = TensorNew(dy->ndim, dims);
	LLM_CHECK(llm_permute(dy->ndim, dy->dims, order, TENSOR_DATA(dy), TENSOR_DATA(dx), &err), &err);
	PG_RETURN_TENSOR(dx);
}

/* (weight, m, v) after one step of AdamW; step counts from 1 */
Datum
pg_llm_adamw_step(PG_FUNCTION_ARGS)
{
	static const char *const names[4] = {"weight", "grad", "m", "v"};
	Tensor *in[4], *out[3];
	double number[5];
	LlmAdamW h;
	LlmError err = {0};

	AdamWNotNull(fcinfo);
	for (int i = 0; i < 4; i++)
	{
		in[i] = PG_GETARG_TENSOR_SHAPE(i);
		CheckShape("adamw_step", names[i], in[i], "weight", in[0]->ndim, in[0]->dims);
	}
	CheckRow(3, in);
	for (int i = 0; i < 5; i++)
		number[i] = PG_GETARG_FLOAT8(4 + i);
	h = AdamWArguments(number, PG_GETARG_INT32(9));
	for (int i = 0; i < 4; i++)
		in[i] = PG_GETARG_TENSOR_REST(i, in[i]);
	for (int i = 0; i < 3; i++)
		out[i] = TensorCopy(in[i ? i + 1 : 0]);
	LLM_CHECK(llm_adamw(TensorNumel(in[0]), TENSOR_DATA(out[0]), TENSOR_DATA(in[1]), TENSOR_DATA(out[1]),
				  TENSOR_DATA(out[2]), &h, &err),
		&err);
	return TensorRow(fcinfo, out, 3);
}

/* The gradient, scaled down to the norm `clip` where it is longer */
Datum
pg_llm_grad_clip(PG_FUNCTION_ARGS)
{
	Tensor *x, *out;

	CheckClip(PG_GETARG_FLOAT8(1));
	x = PG_GETARG_TENSOR(0);
	out = TensorNew(x->ndim, x->dims);
	GradClip(TensorNumel(x), TENSOR_DATA(x), PG_GETARG_FLOAT8(1), TENSOR_DATA(out));
	TensorCanonicalize(out);
	PG_RETURN_TENSOR(out);
}
