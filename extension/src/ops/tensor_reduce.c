/*
 * Sums, means, maxima: over all elements, or along one axis, which the result does not have.
 */
#include "postgres.h"

#include "fmgr.h"

#include "engine/broadcast.h"
#include "engine/reduce.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor.h"

static Datum
Reduce(FunctionCallInfo fcinfo, LlmReduction kind, const char *name, const char *op)
{
	Tensor *t;
	LlmError err = {0};
	int dims[LLM_MAX_DIMS];
	int axis = -1;
	int ndim = 0;
	int64 outer = 1, n, inner = 1;
	Tensor *out;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	t = PG_GETARG_TENSOR_SHAPE(0);
	if (pg_llm_autograd)
		TapeStart();
	n = TensorNumel(t);
	if (!PG_ARGISNULL(1))
	{
		LLM_CHECK(llm_axis(name, t->ndim, t->dims, PG_GETARG_INT32(1), &axis, &err), &err);
		n = t->dims[axis];
		for (int i = 0; i < t->ndim; i++)
		{
			if (i == axis)
				continue;
			dims[ndim++] = t->dims[i];
			*(i < axis ? &outer : &inner) *= t->dims[i];
		}
	}
	if (n == 0 && outer * inner > 0 && kind >= LLM_REDUCE_MAX)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("%s: shape %s has no elements to choose from", name, TensorShape(t))));
	t = PG_GETARG_TENSOR_REST(0, t);
	out = TensorNew(ndim, dims);
	LLM_CHECK(
		llm_reduce(kind, outer, n, inner, TENSOR_DATA(t), TENSOR_DATA(out), ContextAllocator(), &err), &err);
	TensorCanonicalize(out);
	if (pg_llm_autograd && op) /* an index has no gradient */
	{
		LlmAttr attr = TapeAttr("axis", axis);

		TapeRecord(out, op, 1, &t, axis >= 0, &attr);
	}
	PG_RETURN_TENSOR(out);
}

#define REDUCTION(name, kind, called, op)                                                                    \
	PG_FUNCTION_INFO_V1(tensor_##name);                                                                      \
	Datum tensor_##name(PG_FUNCTION_ARGS)                                                                    \
	{                                                                                                        \
		return Reduce(fcinfo, kind, called, op);                                                             \
	}

REDUCTION(sum, LLM_REDUCE_SUM, "tensor_sum", "sum")
REDUCTION(mean, LLM_REDUCE_MEAN, "mean", "mean")
REDUCTION(var, LLM_REDUCE_VAR, "var", "var")
REDUCTION(norm, LLM_REDUCE_NORM, "norm", "norm")
REDUCTION(max, LLM_REDUCE_MAX, "tensor_max", "max")
REDUCTION(min, LLM_REDUCE_MIN, "tensor_min", "min")
REDUCTION(argmax, LLM_REDUCE_ARGMAX, "argmax", NULL)
