/*
 * llm_matmul_rung and llm_kernel_ladder: the same matrix product by five kernels, from three plain loops to
 * all cores.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"

#include "engine/matmul_ladder.h"
#include "engine/sql_layers.h"
#include "kernels/random.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/insight/measure.h"
#include "src/tensor/tensor.h"

static float *
Packed(int K, int N, const float *b)
{
	LlmAllocator *memory = ContextAllocator();
	LlmError err;
	size_t bytes = llm_packed_floats(K, N) * sizeof(float);
	float *panels = memory->alloc(memory->context, Max(1, bytes));

	if (panels == NULL)
	{
		llm_fail(&err, LLM_NO_MEMORY, "no memory for %zu MB of packed columns", bytes >> 20);
		RaiseError(&err);
	}
	LLM_CHECK(llm_pack(K, N, b, false, panels, &err), &err);
	return panels;
}

static LlmRung
RungArgument(text *name)
{
	int rung = llm_rung_find(text_to_cstring(name));

	if (rung < 0)
		ereport(
			ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("there is no such rung of the ladder"),
					   errhint("From slow to fast: naive, blocked, packed, vector, threads.")));
	return (LlmRung) rung;
}

PG_FUNCTION_INFO_V1(llm_matmul_rung);
Datum
llm_matmul_rung(PG_FUNCTION_ARGS)
{
	Tensor *a = PG_GETARG_TENSOR_SHAPE(0), *b = PG_GETARG_TENSOR_SHAPE(1), *out;
	LlmRung rung = RungArgument(PG_GETARG_TEXT_PP(2));
	LlmError err;

	if (a->ndim != 2 || b->ndim != 2 || a->dims[1] != b->dims[0])
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("matmul: %s by %s; a rung takes matrices (m,k) and (k,n)", TensorShape(a),
							   TensorShape(b)),
						   errhint("The operator @ also takes vectors and batches.")));
	a = PG_GETARG_TENSOR_REST(0, a);
	b = PG_GETARG_TENSOR_REST(1, b);
	out = TensorNew(2, (int[2]){a->dims[0], b->dims[1]});
	LLM_CHECK(llm_rung_matmul(rung, a->dims[0], a->dims[1], b->dims[1], TENSOR_DATA(a), TENSOR_DATA(b),
				  Packed(a->dims[1], b->dims[1], TENSOR_DATA(b)), TENSOR_DATA(out), ContextAllocator(), &err),
		&err);
	TensorCanonicalize(out);
	PG_RETURN_TENSOR(out);
}

/* ---- climbing ---- */

/* The maximum number of multiplications: the lowest rung does about one per nanosecond. */
#define MAX_WORK 2e10
/* Each rung is repeated for this many seconds, and the fastest time counts. */
#define ENOUGH 0.1
#define MAX_RUNS 20

static Tensor *
RandomMatrix(const char *name, int rows, int columns)
{
	Tensor *t = TensorNew(2, (int[2]){rows, columns});
	LlmStream stream = llm_stream(0, name, 0, 0);
	LlmError err;

	LLM_CHECK(llm_normal_fill(&stream, 1, TensorNumel(t), TENSOR_DATA(t), &err), &err);
	return t;
}

/* The time of the fastest repetition, in seconds. */
static double
Climb(LlmRung rung, Tensor *a, Tensor *b, const float *panels, Tensor *out)
{
	const LlmAllocator *memory = ContextAllocator();
	double best = 0, spent = 0;
	LlmError err;

	for (int i = 0; i < MAX_RUNS && (i == 0 || spent < ENOUGH); i++)
	{
		instr_time start, end;
		double seconds;

		INSTR_TIME_SET_CURRENT(start);
		LLM_CHECK(llm_rung_matmul(rung, a->dims[0], a->dims[1], b->dims[1], TENSOR_DATA(a), TENSOR_DATA(b),
					  panels, TENSOR_DATA(out), memory, &err),
			&err);
		INSTR_TIME_SET_CURRENT(end);
		INSTR_TIME_SUBTRACT(end, start);
		seconds = INSTR_TIME_GET_DOUBLE(end);
		spent += seconds;
		if (i == 0 || seconds < best)
			best = seconds;
	}
	return best;
}

PG_FUNCTION_INFO_V1(llm_kernel_ladder);
Datum
llm_kernel_ladder(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int m = PG_GETARG_INT32(0), k = PG_GETARG_INT32(1), n = PG_GETARG_INT32(2);
	Tensor *a, *b, *out, *first;
	const MachinePeak *peak;
	double rates[LLM_RUNGS], reached = 0;
	bool same[LLM_RUNGS];
	float *panels;

	if (m < 1 || k < 1 || n < 1 || (double) m * k * n > MAX_WORK)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("m, k and n are %d, %d and %d; each must be 1 or more, their product at most "
					   "%.0f",
					m, k, n, MAX_WORK),
				errhint("GPT-2's feed-forward layer for a sequence of 256 tokens is 256, 768, 3072.")));
	InitMaterializedSRF(fcinfo, 0);
	a = RandomMatrix("ladder a", m, k);
	b = RandomMatrix("ladder b", k, n);
	out = TensorNew(2, (int[2]){m, n});
	first = TensorNew(2, out->dims);
	panels = Packed(k, n, TENSOR_DATA(b));
	for (int rung = 0; rung < LLM_RUNGS; rung++)
	{
		Tensor *to = rung == 0 ? first : out;

		rates[rung] = 2.0 * m * k * n / Max(1e-9, Climb(rung, a, b, panels, to));
		reached = Max(reached, rates[rung]);
		same[rung] = TensorCompare(to, first) == 0;
	}
	peak = SessionPeak(reached);
	for (int rung = 0; rung < LLM_RUNGS; rung++)
	{
		Datum values[7] = {Int32GetDatum(rung + 1), CStringGetTextDatum(llm_rung_name(rung)),
			Float8GetDatum(2e3 * m * k * n / rates[rung]), Float8GetDatum(rates[rung] / 1e9),
			Float8GetDatum(peak->flops > 0 ? rates[rung] / peak->flops : 0), BoolGetDatum(same[rung]),
			CStringGetTextDatum(llm_rung_idea(rung))};
		bool nulls[7] = {0};

		nulls[4] = peak->flops == 0;
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
