/*
 * llm_measure_peak and llm_measure_matmul: the peak rates to which `pg-llm bench` compares its results.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "engine/measure.h"
#include "engine/pool.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/insight/measure.h"

const MachinePeak *
SessionPeak(double reached)
{
	static MachinePeak peak;
	MachinePeak old = {.flops = 0};
	LlmError err;
	LlmCode code;

	if (peak.kernels == llm_kernels && peak.threads == llm_pool_threads())
		old = peak;
	if (old.flops > 0 && old.flops >= reached)
		return &peak;
	peak = (MachinePeak){.threads = llm_pool_threads()};
	code = llm_measure_peak(3, SessionAllocator(), &peak.flops, &peak.bytes, &err);
	if (code == LLM_NO_MEMORY)
	{
		peak.flops = peak.bytes = 0;
		ereport(
			NOTICE, (errmsg("the machine's peak is not known: %s", err.message),
						errhint("Fractions of it are NULL. The superuser can raise pg_llm.memory_limit, or "
								"pg_llm.server_memory_limit for all sessions.")));
	}
	else if (code != LLM_OK)
		RaiseError(&err);
	else
	{
		peak.flops = Max(peak.flops, Max(old.flops, reached));
		peak.bytes = Max(peak.bytes, old.bytes);
		peak.kernels = llm_kernels; /* set last, so that an error above causes a new measurement */
	}
	return &peak;
}

PG_FUNCTION_INFO_V1(llm_measure_peak_sql);
Datum
llm_measure_peak_sql(PG_FUNCTION_ARGS)
{
	double flops, bytes;
	Datum values[3];
	LlmError err;

	LLM_CHECK(llm_measure_peak(5, ContextAllocator(), &flops, &bytes, &err), &err);
	values[0] = Int32GetDatum(llm_pool_threads());
	values[1] = Float8GetDatum(flops / 1e9);
	values[2] = Float8GetDatum(bytes / 1e9);
	return RowResult(fcinfo, values, NULL);
}

static LlmProduct
ProductArgument(text *name)
{
	static const char *const names[] = {"forward", "dx", "dw"};
	char *given = text_to_cstring(name);

	for (int i = 0; i < lengthof(names); i++)
		if (strcmp(given, names[i]) == 0)
			return (LlmProduct) i;
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("there is no such product to measure"),
					   errhint("forward is x @ w, dx and dw are its two gradients.")));
}

PG_FUNCTION_INFO_V1(llm_measure_matmul_sql);
Datum
llm_measure_matmul_sql(PG_FUNCTION_ARGS)
{
	int M = PG_GETARG_INT32(0), K = PG_GETARG_INT32(1), N = PG_GETARG_INT32(2), repeats = PG_GETARG_INT32(3);
	LlmProduct product = ProductArgument(PG_GETARG_TEXT_PP(4));
	double seconds;
	LlmError err;

	if (M < 1 || K < 1 || N < 1 || repeats < 1 || (double) M * K + (double) K * N + (double) M * N > 1e9)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg(
					"m, k, n and repeats must be 1 or more, the matrices together at most 10^9 elements")));
	LLM_CHECK(llm_measure_matmul(product, M, K, N, repeats, ContextAllocator(), &seconds, &err), &err);
	PG_RETURN_FLOAT8(2.0 * M * K * N / seconds / 1e9);
}
