/*
 * The kernels' gradients and the optimizer over raw bytea buffers: the arithmetic of training, one call at a
 * time.
 */
#include "postgres.h"

#include <math.h>

#include "common/shortest_dec.h"
#include "fmgr.h"

#include "engine/gradients.h"
#include "engine/sql_layers.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/ops/kernels_bytea.h"
#include "src/ops/kernels_sql.h"

PG_FUNCTION_INFO_V1(bytea_matmul_backward);
PG_FUNCTION_INFO_V1(bytea_gelu_backward);
PG_FUNCTION_INFO_V1(bytea_softmax_backward);
PG_FUNCTION_INFO_V1(bytea_layernorm_backward);
PG_FUNCTION_INFO_V1(bytea_cross_entropy_backward);
PG_FUNCTION_INFO_V1(bytea_attention_backward);
PG_FUNCTION_INFO_V1(bytea_mlp_backward);
PG_FUNCTION_INFO_V1(bytea_dropout_backward);
PG_FUNCTION_INFO_V1(bytea_adamw_step);
PG_FUNCTION_INFO_V1(bytea_grad_clip);
PG_FUNCTION_INFO_V1(pg_llm_lr_schedule);

/* Returns a row of buffers with canonical NaNs. */
static Datum
Row(FunctionCallInfo fcinfo, bytea **buffers, int n)
{
	for (int i = 0; i < n; i++)
		(void) ByteaResult(buffers[i]);
	return LargeRowResult(fcinfo, (struct varlena **) buffers, n);
}

/* (da, db) of a (m,k) @ b (k,n) from dc (m,n) */
Datum
bytea_matmul_backward(PG_FUNCTION_ARGS)
{
	int m = PG_GETARG_INT32(3), k = PG_GETARG_INT32(4), n = PG_GETARG_INT32(5);
	const float *dc;
	LlmError err;
	float *da, *db;
	bytea *out[2];

	ByteaCheck(fcinfo, 0, "a", m, k);
	ByteaCheck(fcinfo, 1, "b", k, n);
	ByteaCheck(fcinfo, 2, "dc", m, n);
	CheckRowSize((int64) m * k + (int64) k * n);
	out[0] = ByteaNew(m, k, &da);
	out[1] = ByteaNew(k, n, &db);
	dc = ByteaFloats(fcinfo, 2);
	LLM_CHECK(llm_matmul_dx(m, n, k, dc, ByteaFloats(fcinfo, 1), false, da, ContextAllocator(), &err), &err);
	LLM_CHECK(llm_fill((Size) k * n, 0, db, &err), &err);
	LLM_CHECK(llm_matmul_dw(m, n, k, ByteaFloats(fcinfo, 0), dc, false, db, ContextAllocator(), &err), &err);
	return Row(fcinfo, out, 2);
}

Datum
bytea_gelu_backward(PG_FUNCTION_ARGS)
{
	int64 n = ByteaCount(fcinfo, 0, "x");
	const float *x;
	LlmError err;
	float *dx;
	bytea *out;

	ByteaCheck(fcinfo, 1, "dy", 1, n);
	out = ByteaNew(1, n, &dx);
	x = ByteaFloats(fcinfo, 0);
	LLM_CHECK(llm_unary_backward(LLM_GELU_TANH, n, x, x, ByteaFloats(fcinfo, 1), dx, &err), &err);
	return ByteaResult(out);
}

/* The whole buffer is one row, as in the forward function. */
Datum
bytea_softmax_backward(PG_FUNCTION_ARGS)
{
	int64 n = ByteaCount(fcinfo, 0, "y");
	LlmError err;
	float *dx;
	bytea *out;

	ByteaCheck(fcinfo, 1, "dy", 1, n);
	out = ByteaNew(1, n, &dx);
	LLM_CHECK(
		llm_softmax_backward(1, n, 1.0f, ByteaFloats(fcinfo, 0), ByteaFloats(fcinfo, 1), dx, &err), &err);
	return ByteaResult(out);
}

/* (dx, dgamma, dbeta) of rows as long as gamma */
Datum
bytea_layernorm_backward(PG_FUNCTION_ARGS)
{
	int64 n = ByteaCount(fcinfo, 0, "x"), C = ByteaCount(fcinfo, 2, "gamma");
	LlmError err;
	float *dx, *dgamma, *dbeta;
	bytea *out[3];

	ByteaCheck(fcinfo, 1, "dy", 1, n);
	CheckRows("layernorm", n, C);
	CheckRowSize(n + 2 * C);
	out[0] = ByteaNew(1, n, &dx);
	out[1] = ByteaNew(1, C, &dgamma);
	out[2] = ByteaNew(1, C, &dbeta);
	LLM_CHECK(llm_fill(C, 0, dgamma, &err), &err);
	LLM_CHECK(llm_fill(C, 0, dbeta, &err), &err);
	LLM_CHECK(llm_layernorm_backward(n / C, (int) C, ByteaFloats(fcinfo, 0), ByteaFloats(fcinfo, 2),
				  PG_GETARG_FLOAT4(3), ByteaFloats(fcinfo, 1), dx, dgamma, dbeta, ContextAllocator(), &err),
		&err);
	return Row(fcinfo, out, 3);
}

