/*
 * Reads a graph from its rows; and the triggers and functions that show the inferred shapes.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "replication/logicalworker.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "src/base/attributes.h"
#include "src/base/changes.h"
#include "src/base/errors.h"
#include "src/base/spi.h"
#include "src/model/graph_rows.h"

static SpiQuery read_config = {
	.text = "SELECT d_model, vocab, n_positions, d_ff FROM %s.llm_model_config WHERE model = $1",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "iiii"};
static SpiQuery read_graph = {
	.text = "SELECT name, op, inputs, attrs FROM %s.llm_graph WHERE model = $1 ORDER BY id, name",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "ssSj"};
static SpiQuery write_shapes = {
	.text =
		"UPDATE %s.llm_graph AS g SET shape = pg_catalog.string_to_array(s.shape, ',')"
		" FROM (SELECT * FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS s (name, shape)) "
		"AS s WHERE g.model = $1 AND g.name ="
		" s.name AND g.shape IS DISTINCT FROM pg_catalog.string_to_array(s.shape, ',')::text[] COLLATE \"C\"",
	.nargs = 3,
	.types = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID}};

static void
ReadInputs(ArrayType *inputs, LlmNode *node)
{
	Datum *names;
	bool *nulls;

	deconstruct_array(inputs, TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &node->n_inputs);
	node->input_names = palloc0(sizeof(char *) * Max(1, node->n_inputs));
	node->inputs = palloc0(sizeof(int) * Max(1, node->n_inputs));
	for (int i = 0; i < node->n_inputs; i++)
	{
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							   errmsg("node \"%s\": input %d is NULL", node->name, i + 1)));
		node->input_names[i] = TextDatumGetCString(names[i]);
	}
}

static void
ReadNode(HeapTuple row, TupleDesc desc, LlmNode *node)
{
	bool null;
	char *op = TextDatumGetCString(SPI_getbinval(row, desc, 2, &null));

	node->name = TextDatumGetCString(SPI_getbinval(row, desc, 1, &null));
	node->op = llm_op_find(op);
	if (node->op == LLM_OP_COUNT)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						   errmsg("node \"%s\": there is no operation \"%s\"", node->name, op),
						   errhint("SELECT op, formula FROM llm_op lists them.")));
	ReadInputs(DatumGetArrayTypeP(SPI_getbinval(row, desc, 3, &null)), node);
	GraphReadAttrs(DatumGetJsonbP(SPI_getbinval(row, desc, 4, &null)), node);
}

static void
ReadSizes(const char *model, LlmSizes *sizes, bool read_only)
{
	static const char *const names[] = {"C", "V", "P", "F"};
	Datum value = CStringGetTextDatum(model);
	bool null;

	SpiRun(&read_config, &value, NULL, read_only, 1);
	for (int i = 0; SPI_processed == 1 && i < 4; i++)
		llm_sizes_set(sizes, names[i],
			DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &null)));
}

LlmGraph *
GraphRead(const char *model, bool read_only)
{
	MemoryContext caller = CurrentMemoryContext, spi;
	LlmGraph *graph = palloc0(sizeof(LlmGraph));
	Datum value = CStringGetTextDatum(model);
	LlmError err;

	SPI_connect();
	ReadSizes(model, &graph->sizes, read_only);
	SpiRun(&read_graph, &value, NULL, read_only, LLM_MAX_NODES + 1);
	spi = MemoryContextSwitchTo(caller);
	graph->count = (int) SPI_processed;
	graph->nodes = palloc0(sizeof(LlmNode) * Max(1, graph->count));
	graph->order = palloc(sizeof(int) * Max(1, graph->count));
	graph->by_name = palloc(sizeof(int) * Max(1, graph->count));
	for (int i = 0; i < graph->count; i++)
		ReadNode(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, &graph->nodes[i]);
	MemoryContextSwitchTo(spi);
	SPI_finish();
	LLM_CHECK(llm_graph_check(graph, &err), &err);
	return graph;
}

/* ---- the constraint trigger ---- */

static ArrayType *
TextArray(char **texts, int n)
{
	Datum *values = palloc(sizeof(Datum) * Max(1, n));

	for (int i = 0; i < n; i++)
		values[i] = CStringGetTextDatum(texts[i]);
	return construct_array(values, n, TEXTOID, -1, false, TYPALIGN_INT);
}

static void
StoreShapes(const char *model, const LlmGraph *graph)
{
	char **names = palloc(sizeof(char *) * Max(1, graph->count));
	char **shapes = palloc(sizeof(char *) * Max(1, graph->count));
	Datum values[3];

	for (int i = 0; i < graph->count; i++)
	{
		char text[256];

		llm_shape_print(graph->nodes[i].ndim, graph->nodes[i].shape, text, sizeof(text));
		text[strlen(text) - 1] = 0;
		names[i] = (char *) graph->nodes[i].name;
		shapes[i] = pstrdup(text + 1);
	}
	values[0] = CStringGetTextDatum(model);
	values[1] = PointerGetDatum(TextArray(names, graph->count));
	values[2] = PointerGetDatum(TextArray(shapes, graph->count));
	SPI_connect();
	SpiRun(&write_shapes, values, NULL, false, 0);
	SPI_finish();
}

static void
CheckGraph(const char *model)
{
	MemoryContext context, caller;

	if (model == NULL || !ChangeFirst(CHANGE_GRAPH, model))
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "llm_graph check", ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	ChangePause(true);
	PG_TRY();
	{
		StoreShapes(model, GraphRead(model, false));
	}
	PG_FINALLY();
	{
		ChangePause(false);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

/*
 * Constraint trigger on llm_graph: checks the consistency of the whole graph and stores the inferred shapes.
 */
PG_FUNCTION_INFO_V1(llm_check_graph);
Datum
llm_check_graph(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = ChangeTrigger(fcinfo);

	/* A subscriber applies row by row what the publisher checked as a whole: a graph without its first row is
	 * inconsistent in between. The executor checks every graph again before it executes it. */
	if (IsLogicalWorker())
		return PointerGetDatum(NULL);
	CheckGraph(ChangedModel(trigger, trigger->tg_trigtuple, "model"));
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		CheckGraph(ChangedModel(trigger, trigger->tg_newtuple, "model"));
	return PointerGetDatum(NULL);
}

/* ---- parameters of the graph ---- */

/* llm_param_shapes(model) → (name, shape int[], init, std), in graph order */
PG_FUNCTION_INFO_V1(llm_param_shapes);
Datum
llm_param_shapes(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	LlmGraph *graph = GraphRead(text_to_cstring(PG_GETARG_TEXT_PP(0)), true);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < graph->count; i++)
	{
		const LlmNode *node = &graph->nodes[i];
		const LlmAttr *init = llm_attr(node, "init");
		Datum values[4], dims[LLM_MAX_DIMS];
		bool nulls[4] = {
			false, false, init == NULL || init->kind != LLM_ATTR_TEXT, llm_attr(node, "std") == NULL};

		if (node->op != LLM_OP_PARAM)
			continue;
		for (int j = 0; j < node->ndim; j++)
			dims[j] = Int32GetDatum((int32) llm_dim_value(&node->shape[j], &graph->sizes));
		values[0] = CStringGetTextDatum(node->name);
		values[1] = PointerGetDatum(construct_array(dims, node->ndim, INT4OID, 4, true, TYPALIGN_INT));
		values[2] = nulls[2] ? (Datum) 0 : CStringGetTextDatum(init->text);
		values[3] = Float8GetDatum(llm_attr_number(node, "std", 0));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
