/*
 * Functions over tensors that choose the largest elements, or rows by their ids.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "engine/ops/direct.h"
#include "engine/parallel.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(tensor_topk);
PG_FUNCTION_INFO_V1(tensor_one_hot);
PG_FUNCTION_INFO_V1(tensor_gather_rows);
PG_FUNCTION_INFO_V1(tensor_scatter_rows);
PG_FUNCTION_INFO_V1(tensor_expert_matmul);

static int32 *
NewIntegers(int64 n)
{
	ReserveMemory(sizeof(int32) * n);
	return MemoryContextAllocHuge(CurrentMemoryContext, sizeof(int32) * Max(1, n));
}

/* The elements of a tensor as ids from 0 to size - 1. */
static int32 *
IdsOf(const char *op, const Tensor *t, int size)
{
	LlmValue value = {.ndim = t->ndim, .numel = TensorNumel(t), .floats = TENSOR_DATA(t)};
	int32 *ids = NewIntegers(value.numel);
	LlmError err = {0};

	LLM_CHECK(llm_row_ids(op, &value, size, ids, &err), &err);
	return ids;
}

static void
Refuse(const char *message, const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("%s", message), errhint("%s", hint)));
}

/* Shape `first`, followed by the dimensions of t from `from` on. */
static Tensor *
NewJoined(int n, const int *first, const Tensor *t, int from)
{
	int dims[2 * LLM_MAX_DIMS];

	memcpy(dims, first, sizeof(int) * n);
	memcpy(dims + n, t->dims + from, sizeof(int) * (t->ndim - from));
	return TensorNew(n + t->ndim - from, dims);
}

static size_t
Width(const Tensor *t, int from)
{
	size_t width = 1;

	for (int i = from; i < t->ndim; i++)
		width *= t->dims[i];
	return width;
}

Datum
tensor_topk(PG_FUNCTION_ARGS)
{
	Tensor *x = PG_GETARG_TENSOR_SHAPE(0), *out;
	int k = PG_GETARG_INT32(1), n = x->ndim ? x->dims[x->ndim - 1] : 0;
	const char *output = text_to_cstring(PG_GETARG_TEXT_PP(2));
	LlmTopk kind = llm_topk_kind(output);
	int64 rows = n ? TensorNumel(x) / n : 0;
	LlmError err = {0};
	int32 *chosen;

	if (x->ndim == 0)
		Refuse("topk: a scalar has no axis", "The largest elements are chosen along the last axis.");
	if (k < 1 || kind == LLM_TOPK_KINDS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   k < 1 ? errmsg("topk: k is %d; it must be 1 or more", k)
								 : errmsg("topk: there is no output \"%s\"", output),
						   errhint("k elements are chosen; output is values, indices or mask.")));
	LLM_CHECK(llm_topk_check("topk", n, k, kind, &err), &err);
	x = PG_GETARG_TENSOR_REST(0, x);
	if (pg_llm_autograd)
		TapeStart();
	out = kind == LLM_TOPK_MASK ? TensorNew(x->ndim, x->dims) : NULL;
	if (out == NULL)
	{
		int dims[LLM_MAX_DIMS];

		memcpy(dims, x->dims, sizeof(int) * x->ndim);
		dims[x->ndim - 1] = k;
		out = TensorNew(x->ndim, dims);
	}
	chosen = NewIntegers(rows * k);
	LLM_CHECK(llm_topk(rows, n, k, TENSOR_DATA(x), chosen, &err), &err);
	LLM_CHECK(llm_topk_output(kind, rows, n, k, TENSOR_DATA(x), chosen, TENSOR_DATA(out), &err), &err);
	TensorCanonicalize(out);
	if (pg_llm_autograd && kind == LLM_TOPK_VALUES) /* an index has no gradient */
	{
		LlmAttr attr = TapeAttr("k", k);

		TapeRecord(out, "topk", 1, &x, 1, &attr);
	}
	PG_RETURN_TENSOR(out);
}

static int
SizeArgument(FunctionCallInfo fcinfo, int n, const char *op)
{
	int size = PG_GETARG_INT32(n);

	if (size < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("%s: size is %d; it must be 1 or more", op, size)));
	return size;
}

