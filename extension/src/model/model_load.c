/*
 * Reads a model's parameters from llm_param, each into the layouts that its uses in the graph need.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/model/model_load.h"
#include "src/tensor/tensor.h"

static SpiQuery read_params = {
	.text = "SELECT g.name, p.data FROM %s.llm_graph AS g"
			" LEFT JOIN %s.llm_param_share AS s ON s.target_model = g.model AND s.target_name = g.name"
			" LEFT JOIN %s.llm_param AS p ON p.model = coalesce(s.source_model, g.model)"
			" AND p.name = coalesce(s.source_name, g.name) WHERE g.model = $1 AND g.op = 'param' ORDER BY "
			"g.id, g.name",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "st?"};

static void
CheckParam(const LlmGraph *graph, int index, const Tensor *t, const char *model)
{
	const LlmNode *node = &graph->nodes[index];
	bool fits = t->ndim == node->ndim;
	int dims[LLM_MAX_DIMS];
	char want[256];

	for (int i = 0; i < node->ndim; i++)
	{
		dims[i] = (int) llm_dim_value(&node->shape[i], &graph->sizes);
		fits = fits && dims[i] == t->dims[i];
	}
	if (fits)
		return;
	llm_shape_print(node->ndim, node->shape, want, sizeof(want));
	ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					   errmsg("model \"%s\": parameter \"%s\" is %s, the graph requires %s = %s", model,
						   node->name, TensorShape(t), want, ShapeToString(node->ndim, dims)),
					   errhint("SELECT * FROM llm_param_shapes('%s') lists the shapes.", model)));
}

/* Parameters without a value: their count and the names of the first ones. */
typedef struct Missing
{
	int count;
	StringInfoData names;
} Missing;

/* The index of the row's node, whose weight is in memory afterwards; -1 if there is no such node. */
static int
LoadParam(LlmModel *model, const char *of, HeapTuple row, TupleDesc desc, Missing *missing)
{
	bool null_name, null_data;
	char *name = TextDatumGetCString(SPI_getbinval(row, desc, 1, &null_name));
	Datum data = SPI_getbinval(row, desc, 2, &null_data);
	int index = llm_graph_find(&model->graph, name);
	Tensor *t;
	LlmError err;

	if (index < 0)
		return -1;
	if (null_data)
	{
		if (++missing->count <= 5)
			appendStringInfo(&missing->names, "%s\"%s\"", missing->names.len ? ", " : "", name);
		return -1;
	}
	if (model->weights[index].plain || model->weights[index].panels)
		ereport(ERROR, (errcode(ERRCODE_CARDINALITY_VIOLATION),
						   errmsg("model \"%s\": parameter \"%s\" has two rows in llm_param", of, name),
						   errhint("The primary key of llm_param or llm_param_share was dropped: delete one "
								   "row and add it again.")));
	t = DatumGetTensor(data);
	CheckParam(&model->graph, index, t, of);
	LLM_CHECK(llm_weight_load(model, index, TENSOR_DATA(t), SessionAllocator(), &err), &err);
	if ((Pointer) t != DatumGetPointer(data))
		pfree(t);
	pfree(name);
	return index;
}

static void
RaiseMissing(const char *model, const Missing *missing)
{
	ereport(ERROR,
		(errcode(ERRCODE_UNDEFINED_OBJECT),
			errmsg("model \"%s\" has no weights for %d of its parameters: %s%s", model, missing->count,
				missing->names.data, missing->count > 5 ? ", …" : ""),
			errhint("llm_init_model('%s', seed) gives it random weights; "
					"pg_llm_import_safetensors(path, '%s') or pg_llm.load_model(conn, folder, '%s') trained "
					"ones.",
				model, model, model)));
}

bool
ModelLoadWeights(LlmModel *model, const char *name, ModelLoaded loaded, void *context)
{
	Datum value = CStringGetTextDatum(name);
	Missing missing = {0};
	bool go_on = true;
	Portal portal;

	initStringInfo(&missing.names);
	SPI_connect();
	portal = SpiOpen(&read_params, &value);
	while (go_on)
	{
		int index;

		if (!SpiFetch(&read_params, portal, 1))
			break;
		index = LoadParam(model, name, SPI_tuptable->vals[0], SPI_tuptable->tupdesc, &missing);
		SPI_freetuptable(SPI_tuptable);
		if (index >= 0 && loaded)
			go_on = loaded(model, index, context);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(portal);
	if (missing.count > 0)
		RaiseMissing(name, &missing);
	SPI_finish();
	return go_on;
}
