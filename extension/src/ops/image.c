/*
 * Operations on images (B,C,H,W) over tensors: convolution, normalisation of groups of channels, upsampling
 * and average pooling; and the gradients of the first two.
 */
#include "postgres.h"

#include "fmgr.h"

#include "engine/convolution.h"
#include "engine/ops/direct.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/ops/kernels_sql.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(pg_llm_conv2d);
PG_FUNCTION_INFO_V1(pg_llm_conv2d_backward);
PG_FUNCTION_INFO_V1(pg_llm_groupnorm);
PG_FUNCTION_INFO_V1(pg_llm_groupnorm_backward);
PG_FUNCTION_INFO_V1(pg_llm_upsample);
PG_FUNCTION_INFO_V1(pg_llm_avgpool);

/* The arguments stride, padding and groups, from the n-th on. */
static LlmConvHow
ConvArguments(FunctionCallInfo fcinfo, int n)
{
	int stride = PG_GETARG_INT32(n), padding = PG_GETARG_INT32(n + 1), groups = PG_GETARG_INT32(n + 2);
	LlmConvHow how = {.stride = stride, .groups = groups};

	if (stride < 1 || groups < 1 || padding < 0 || padding > LLM_MAX_PADDING)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("conv2d: stride %d, padding %d, groups %d", stride, padding, groups),
				errhint("Stride and groups are at least 1, padding is from 0 to %d.", LLM_MAX_PADDING)));
	for (int i = 0; i < 4; i++)
		how.pad[i] = padding;
	return how;
}

static bool
AnyNull(FunctionCallInfo fcinfo, int but)
{
	for (int i = 0; i < PG_NARGS(); i++)
		if (i != but && PG_ARGISNULL(i))
			return true;
	return false;
}

