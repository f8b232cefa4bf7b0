/*
 * The initial value of a parameter, which depends only on the seed and the name and is the same on every
 * machine.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "engine/sql_layers.h"
#include "src/base/errors.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(llm_init_tensor);
Datum
llm_init_tensor(PG_FUNCTION_ARGS)
{
	int dims[LLM_MAX_DIMS], ndim;
	char *name, *init;
	Tensor *t;
	LlmError err;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(4))
		ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("name, shape and seed must not be NULL")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	init = PG_ARGISNULL(2) ? pstrdup("normal") : text_to_cstring(PG_GETARG_TEXT_PP(2));
	ndim = ShapeFromArray(PG_GETARG_DATUM(1), dims);
	if (strcmp(init, "normal") == 0)
	{
		float scale = PG_ARGISNULL(3) ? 0.02f : (float) PG_GETARG_FLOAT8(3);
		LlmStream stream = llm_stream((uint64) PG_GETARG_INT64(4), psprintf("init %s", name), 0, 0);

		t = TensorNew(ndim, dims);
		LLM_CHECK(llm_normal_fill(&stream, scale, TensorNumel(t), TENSOR_DATA(t), &err), &err);
	}
	else if (strcmp(init, "ones") == 0 || strcmp(init, "zeros") == 0)
		t = TensorNewFilled(ndim, dims, *init == 'o');
	else
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("init is none of normal, zeros and ones"),
				errhint("The attribute init is normal, zeros or ones.")));
	PG_RETURN_TENSOR(t);
}