/* Not recorded: ids have no gradient. */
Datum
tensor_one_hot(PG_FUNCTION_ARGS)
{
	Tensor *ids = PG_GETARG_TENSOR(0), *out;
	int size = SizeArgument(fcinfo, 1, "one_hot"), dims[LLM_MAX_DIMS + 1];
	LlmError err = {0};

	memcpy(dims, ids->dims, sizeof(int) * ids->ndim);
	dims[ids->ndim] = size;
	out = TensorNewZero(ids->ndim + 1, dims);
	LLM_CHECK(
		llm_mark_ids(TensorNumel(ids), IdsOf("one_hot", ids, size), size, TENSOR_DATA(out), &err), &err);
	PG_RETURN_TENSOR(out);
}

Datum
tensor_gather_rows(PG_FUNCTION_ARGS)
{
	Tensor *x = PG_GETARG_TENSOR(0), *ids = PG_GETARG_TENSOR(1), *out;
	LlmError err = {0};

	if (x->ndim == 0)
		Refuse("gather_rows: a scalar has no rows", "Rows are chosen along the first axis.");
	if (pg_llm_autograd)
		TapeStart();
	out = NewJoined(ids->ndim, ids->dims, x, 1);
	LLM_CHECK(llm_gather_rows(TensorNumel(ids), IdsOf("gather_rows", ids, x->dims[0]), Width(x, 1),
				  TENSOR_DATA(x), TENSOR_DATA(out), &err),
		&err);
	if (pg_llm_autograd)
		TapeRecord(out, "gather_rows", 2, (Tensor *[]){x, ids}, 0, NULL);
	PG_RETURN_TENSOR(out);
}

Datum
tensor_scatter_rows(PG_FUNCTION_ARGS)
{
	Tensor *x = PG_GETARG_TENSOR(0), *ids = PG_GETARG_TENSOR(1), *out;
	int size = SizeArgument(fcinfo, 2, "scatter_rows");
	LlmError err = {0};
	bool fits = ids->ndim <= x->ndim;

	for (int i = 0; fits && i < ids->ndim; i++)
		fits = x->dims[i] == ids->dims[i];
	if (!fits)
		Refuse(psprintf("scatter_rows: x %s and ids %s do not fit", TensorShape(x), TensorShape(ids)),
			"x has the dimensions of the ids, and then those of a row.");
	if (pg_llm_autograd)
		TapeStart();
	out = NewJoined(1, &size, x, ids->ndim);
	LLM_CHECK(llm_fill(TensorNumel(out), 0, TENSOR_DATA(out), &err), &err);
	LLM_CHECK(llm_add_rows(TensorNumel(ids), IdsOf("scatter_rows", ids, size), Width(out, 1), TENSOR_DATA(x),
				  TENSOR_DATA(out), &err),
		&err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
	{
		LlmAttr attr = TapeAttr("size", size);

		TapeRecord(out, "scatter_rows", 2, (Tensor *[]){x, ids}, 1, &attr);
	}
	PG_RETURN_TENSOR(out);
}

Datum
tensor_expert_matmul(PG_FUNCTION_ARGS)
{
	Tensor *in[3], *out;
	LlmOperand operands[3];
	LlmExperts experts;
	LlmError err = {0};

	if (pg_llm_autograd)
		TapeStart();
	for (int i = 0; i < 3; i++)
	{
		in[i] = PG_GETARG_TENSOR_SHAPE(i);
		operands[i] = (LlmOperand){in[i]->ndim, in[i]->dims, NULL};
	}
	LLM_CHECK(llm_experts_of(operands, &experts, &err), &err);
	for (int i = 0; i < 3; i++)
		in[i] = PG_GETARG_TENSOR_REST(i, in[i]);
	out = NewJoined(in[1]->ndim, in[1]->dims, in[2], 2);
	LLM_CHECK(llm_expert_matmul(&experts, TENSOR_DATA(in[0]), IdsOf("expert_matmul", in[1], experts.E),
				  TENSOR_DATA(in[2]), TENSOR_DATA(out), ContextAllocator(), &err),
		&err);
	TensorCanonicalize(out);
	if (pg_llm_autograd)
		TapeRecord(out, "expert_matmul", 3, in, 0, NULL);
	PG_RETURN_TENSOR(out);
}