Datum
bytea_cross_entropy_backward(PG_FUNCTION_ARGS)
{
	int V = (int) ByteaCount(fcinfo, 0, "logits");
	int32 target = PG_GETARG_INT32(1);
	LlmError err;
	float *dlogits;
	bytea *out;

	CheckTarget(target, V, false);
	out = ByteaNew(1, V, &dlogits);
	LLM_CHECK(llm_cross_entropy_backward(1, V, ByteaFloats(fcinfo, 0), &target, 1, dlogits, &err), &err);
	return ByteaResult(out);
}

/* (dx, dw_qkv, db_qkv, dw_o, db_o) of the causal attention layer over x (T,C) */
Datum
bytea_attention_backward(PG_FUNCTION_ARGS)
{
	int n_head = PG_GETARG_INT32(6), T = PG_GETARG_INT32(7), C = PG_GETARG_INT32(8);
	LlmAttentionWeights weights;
	LlmAttentionGradients to;
	LlmError err;
	bytea *out[5];

	CheckAttention(fcinfo, n_head, T, C);
	ByteaCheck(fcinfo, 5, "grad_output", T, C);
	CheckRowSize((int64) T * C + 4 * ((int64) C * C + C));
	out[0] = ByteaNew(T, C, &to.dx);
	out[1] = ByteaNew(C, 3 * (int64) C, &to.dw_qkv);
	out[2] = ByteaNew(1, 3 * (int64) C, &to.db_qkv);
	out[3] = ByteaNew(C, C, &to.dw_o);
	out[4] = ByteaNew(1, C, &to.db_o);
	weights = AttentionWeights(fcinfo);
	LLM_CHECK(llm_attention_layer_backward(1, T, C, n_head, true, ByteaFloats(fcinfo, 0), &weights,
				  ByteaFloats(fcinfo, 5), &to, ContextAllocator(), &err),
		&err);
	return Row(fcinfo, out, 5);
}

/* (dx, dw_fc, db_fc, dw_proj, db_proj) of the feed-forward layer over x (T,C), which is 4*C wide inside */
Datum
bytea_mlp_backward(PG_FUNCTION_ARGS)
{
	int T = PG_GETARG_INT32(6), C = PG_GETARG_INT32(7);
	int64 F = 4 * (int64) C;
	LlmMlpWeights w;
	LlmMlpGradients to;
	LlmError err;
	bytea *out[5];

	ByteaCheck(fcinfo, 0, "x", T, C);
	ByteaCheck(fcinfo, 1, "w_fc", C, F);
	ByteaCheck(fcinfo, 2, "b_fc", 1, F);
	ByteaCheck(fcinfo, 3, "w_proj", F, C);
	ByteaCheck(fcinfo, 4, "b_proj", 1, C);
	ByteaCheck(fcinfo, 5, "dy", T, C);
	CheckRowSize((int64) T * C + 2 * C * F + F + C);
	out[0] = ByteaNew(T, C, &to.dx);
	out[1] = ByteaNew(C, F, &to.dw_fc);
	out[2] = ByteaNew(1, F, &to.db_fc);
	out[3] = ByteaNew(F, C, &to.dw_proj);
	out[4] = ByteaNew(1, C, &to.db_proj);
	w = (LlmMlpWeights){
		ByteaFloats(fcinfo, 1), ByteaFloats(fcinfo, 2), ByteaFloats(fcinfo, 3), ByteaFloats(fcinfo, 4)};
	LLM_CHECK(llm_mlp_backward(T, C, (int) F, ByteaFloats(fcinfo, 0), &w, ByteaFloats(fcinfo, 5), &to,
				  ContextAllocator(), &err),
		&err);
	return Row(fcinfo, out, 5);
}

/*
 * Elements that dropout dropped are recognised by their result: 0 where the input is not. An input of 0
 * counts as kept.
 */
Datum
bytea_dropout_backward(PG_FUNCTION_ARGS)
{
	int64 n = ByteaCount(fcinfo, 0, "input");
	float p = PG_GETARG_FLOAT4(3);
	const float *x, *y, *dy;
	float scale, *dx;
	bytea *out;

	if (!(p >= 0 && p <= 1))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("dropout_backward: probability %g is not between 0 and 1", p)));
	ByteaCheck(fcinfo, 1, "output", 1, n);
	ByteaCheck(fcinfo, 2, "grad", 1, n);
	out = ByteaNew(1, n, &dx);
	x = ByteaFloats(fcinfo, 0);
	y = ByteaFloats(fcinfo, 1);
	dy = ByteaFloats(fcinfo, 2);
	scale = !PG_GETARG_BOOL(4) ? 1 : p < 1 ? 1 / (1 - p) : 0;
	for (int64 i = 0; i < n; i++)
	{
		LLM_POLL(i);
		dx[i] = y[i] == 0 && x[i] != 0 ? 0 : dy[i] * scale;
	}
	return ByteaResult(out);
}

