#include "src/model/inputs.h"

#include <limits.h>

#include "catalog/pg_type.h"
#include "utils/array.h"

#include "src/base/arguments.h"
#include "src/base/errors.h"
#include "src/base/memory.h"

LlmInput
IntegerInput(const char *what, Datum array)
{
	ArrayType *a = (ArrayType *) DetoastWhole(array);
	LlmInput in = {.name = what, .ndim = ARR_NDIM(a), .integers = (const int32_t *) ARR_DATA_PTR(a)};

	if (ARR_HASNULL(a) && array_contains_nulls(a))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not contain NULL", what)));
	if (in.ndim < 1 || in.ndim > 2)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				in.ndim == 0 ? errmsg("%s is empty", what)
							 : errmsg("%s has %d dimensions; it must have one or two", what, in.ndim),
				errhint(
					"One sequence is ARRAY[1,2,3]; several of the same length are ARRAY[[1,2,3],[4,5,6]].")));
	for (int i = 0; i < in.ndim; i++)
		in.dims[i] = ARR_DIMS(a)[i];
	return in;
}

const int32 *
WholeNumbers(const char *what, const Tensor *t)
{
	int64 n = TensorNumel(t);
	int32 *out;

	ReserveMemory(sizeof(int32) * n);
	out = palloc_extended(sizeof(int32) * Max(1, n), MCXT_ALLOC_HUGE);
	for (int64 i = 0; i < n; i++)
	{
		float x = TENSOR_DATA(t)[i];

		LLM_POLL(i);
		if (!(x > -16777216.0f && x < 16777216.0f) || x != (int32) x)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							   errmsg("%s must hold whole numbers, not %g", what, x)));
		out[i] = (int32) x;
	}
	return out;
}

Size
InputNumel(const LlmInput *in)
{
	Size numel = 1;

	for (int i = 0; i < in->ndim; i++)
		numel *= in->dims[i];
	return numel;
}

/* An array of ids, for rows that show them. */
Datum
TokensArray(const LlmInput *in, int n)
{
	for (int i = 0; i < n; i++)
		if (strcmp(in[i].name, "tokens") == 0 && in[i].integers && in[i].ndim == 2)
		{
			int64 count = (int64) InputNumel(&in[i]);
			Datum *tokens;

			ReserveMemory((sizeof(Datum) + sizeof(int32)) * count);
			tokens = palloc(sizeof(Datum) * Max(1, count));
			for (int64 j = 0; j < count; j++)
				tokens[j] = Int32GetDatum(in[i].integers[j]);
			return PointerGetDatum(construct_md_array(tokens, NULL, 2, (int *) in[i].dims, (int[]){1, 1},
				INT4OID, sizeof(int32), true, TYPALIGN_INT));
		}
	return (Datum) 0;
}

LlmInput
Batched(LlmInput in)
{
	if (in.ndim == 1)
	{
		in.ndim = 2;
		in.dims[1] = in.dims[0];
		in.dims[0] = 1;
	}
	return in;
}

int
NodeOf(const LoadedModel *m, const char *node)
{
	int index = llm_graph_find(&m->model.graph, node);

	if (index < 0)
		ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("model \"%s\" has no node \"%s\"", m->name, node),
				errhint("SELECT name, op, inputs, shape FROM llm_graph WHERE model = '%s' ORDER BY id.",
					m->name)));
	return index;
}

int
OutputOf(const LoadedModel *m, const char *node)
{
	int index = NodeOf(m, node);
	LlmOp op = m->model.graph.nodes[index].op;

	if (op == LLM_OP_INPUT || op == LLM_OP_PARAM)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("the node \"%s\" of model \"%s\" is of op %s; it must be computed from others", node,
					m->name, llm_op_name(op)),
				errhint("UPDATE llm_graph SET op = ..., inputs = ... WHERE model = '%s' AND name = '%s'.",
					m->name, node)));
	return index;
}

int
TrainingLossOf(const LoadedModel *m)
{
	return OutputOf(m, llm_graph_find(&m->model.graph, "training_loss") >= 0 ? "training_loss" : "loss");
}

void
CheckLength(const LoadedModel *m, int64 length)
{
	LlmDim P = {1, "P"};
	int64 most = llm_dim_value(&P, &m->model.graph.sizes);

	if (most >= 0 && length > most && llm_graph_find(&m->model.graph, "positions") >= 0)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						   errmsg("%lld tokens are more than the %lld positions of model \"%s\"",
							   (long long) length, (long long) most, m->name),
						   errhint("Shorten the prompt or ask for fewer tokens.")));
}

LlmInput
PositionsInput(int first, int T)
{
	int32 *positions = palloc(sizeof(int32) * Max(1, T));

	for (int i = 0; i < T; i++)
	{
		LLM_POLL(i);
		positions[i] = first + i;
	}
	return (LlmInput){.name = "positions", .ndim = 1, .dims = {T}, .integers = positions};
}

LlmInput
ArrayArgument(FunctionCallInfo fcinfo, int n, const char *what)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be NULL", what)));
	return IntegerInput(what, PG_GETARG_DATUM(n));
}

/* The positions argument, or 0 … T-1 if it is NULL. */
static LlmInput
PositionsArgument(FunctionCallInfo fcinfo, int n, const LoadedModel *m, int T)
{
	LlmInput in;

	if (PG_ARGISNULL(n))
	{
		CheckLength(m, T);
		return PositionsInput(0, T);
	}
	in = IntegerInput("positions", PG_GETARG_DATUM(n));
	if (in.ndim != 1 || in.dims[0] != T)
		ereport(
			ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					   errmsg("positions must be one integer for each of the %d tokens of a sequence", T)));
	return in;
}

int
ForwardInputs(
	FunctionCallInfo fcinfo, const LoadedModel *m, int tokens, int targets, int positions, LlmInput *in)
{
	int n = 0;

	in[n++] = Batched(ArrayArgument(fcinfo, tokens, "tokens"));
	if (targets >= 0)
	{
		in[n] = Batched(ArrayArgument(fcinfo, targets, "targets"));
		if (in[0].dims[0] != in[n].dims[0] || in[0].dims[1] != in[n].dims[1])
			ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
							   errmsg("tokens are %s, targets are %s; they must have the same shape",
								   ShapeToString(2, in[0].dims), ShapeToString(2, in[n].dims)),
							   errhint("The target of each token is the token that follows it.")));
		n++;
	}
	in[n++] = PositionsArgument(fcinfo, positions, m, in[0].dims[1]);
	return n;
}

static void
ReadInputs(LoadedModel *m, void *argument)
{
	ForwardCall *c = argument;

	c->n = ForwardInputs(c->fcinfo, m, c->tokens, c->targets, c->positions, c->in);
}

LoadedModel *
ForwardModel(ForwardCall *call, int model)
{
	return ModelChecked(NameArgument(call->fcinfo, model, "model"), ReadInputs, call, CurrentMemoryContext);
}

int
VocabularySize(const LoadedModel *m)
{
	const LlmNode *logits = &m->model.graph.nodes[OutputOf(m, "logits")];
	int64 V = logits->ndim > 0 ? llm_dim_value(&logits->shape[logits->ndim - 1], &m->model.graph.sizes) : -1;

	return V > 0 && V <= INT_MAX ? (int) V : INT_MAX;
}
