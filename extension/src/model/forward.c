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
	LlmInput tokens = ArrayArgument(fcinfo, 0, "tokens");
	ForwardCall call = {fcinfo, .tokens = 0, .targets = -1, .positions = 2};
	LoadedModel *m = ForwardModel(&call, 1);

	PG_RETURN_TENSOR(TapeForward(
		m, OutputOf(m, "logits"), call.in, call.n, "logits", PG_GETARG_DATUM(0), tokens.ndim == 1));
}

PG_FUNCTION_INFO_V1(llm_loss);
Datum
llm_loss(PG_FUNCTION_ARGS)
{
	ForwardCall call = {fcinfo, .tokens = 1, .targets = 2, .positions = 3};
	LoadedModel *m = ForwardModel(&call, 0);
	Tensor *loss = TapeForward(m, OutputOf(m, "loss"), call.in, call.n, "loss", PG_GETARG_DATUM(1), false);

	if (TensorNumel(loss) != 1)
		ereport(ERROR,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				errmsg("the node \"loss\" of model \"%s\" is %s, not a scalar", m->name, TensorShape(loss))));
	PG_RETURN_FLOAT4(*TENSOR_DATA(loss));
}

/* ---- llm_eval ---- */

/*
 * A JSON array has the form of a tensor's text, but for numbers that JSON does not have: they are strings. A
 * JSON string may also contain the whole text.
 */
static Tensor *
TensorOfJson(const char *name, JsonbValue *value)
{
	Oid input, param;
	char *text;

	ReserveMemory(
		value->type == jbvBinary ? 2 * (Size) value->val.binary.len : 0); /* the text is about as long */
	if (value->type == jbvBinary && !JsonContainerIsObject(value->val.binary.data))
	{
		text = JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
		for (char *quote = text; (quote = strchr(quote, '"')) != NULL;)
			*quote = ' ';
	}
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

typedef struct Eval
{
	FunctionCallInfo fcinfo;
	const LoadedModel *m;
	int node;
	LlmInput *in;
	int n;
} Eval;

/* One sequence may be given where the graph has a batch. */
static void
AddInput(Eval *eval, char *given, const Tensor *t)
{
	char *name = CheckName(given, "input");
	const LlmNode *node = &eval->m->model.graph.nodes[NodeOf(eval->m, name)];
	LlmInput *in = &eval->in[eval->n];
	int batch = t->ndim == node->ndim - 1 && (node->ndim == 2 || strcmp(node->shape[0].name, "B") == 0);

	for (int i = 0; i < eval->n; i++)
		if (strcmp(eval->in[i].name, name) == 0)
			ereport(
				ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("input \"%s\" is given twice", name),
						   errhint("Give it in inputs, or in names and tensors.")));
	*in = (LlmInput){.name = name, .ndim = t->ndim + batch, .dims = {1}};
	for (int i = 0; i < t->ndim; i++)
		in->dims[i + batch] = t->dims[i];
	if (node->integers)
		in->integers = WholeNumbers(psprintf("input \"%s\"", name), t);
	else
		in->floats = TENSOR_DATA(t);
	eval->n++;
}

static void
AddJson(Eval *eval, Jsonb *inputs)
{
	JsonbIterator *it = JsonbIteratorInit(&inputs->root);
	JsonbValue key, value;

	JsonbIteratorNext(&it, &key, true);
	while (JsonbIteratorNext(&it, &key, true) == WJB_KEY)
	{
		char *name = pnstrdup(key.val.string.val, key.val.string.len);

		JsonbIteratorNext(&it, &value, true);
		AddInput(eval, name, TensorOfJson(name, &value));
	}
}

static void
AddTensors(
	Eval *eval, int n, const Datum *names, const bool *no_name, const Datum *tensors, const bool *no_tensor)
{
	for (int i = 0; i < n; i++)
	{
		if (no_name[i] || no_tensor[i])
			ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("names and tensors must not contain NULL")));
		AddInput(eval, TextDatumGetCString(names[i]), DatumGetTensor(tensors[i]));
	}
}

