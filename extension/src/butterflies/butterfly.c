/*
 * llm_butterfly and related functions: images drawn by extension/butterflies.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "butterflies/butterfly.h"
#include "src/base/spi.h"
#include "src/tensor/tensor.h"

static void
Draw(uint64 seed, float *out)
{
	LlmButterfly b;

	llm_butterfly_factors(seed, &b);
	llm_butterfly_values(&b, out);
}

PG_FUNCTION_INFO_V1(llm_butterfly_sql);
Datum
llm_butterfly_sql(PG_FUNCTION_ARGS)
{
	Tensor *image = TensorNew(3, (int[]){LLM_BUTTERFLY_SIZE, LLM_BUTTERFLY_SIZE, 3});

	Draw((uint64) PG_GETARG_INT64(0), TENSOR_DATA(image));
	PG_RETURN_TENSOR(image);
}

PG_FUNCTION_INFO_V1(llm_butterfly_batch);
Datum
llm_butterfly_batch(PG_FUNCTION_ARGS)
{
	uint64 from = (uint64) PG_GETARG_INT64(0);
	int n = PG_GETARG_INT32(1);
	Tensor *images;

	if (n < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("n is %d, expected a number of butterflies", n)));
	images = TensorNew(4, (int[]){n, LLM_BUTTERFLY_SIZE, LLM_BUTTERFLY_SIZE, 3});
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		Draw(from + (uint64) i, TENSOR_DATA(images) + (Size) i * LLM_BUTTERFLY_VALUES);
	}
	PG_RETURN_TENSOR(images);
}

PG_FUNCTION_INFO_V1(llm_butterfly_factors_sql);
Datum
llm_butterfly_factors_sql(PG_FUNCTION_ARGS)
{
	LlmButterfly b;

	llm_butterfly_factors((uint64) PG_GETARG_INT64(0), &b);
	return RowResult(fcinfo,
		(Datum[]){CStringGetTextDatum(llm_butterfly_palette_names[b.palette]),
			CStringGetTextDatum(llm_butterfly_pattern_names[b.pattern]), Float8GetDatum(b.size),
			Float8GetDatum(b.height), Float8GetDatum(b.fore_reach), Float8GetDatum(b.fore_lift),
			Float8GetDatum(b.fore_round), Float8GetDatum(b.hind_reach), Float8GetDatum(b.hind_drop),
			Float8GetDatum(b.hind_round), Float8GetDatum(b.tail), Float8GetDatum(b.scallop),
			Float8GetDatum(b.margin), Float8GetDatum(b.glow), Float8GetDatum(b.mark_place),
			Float8GetDatum(b.mark_size), Float8GetDatum(b.antenna)},
		NULL);
}