/*
 * The intended decimal: 0.999 as real is 0.99900001287, and 1 - beta2 would be off by 1e-5. The shortest
 * decimal that reads back as the same real is what the user wrote.
 */
static double
Meant(float4 x)
{
	char text[FLOAT_SHORTEST_DECIMAL_LEN];

	float_to_shortest_decimal_buf(x, text);
	return strtod(text, NULL);
}

static void
CheckHyperParameter(const char *name, double value, double least, double below)
{
	char given[32];

	if (!(value >= least && value < below))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("adamw: %s is %s; it must be at least %g and below %g", name,
							   llm_decimal(value, given), least, below)));
}

LlmAdamW
AdamWArguments(const double number[5], int step)
{
	CheckHyperParameter("lr", number[0], 0, INFINITY);
	CheckHyperParameter("beta1", number[1], 0, 1);
	CheckHyperParameter("beta2", number[2], 0, 1);
	CheckHyperParameter("eps", number[3], 0, INFINITY);
	CheckHyperParameter("weight_decay", number[4], 0, INFINITY);
	if (step < 1)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("adamw: step is %d; it counts from 1", step),
				errhint("The first step divides by 1 - beta^1, the n-th by 1 - beta^n.")));
	return llm_adamw_scalars(number[0], number[1], number[2], number[3], number[4], step, 1);
}

void
AdamWNotNull(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {
		"weight", "grad", "m", "v", "lr", "beta1", "beta2", "eps", "weight_decay", "step"};
	static const char *const hints[lengthof(names)] = {NULL,
		"A parameter without a gradient is not updated: add WHERE grad IS NOT NULL.",
		"m and v are zeros before the first step.", "m and v are zeros before the first step."};

	for (int i = 0; i < (int) lengthof(names); i++)
		if (PG_ARGISNULL(i))
			ereport(
				ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("adamw_step: %s is NULL", names[i]),
						   hints[i] ? errhint("%s", hints[i]) : 0));
}

/* (weight, m, v) after one step of AdamW; step counts from 1 */
Datum
bytea_adamw_step(PG_FUNCTION_ARGS)
{
	int64 n;
	double number[5];
	LlmAdamW h;
	LlmError err;
	float *to[3];
	bytea *out[3];

	AdamWNotNull(fcinfo);
	n = ByteaCount(fcinfo, 0, "weight");
	ByteaCheck(fcinfo, 1, "grad", 1, n);
	ByteaCheck(fcinfo, 2, "m", 1, n);
	ByteaCheck(fcinfo, 3, "v", 1, n);
	CheckRowSize(3 * n);
	for (int i = 0; i < 5; i++)
		number[i] = Meant(PG_GETARG_FLOAT4(4 + i));
	h = AdamWArguments(number, PG_GETARG_INT32(9));
	for (int i = 0; i < 3; i++)
	{
		out[i] = ByteaNew(1, n, &to[i]);
		CopyMemory(to[i], ByteaFloats(fcinfo, i ? i + 1 : 0), n * sizeof(float));
	}
	LLM_CHECK(llm_adamw(n, to[0], ByteaFloats(fcinfo, 1), to[1], to[2], &h, &err), &err);
	return Row(fcinfo, out, 3);
}

void
CheckClip(double clip)
{
	if (!(clip > 0))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("grad_clip: clip is %g; it must be above 0", clip)));
}

void
GradClip(int64 n, const float *x, double clip, float *out)
{
	double squares, norm;
	float scale;
	LlmError err;

	LLM_CHECK(llm_sum_squares(n, x, 0, &squares, ContextAllocator(), &err), &err);
	norm = sqrt(squares);
	scale = norm > clip ? (float) (clip / norm) : 1;
	LLM_CHECK(llm_binary(LLM_MUL, 1, n, x, true, true, &scale, true, false, out, &err), &err);
}

/* The gradient, scaled down to the norm `clip` where it is longer */
Datum
bytea_grad_clip(PG_FUNCTION_ARGS)
{
	int64 n = ByteaCount(fcinfo, 0, "grad");
	double clip = Meant(PG_GETARG_FLOAT4(1));
	float *y;
	bytea *out;

	CheckClip(clip);
	out = ByteaNew(1, n, &y);
	GradClip(n, ByteaFloats(fcinfo, 0), clip, y);
	return ByteaResult(out);
}

Datum
pg_llm_lr_schedule(PG_FUNCTION_ARGS)
{
	int step = PG_GETARG_INT32(0), warmup = PG_GETARG_INT32(1), total = PG_GETARG_INT32(2);

	if (step < 0 || warmup < 0 || total < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("lr_schedule: step %d, warmup %d and total %d must not be negative", step,
							   warmup, total)));
	PG_RETURN_FLOAT4((float4) llm_lr_schedule(
		step, warmup, total, Meant(PG_GETARG_FLOAT4(3)), Meant(PG_GETARG_FLOAT4(4))));
}
