/*
 * Ranks and samples candidates for the next token: llm_next_tokens, pg_llm_sample.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "kernels/kernels.h"
#include "src/base/arguments.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/generate/generate.h"
#include "src/ops/kernels_bytea.h"
#include "src/ops/kernels_sql.h"

PG_FUNCTION_INFO_V1(llm_next_tokens);
Datum
llm_next_tokens(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Prompt prompt = PromptArgument(fcinfo, 3);
	char *model = NameArgument(fcinfo, 2, "model");
	int none = 0, eos = GPT2_EOS, V, k = PG_ARGISNULL(1) ? INT_MAX : PG_GETARG_INT32(1);
	Generation *g;
	const float *logits;
	LlmCandidate *best;
	LlmError err;

	if (k < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("k is %d; it must be 1 or more", k),
						   errhint("NULL shows every token.")));
	g = GenerationOpen(model, &prompt, &none, &eos);
	g->exec = GenerationExec(g->m, g->most);
	logits = GenerationLogits(g, &V);
	k = Min(k, V);
	best = palloc(sizeof(LlmCandidate) * k);
	LLM_CHECK(llm_top(V, logits, k, best, SessionAllocator(), &err), &err);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < k; i++)
	{
		Datum values[4] = {
			Int32GetDatum(i + 1), Int32GetDatum(best[i].id), (Datum) 0, Float8GetDatum(best[i].probability)};
		bool nulls[4] = {0};

		CHECK_FOR_INTERRUPTS();
		nulls[2] = !TextOfToken(g->bpe, best[i].id, &values[2]);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---- one choice ---- */

static Datum
Sample(FunctionCallInfo fcinfo, int64 V, const float *logits)
{
	LlmSampling how = {.repetition_penalty = 1};
	uint64 seed;
	LlmStream stream;
	int32 id;
	LlmError err;

	how.temperature = PG_ARGISNULL(1) ? 1 : PG_GETARG_FLOAT8(1);
	how.topk = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2);
	how.topp = PG_ARGISNULL(3) ? 1 : PG_GETARG_FLOAT8(3);
	how.min_p = PG_ARGISNULL(5) ? 0 : PG_GETARG_FLOAT8(5);
	LLM_CHECK(llm_sampling_check(&how, &err), &err);
	seed = SeedArgument(fcinfo, 4);
	stream = llm_stream(seed, "sample", 0, 0);
	LLM_CHECK(
		llm_sample(&how, (int) V, logits, llm_uniform(&stream, 0), SessionAllocator(), &id, &err), &err);
	PG_RETURN_INT32(id);
}

PG_FUNCTION_INFO_V1(pg_llm_sample);
Datum
pg_llm_sample(PG_FUNCTION_ARGS)
{
	Tensor *t;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	t = PG_GETARG_TENSOR_SHAPE(0);
	if (t->ndim != 1)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("sample: logits must be (V), not %s", TensorShape(t))));
	t = PG_GETARG_TENSOR_REST(0, t);
	return Sample(fcinfo, TensorNumel(t), TENSOR_DATA(t));
}

PG_FUNCTION_INFO_V1(pg_llm_sample_bytea);
Datum
pg_llm_sample_bytea(PG_FUNCTION_ARGS)
{
	int64 V;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	V = ByteaCount(fcinfo, 0, "logits");
	return Sample(fcinfo, V, ByteaFloats(fcinfo, 0));
}
