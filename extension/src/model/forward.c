/*
 * llm_logits, llm_loss and llm_eval: check the inputs, then call the executor (forward_run.c).
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "src/base/arguments.h"
#include "src/base/catalog.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/model/forward.h"
#include "src/model/trace.h"
#include "src/tape/tape.h"

PG_FUNCTION_INFO_V1(llm_logits);
Datum
llm_logits(PG_FUNCTION_ARGS)
{
	LlmInput tokens = ArrayArgument(fcinfo, 0, "tokens"), in[2];
	LoadedModel *m = ModelOf(NameArgument(fcinfo, 1, "model"), CurrentMemoryContext);
	int n = ForwardInputs(fcinfo, m, 0, -1, 2, in);

	PG_RETURN_TENSOR(
		TapeForward(m, OutputOf(m, "logits"), in, n, "logits", PG_GETARG_DATUM(0), tokens.ndim == 1));
}

PG_FUNCTION_INFO_V1(llm_loss);
Datum
llm_loss(PG_FUNCTION_ARGS)
{
	LoadedModel *m = ModelOf(NameArgument(fcinfo, 0, "model"), CurrentMemoryContext);
	LlmInput in[3];
	int n = ForwardInputs(fcinfo, m, 1, 2, 3, in);
	Tensor *loss = TapeForward(m, OutputOf(m, "loss"), in, n, "loss", PG_GETARG_DATUM(1), false);

	if (TensorNumel(loss) != 1)
		ereport(ERROR,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				errmsg("the node \"loss\" of model \"%s\" is %s, not a scalar", m->name, TensorShape(loss))));
	PG_RETURN_FLOAT4(*TENSOR_DATA(loss));
}

/* ---- llm_eval ---- */

/* A JSON array has the form of a tensor's text; a JSON string may contain one (for NaN and infinity). */
static Tensor *
TensorOfJson(const char *name, JsonbValue *value)
{
	Oid input, param;
	char *text;

	ReserveMemory(
		value->type == jbvBinary ? 2 * (Size) value->val.binary.len : 0); /* the text is about as long */
	if (value->type == jbvBinary && !JsonContainerIsObject(value->val.binary.data))
		text = JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
	else if (value->type == jbvString)
		text = pnstrdup(value->val.string.val, value->val.string.len);
	else if (value->type == jbvNumeric)
		text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
	else
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("input \"%s\" is not an array of numbers", name),
						   errhint("Write {\"tokens\": [[1, 2, 3]]}.")));
	getTypeInputInfo(TensorTypeOid(), &input, &param);
	return (Tensor *) PG_DETOAST_DATUM(OidInputFunctionCall(input, text, param, -1));
}

static const int32 *
WholeNumbers(const char *name, const Tensor *t)
{
	int64 n = TensorNumel(t);
	int32 *out;

	ReserveMemory(sizeof(int32) * n);
	out = palloc(sizeof(int32) * Max(1, n));
	for (int64 i = 0; i < n; i++)
	{
		float x = TENSOR_DATA(t)[i];

		LLM_POLL(i);
		if (!(x > -16777216.0f && x < 16777216.0f) || x != (int32) x)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							   errmsg("input \"%s\" must hold whole numbers, not %g", name, x)));
		out[i] = (int32) x;
	}
	return out;
}

static LlmInput
EvalInput(const LoadedModel *m, JsonbValue *key, JsonbValue *value)
{
	char *name = CheckName(pnstrdup(key->val.string.val, key->val.string.len), "input");
	const LlmNode *node = &m->model.graph.nodes[NodeOf(m, name)];
	Tensor *t = TensorOfJson(name, value);
	LlmInput in = {.name = name, .ndim = t->ndim};

	if (node->op != LLM_OP_INPUT)
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("node \"%s\" is no input of the graph", name)));
	for (int i = 0; i < t->ndim; i++)
		in.dims[i] = t->dims[i];
	if (node->integers)
		in.integers = WholeNumbers(name, t);
	else
		in.floats = TENSOR_DATA(t);
	return in.ndim == 1 && node->ndim == 2 ? Batched(in) : in;
}

/*
 * All inputs of a JSON object, plus positions 0 … T-1 if it has tokens but no positions. Returns their count.
 */
static int
EvalInputs(const LoadedModel *m, Jsonb *inputs, LlmInput *in)
{
	JsonbIterator *it = JsonbIteratorInit(&inputs->root);
	JsonbValue key, value;
	bool positions = false;
	int n = 0, T = 0;

	JsonbIteratorNext(&it, &key, true);
	while (JsonbIteratorNext(&it, &key, true) == WJB_KEY)
	{
		JsonbIteratorNext(&it, &value, true);
		in[n] = EvalInput(m, &key, &value);
		positions |= strcmp(in[n].name, "positions") == 0;
		if (strcmp(in[n].name, "tokens") == 0 && in[n].ndim > 0)
		{
			T = in[n].dims[in[n].ndim - 1];
			if (T == 0)
				ereport(
					ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("input \"tokens\" is empty")));
		}
		n++;
	}
	if (!positions && T > 0)
	{
		CheckLength(m, T);
		in[n++] = PositionsInput(0, T);
	}
	return n;
}

/* llm_eval's tokens (B,T) for llm_run; 0 if it was given none */
static Datum
TokensArray(const LlmInput *in, int n)
{
	for (int i = 0; i < n && pg_llm_autograd; i++)
		if (strcmp(in[i].name, "tokens") == 0 && in[i].integers && in[i].ndim == 2)
		{
			int64 count = (int64) in[i].dims[0] * in[i].dims[1];
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

PG_FUNCTION_INFO_V1(llm_eval);
Datum
llm_eval(PG_FUNCTION_ARGS)
{
	LoadedModel *m = ModelOf(NameArgument(fcinfo, 0, "model"), CurrentMemoryContext);
	int node = NodeOf(m, NameArgument(fcinfo, 1, "node")), n = 0;
	Jsonb *inputs = PG_ARGISNULL(2) ? NULL : (Jsonb *) DetoastWhole(PG_GETARG_DATUM(2));
	LlmInput *in = NULL;

	if (inputs && JB_ROOT_IS_OBJECT(inputs))
	{
		in = palloc0(sizeof(LlmInput) * (JB_ROOT_COUNT(inputs) + 1));
		n = EvalInputs(m, inputs, in);
	}
	else if (m->model.graph.nodes[node].op != LLM_OP_PARAM) /* a parameter needs no inputs */
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("inputs must be a JSON object"),
						   errhint("Write {\"tokens\": [[1, 2, 3]]}.")));
	PG_RETURN_TENSOR(TapeForward(m, node, in, n, "eval", TokensArray(in, n), false));
}
