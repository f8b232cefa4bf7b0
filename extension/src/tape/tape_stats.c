/*
 * Statistics of tensors for the views of the tape. Not recorded: inspecting the tape must not add to it.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "engine/reduce.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/tensor/tensor.h"

static float
Reduced(LlmReduction kind, const Tensor *t)
{
	LlmError err = {0};
	float out;

	LLM_CHECK(llm_reduce(kind, 1, TensorNumel(t), 1, TENSOR_DATA(t), &out, ContextAllocator(), &err), &err);
	return out;
}

PG_FUNCTION_INFO_V1(llm_tensor_stats);
Datum
llm_tensor_stats(PG_FUNCTION_ARGS)
{
	Tensor *t = PG_GETARG_TENSOR(0);
	const float *x = TENSOR_DATA(t);
	int64 n = TensorNumel(t), zeros = 0;
	float largest = 0;
	Datum values[6];

	for (int64 i = 0; i < n; i++)
	{
		float size = fabsf(x[i]);

		LLM_POLL(i);
		zeros += x[i] == 0;
		if (size > largest || isnan(size))
			largest = isnan(largest) ? largest : size;
	}
	values[0] = Int64GetDatum(n);
	values[1] = Float4GetDatum(Reduced(LLM_REDUCE_MEAN, t));
	values[2] = Float4GetDatum(sqrtf(Reduced(LLM_REDUCE_VAR, t)));
	values[3] = Float4GetDatum(Reduced(LLM_REDUCE_NORM, t));
	values[4] = Float4GetDatum(largest);
	values[5] = Float8GetDatum(n ? (double) zeros / (double) n : NAN);
	return RowResult(fcinfo, values, NULL);
}

/* The token texts of an argument, if it has one per position; NULL otherwise. */
static Datum *
Words(FunctionCallInfo fcinfo, int n, int64 positions, bool **nulls)
{
	Datum *words;
	int count;

	if (PG_ARGISNULL(n))
		return NULL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(n), TEXTOID, -1, false, TYPALIGN_INT, &words, nulls, &count);
	return count == positions ? words : NULL;
}

/* One head of one batch entry, p (T,K), as rows; words is the result of Words. */
static void
PutRows(ReturnSetInfo *to, int b, int T, int K, const float *p, bool causal, const Datum *words,
	const bool *no_word)
{
	for (int q = 0; q < T; q++)
		for (int k = 0; k < (causal ? Min(q + 1, K) : K); k++)
		{
			int64 at_q = (int64) b * T + q, at_k = (int64) b * T + k;
			bool nulls[6] = {0};
			Datum values[6] = {Int32GetDatum(b), Int32GetDatum(q), (Datum) 0, Int32GetDatum(k), (Datum) 0,
				Float4GetDatum(p[(int64) q * K + k])};

			CHECK_FOR_INTERRUPTS();
			nulls[2] = words == NULL || no_word[at_q];
			nulls[4] = words == NULL || K != T || no_word[at_k];
			values[2] = nulls[2] ? (Datum) 0 : words[at_q];
			values[4] = nulls[4] ? (Datum) 0 : words[at_k];
			tuplestore_putvalues(to->setResult, to->setDesc, values, nulls);
		}
}

PG_FUNCTION_INFO_V1(llm_attention_rows);
Datum
llm_attention_rows(PG_FUNCTION_ARGS)
{
	Tensor *header;
	int NH, T, K, head;
	bool causal = PG_ARGISNULL(2) || PG_GETARG_BOOL(2), *no_word = NULL;
	Datum *words;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		return (Datum) 0;
	header = DatumGetTensorHeader(PG_GETARG_DATUM(0));
	head = PG_GETARG_INT32(1);
	if (header->ndim != 4 || head < 0 || head >= header->dims[1])
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("head %d is not in probabilities of shape %s", head, TensorShape(header)),
						   errhint("They are (B,NH,T,T); heads count from 0.")));
	NH = header->dims[1];
	T = header->dims[2];
	K = header->dims[3];
	words = Words(fcinfo, 3, (int64) header->dims[0] * T, &no_word);
	for (int b = 0; b < header->dims[0]; b++)
	{
		int64 first = ((int64) b * NH + head) * T * K;

		PutRows((ReturnSetInfo *) fcinfo->resultinfo, b, T, K,
			DatumGetTensorElements(PG_GETARG_DATUM(0), header, first, (int64) T * K), causal, words, no_word);
	}
	return (Datum) 0;
}