/* pg_llm_conv2d(x, weight, bias, stride, padding, groups): without a bias, it is NULL. */
Datum
pg_llm_conv2d(PG_FUNCTION_ARGS)
{
	bool biased = !PG_ARGISNULL(2);
	Tensor *in[3] = {NULL}, *out;
	LlmError err = {0};
	LlmConvHow how;
	LlmConv c;

	if (AnyNull(fcinfo, 2))
		PG_RETURN_NULL();
	for (int i = 0; i < 2 + biased; i++)
		in[i] = PG_GETARG_TENSOR_SHAPE(i);
	if (pg_llm_autograd)
		TapeStart();
	how = ConvArguments(fcinfo, 3);
	LLM_CHECK(llm_conv_shape(in[0]->ndim, in[0]->dims, in[1]->ndim, in[1]->dims, biased ? in[2]->ndim : 0,
				  biased ? in[2]->dims : NULL, &how, &c, &err),
		&err);
	for (int i = 0; i < 2 + biased; i++)
		in[i] = PG_GETARG_TENSOR_REST(i, in[i]);
	out = TensorNew(4, (int[]){c.B, c.OC, c.OH, c.OW});
	LLM_CHECK(llm_conv(&c, TENSOR_DATA(in[0]), TENSOR_DATA(in[1]), biased ? TENSOR_DATA(in[2]) : NULL,
				  TENSOR_DATA(out), ContextAllocator(), &err),
		&err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
	{
		LlmAttr attrs[] = {
			TapeAttr("stride", how.stride), TapeAttr("padding", how.pad[0]), TapeAttr("groups", how.groups)};

		TapeRecord(out, "conv2d", 2 + biased, in, 3, attrs);
	}
	PG_RETURN_TENSOR(out);
}

/* (dx, dweight, dbias) of (x, dy, weight, stride, padding, groups) */
Datum
pg_llm_conv2d_backward(PG_FUNCTION_ARGS)
{
	Tensor *x = PG_GETARG_TENSOR_SHAPE(0), *dy = PG_GETARG_TENSOR_SHAPE(1);
	Tensor *weight = PG_GETARG_TENSOR_SHAPE(2), *out[3];
	LlmConvHow how = ConvArguments(fcinfo, 3);
	LlmError err = {0};
	LlmConv c;

	LLM_CHECK(llm_conv_shape(x->ndim, x->dims, weight->ndim, weight->dims, 0, NULL, &how, &c, &err), &err);
	CheckShape("conv2d_backward", "dy", dy, "the result", 4, (int[]){c.B, c.OC, c.OH, c.OW});
	CheckRow(2, (Tensor *[]){x, weight});
	x = PG_GETARG_TENSOR_REST(0, x);
	dy = PG_GETARG_TENSOR_REST(1, dy);
	weight = PG_GETARG_TENSOR_REST(2, weight);
	out[0] = TensorNew(4, x->dims);
	out[1] = TensorNewZero(4, weight->dims);
	out[2] = TensorNewZero(1, &c.OC);
	LLM_CHECK(
		llm_conv_dx(&c, TENSOR_DATA(weight), TENSOR_DATA(dy), TENSOR_DATA(out[0]), ContextAllocator(), &err),
		&err);
	LLM_CHECK(llm_conv_dw(&c, TENSOR_DATA(x), TENSOR_DATA(dy), TENSOR_DATA(out[1]), ContextAllocator(), &err),
		&err);
	LLM_CHECK(llm_conv_db(&c, TENSOR_DATA(dy), TENSOR_DATA(out[2]), &err), &err);
	return TensorRow(fcinfo, out, 3);
}

/* pg_llm_groupnorm(x, gamma, beta, groups, eps) */
Datum
pg_llm_groupnorm(PG_FUNCTION_ARGS)
{
	Tensor *in[3], *out;
	LlmError err = {0};
	int groups = PG_GETARG_INT32(3);

	for (int i = 0; i < 3; i++)
		in[i] = PG_GETARG_TENSOR_SHAPE(i);
	if (pg_llm_autograd)
		TapeStart();
	LLM_CHECK(llm_groupnorm_shape(
				  in[0]->ndim, in[0]->dims, in[1]->ndim, in[1]->dims, in[2]->ndim, in[2]->dims, groups, &err),
		&err);
	for (int i = 0; i < 3; i++)
		in[i] = PG_GETARG_TENSOR_REST(i, in[i]);
	out = TensorNew(in[0]->ndim, in[0]->dims);
	LLM_CHECK(llm_groupnorm(in[0]->ndim, in[0]->dims, groups, TENSOR_DATA(in[0]), TENSOR_DATA(in[1]),
				  TENSOR_DATA(in[2]), PG_GETARG_FLOAT4(4), TENSOR_DATA(out), &err),
		&err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
	{
		LlmAttr attrs[] = {TapeAttr("groups", groups), TapeAttrFloat("eps", PG_GETARG_FLOAT4(4))};

		TapeRecord(out, "groupnorm", 3, in, 2, attrs);
	}
	PG_RETURN_TENSOR(out);
}

/* (dx, dgamma, dbeta) of (x, dy, gamma, groups, eps) */
Datum
pg_llm_groupnorm_backward(PG_FUNCTION_ARGS)
{
	Tensor *x = PG_GETARG_TENSOR_SHAPE(0), *dy = PG_GETARG_TENSOR_SHAPE(1);
	Tensor *gamma = PG_GETARG_TENSOR_SHAPE(2), *out[3];
	LlmError err = {0};
	int groups = PG_GETARG_INT32(3);

	LLM_CHECK(llm_groupnorm_shape(
				  x->ndim, x->dims, gamma->ndim, gamma->dims, gamma->ndim, gamma->dims, groups, &err),
		&err);
	CheckShape("groupnorm_backward", "dy", dy, "x", x->ndim, x->dims);
	CheckRow(3, (Tensor *[]){x, gamma, gamma});
	x = PG_GETARG_TENSOR_REST(0, x);
	dy = PG_GETARG_TENSOR_REST(1, dy);
	gamma = PG_GETARG_TENSOR_REST(2, gamma);
	out[0] = TensorNew(x->ndim, x->dims);
	out[1] = TensorNewZero(1, gamma->dims);
	out[2] = TensorNewZero(1, gamma->dims);
	LLM_CHECK(llm_groupnorm_backward(x->ndim, x->dims, groups, TENSOR_DATA(x), TENSOR_DATA(gamma),
				  PG_GETARG_FLOAT4(4), TENSOR_DATA(dy), TENSOR_DATA(out[0]), TENSOR_DATA(out[1]),
				  TENSOR_DATA(out[2]), ContextAllocator(), &err),
		&err);
	return TensorRow(fcinfo, out, 3);
}

/* x scaled up or down by the second argument, recorded as op. */
static Tensor *
Scaled(FunctionCallInfo fcinfo, const char *op, bool up)
{
	Tensor *x = PG_GETARG_TENSOR_SHAPE(0), *out;
	int dims[LLM_MAX_DIMS], factor = PG_GETARG_INT32(1);
	LlmError err = {0};
	LlmScaling s;

	if (pg_llm_autograd)
		TapeStart();
	LLM_CHECK(llm_scaling(op, x->ndim, x->dims, factor, up, &s, dims, &err), &err);
	x = PG_GETARG_TENSOR_REST(0, x);
	out = TensorNew(x->ndim, dims);
	LLM_CHECK(up ? llm_repeat_pixels(&s, 1, TENSOR_DATA(x), TENSOR_DATA(out), &err)
				 : llm_sum_windows(&s, llm_window_share(&s), TENSOR_DATA(x), TENSOR_DATA(out), &err),
		&err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
	{
		LlmAttr attr = TapeAttr("factor", factor);

		TapeRecord(out, op, 1, &x, 1, &attr);
	}
	return out;
}

Datum
pg_llm_upsample(PG_FUNCTION_ARGS)
{
	PG_RETURN_TENSOR(Scaled(fcinfo, "upsample", true));
}

Datum
pg_llm_avgpool(PG_FUNCTION_ARGS)
{
	PG_RETURN_TENSOR(Scaled(fcinfo, "avgpool", false));
}
