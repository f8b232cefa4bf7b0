/*
 * Losses over tensors: the mean squared difference, and cross-entropy with a distribution as each target.
 */
#include "postgres.h"

#include "fmgr.h"

#include "engine/ops/direct.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/ops/kernels_sql.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(tensor_mse);
PG_FUNCTION_INFO_V1(tensor_soft_cross_entropy);

/* Two arguments of the same shape. */
static void
Pair(FunctionCallInfo fcinfo, const char *op, const char *first, const char *second, Tensor *in[2])
{
	if (pg_llm_autograd)
		TapeStart();
	in[0] = PG_GETARG_TENSOR_SHAPE(0);
	in[1] = PG_GETARG_TENSOR_SHAPE(1);
	CheckShape(op, second, in[1], first, in[0]->ndim, in[0]->dims);
	in[0] = PG_GETARG_TENSOR_REST(0, in[0]);
	in[1] = PG_GETARG_TENSOR_REST(1, in[1]);
}

static Datum
Recorded(Tensor *out, const char *op, Tensor *const in[2])
{
	TensorCanonicalize(out);
	if (pg_llm_autograd)
		TapeRecord(out, op, 2, in, 0, NULL);
	PG_RETURN_TENSOR(out);
}

Datum
tensor_mse(PG_FUNCTION_ARGS)
{
	Tensor *in[2], *out;
	LlmError err = {0};

	Pair(fcinfo, "mse", "x", "y", in);
	out = TensorNew(0, NULL);
	LLM_CHECK(llm_mse(TensorNumel(in[0]), TENSOR_DATA(in[0]), TENSOR_DATA(in[1]), TENSOR_DATA(out),
				  ContextAllocator(), &err),
		&err);
	return Recorded(out, "mse", in);
}

Datum
tensor_soft_cross_entropy(PG_FUNCTION_ARGS)
{
	Tensor *in[2], *out, *losses;
	LlmError err = {0};
	int rows, V;

	Pair(fcinfo, "soft_cross_entropy", "logits", "probabilities", in);
	V = in[0]->ndim > 0 ? in[0]->dims[in[0]->ndim - 1] : 0;
	if (V == 0)
		ereport(
			ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					   errmsg("soft_cross_entropy: logits %s have no vocabulary", TensorShape(in[0])),
					   errhint("The last axis is the vocabulary; each row before it is a distribution.")));
	rows = (int) (TensorNumel(in[0]) / V);
	losses = TensorNew(1, &rows);
	out = TensorNew(0, NULL);
	LLM_CHECK(llm_soft_cross_entropy(rows, V, TENSOR_DATA(in[0]), TENSOR_DATA(in[1]), TENSOR_DATA(losses),
				  TENSOR_DATA(out), &err),
		&err);
	return Recorded(out, "cross_entropy", in);
}