/* Positions 0 … T-1 if there are tokens but no positions. */
static void
AddPositions(Eval *eval)
{
	int T = -1;

	for (int i = 0; i < eval->n; i++)
	{
		const LlmInput *in = &eval->in[i];

		if (strcmp(in->name, "positions") == 0)
			return;
		if (strcmp(in->name, "tokens") == 0 && in->ndim > 0)
			T = in->dims[in->ndim - 1];
	}
	if (T == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("input \"tokens\" is empty")));
	if (T < 0)
		return;
	CheckLength(eval->m, T);
	eval->in[eval->n++] = PositionsInput(0, T);
}

/* The model with every node that is given as an input of its graph: nothing else of it differs. */
static const LoadedModel *
WithInputs(const Eval *eval)
{
	const LlmModel *model = &eval->m->model;
	LoadedModel *with = palloc(sizeof(LoadedModel));
	int count = model->graph.count;

	*with = *eval->m;
	with->model.graph.nodes = palloc(sizeof(LlmNode) * Max(1, count));
	with->model.weights = palloc(sizeof(LlmWeight) * Max(1, count));
	memcpy(with->model.graph.nodes, model->graph.nodes, sizeof(LlmNode) * count);
	memcpy(with->model.weights, model->weights, sizeof(LlmWeight) * count);
	for (int i = 0; i < eval->n; i++)
	{
		int index = llm_graph_find(&model->graph, eval->in[i].name);

		if (index < 0) /* positions, which AddPositions gave to a graph that has none */
			continue;
		with->model.graph.nodes[index].op = LLM_OP_INPUT;
		with->model.graph.nodes[index].n_inputs = 0;
		with->model.weights[index] = (LlmWeight){0};
	}
	return with;
}

/* The arguments of llm_eval, which eval->fcinfo calls. */
static void
EvalArguments(LoadedModel *m, void *argument)
{
	Eval *eval = argument;
	FunctionCallInfo fcinfo = eval->fcinfo;
	int n = 0, n_tensors = 0;
	Jsonb *inputs = PG_ARGISNULL(2) ? NULL : (Jsonb *) DetoastWhole(PG_GETARG_DATUM(2));
	bool object = inputs && JB_ROOT_IS_OBJECT(inputs);
	Datum *names, *tensors;
	bool *no_name, *no_tensor;

	eval->m = m;
	eval->node = NodeOf(m, NameArgument(fcinfo, 1, "node"));
	if (!PG_ARGISNULL(3))
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), TEXTOID, -1, false, TYPALIGN_INT, &names, &no_name, &n);
	if (!PG_ARGISNULL(4))
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(4), TensorTypeOid(), -1, false, TYPALIGN_INT, &tensors,
			&no_tensor, &n_tensors);
	if (n != n_tensors)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("%d names are given, but %d tensors", n, n_tensors),
						   errhint("Write ARRAY['h.0'], ARRAY[t].")));
	/* a parameter needs no inputs */
	if (!object && (inputs || (n == 0 && m->model.graph.nodes[eval->node].op != LLM_OP_PARAM)))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("inputs must be a JSON object"),
						   errhint("Write {\"tokens\": [[1, 2, 3]]}.")));
	eval->in = palloc0(sizeof(LlmInput) * ((object ? JB_ROOT_COUNT(inputs) : 0) + n + 1));
	if (object)
		AddJson(eval, inputs);
	if (n > 0)
		AddTensors(eval, n, names, no_name, tensors, no_tensor);
	AddPositions(eval);
}

PG_FUNCTION_INFO_V1(llm_eval);
Datum
llm_eval(PG_FUNCTION_ARGS)
{
	Eval eval = {.fcinfo = fcinfo};

	ModelChecked(NameArgument(fcinfo, 0, "model"), EvalArguments, &eval, CurrentMemoryContext);
	PG_RETURN_TENSOR(TapeForward(WithInputs(&eval), eval.node, eval.in, eval.n, "eval",
		pg_llm_autograd ? TokensArray(eval.in, eval.n) : (Datum) 0, false));
}
