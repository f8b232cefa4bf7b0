/*
 * A copy is valid exactly when its version is the one that the statement's own snapshot sees: hand-made
 * UPDATEs, rollbacks and REPEATABLE READ need no further care. Copies in use are pinned, outdated ones go
 * with their last pin.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"

#include "src/graph_rows.h"
#include "src/model_cache.h"
#include "src/pg_llm.h"
#include "src/query.h"
#include "src/tensor.h"
#include "src/version.h"

static LlmQuery read_params = {
	.text = "SELECT g.name, p.data FROM %s.llm_graph AS g"
			" LEFT JOIN %s.llm_param_share AS s ON s.target_model = g.model AND s.target_name = g.name"
			" LEFT JOIN %s.llm_param AS p ON p.model = coalesce(s.source_model, g.model)"
			" AND p.name = coalesce(s.source_name, g.name) WHERE g.model = $1 AND g.op = 'param' ORDER BY "
			"g.id, g.name",
	.nargs = 1,
	.types = {TEXTOID}};

static LoadedModel *models = NULL;
static uint64 clock_of_uses = 0;

static void
ModelFree(LoadedModel *m)
{
	for (int i = 0; m->model.weights && i < m->model.graph.count; i++)
		llm_weight_free(&m->model, i, LlmSessionAllocator());
	MemoryContextDelete(m->context);
}

static void
ModelForget(LoadedModel *m)
{
	LoadedModel **at = &models;

	while (*at && *at != m)
		at = &(*at)->next;
	if (*at)
		*at = m->next;
	m->outdated = true;
	if (m->pins == 0)
		ModelFree(m);
}

bool
ModelEvict(void)
{
	LoadedModel *oldest = NULL;

	for (LoadedModel *m = models; m; m = m->next)
		if (m->pins == 0 && (oldest == NULL || m->used < oldest->used))
			oldest = m;
	if (oldest)
		ModelForget(oldest);
	return oldest != NULL;
}

/* ---- loading ---- */

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
					   errmsg("model \"%s\": parameter \"%s\" is %s, the graph wants %s = %s", model,
						   node->name, TensorShape(t), want, ShapeToString(node->ndim, dims)),
					   errhint("SELECT * FROM llm_param_shapes('%s') lists the shapes.", model)));
}

static void
LoadParam(LoadedModel *m, HeapTuple row, TupleDesc desc, StringInfo missing, int *missing_count)
{
	bool null_name, null_data;
	char *name = TextDatumGetCString(SPI_getbinval(row, desc, 1, &null_name));
	Datum data = SPI_getbinval(row, desc, 2, &null_data);
	int index = llm_graph_find(&m->model.graph, name);
	Tensor *t;
	LlmError err;

	if (index < 0)
		return;
	if (null_data)
	{
		if (++*missing_count <= 5)
			appendStringInfo(missing, "%s\"%s\"", missing->len ? ", " : "", name);
		return;
	}
	t = DatumGetTensor(data);
	CheckParam(&m->model.graph, index, t, m->name);
	LLM_CHECK(llm_weight_load(&m->model, index, TENSOR_DATA(t), LlmSessionAllocator(), &err), &err);
	if ((Pointer) t != DatumGetPointer(data))
		pfree(t);
	pfree(name);
}

static void
LoadParams(LoadedModel *m)
{
	Datum value = CStringGetTextDatum(m->name);
	StringInfoData missing;
	int missing_count = 0;
	Portal portal;

	initStringInfo(&missing);
	SPI_connect();
	portal = LlmOpen(&read_params, &value);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, 1);
		if (SPI_processed == 0)
			break;
		LoadParam(m, SPI_tuptable->vals[0], SPI_tuptable->tupdesc, &missing, &missing_count);
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(portal);
	if (missing_count > 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						   errmsg("model \"%s\" has no weights for %d of its parameters: %s%s", m->name,
							   missing_count, missing.data, missing_count > 5 ? ", …" : ""),
						   errhint("llm_init_model('%s', seed) gives it random weights; "
								   "pg_llm_import_safetensors(path, '%s') or pg_llm.load_model(conn, folder, "
								   "'%s') trained ones.",
							   m->name, m->name, m->name)));
	SPI_finish();
}

static LoadedModel *
ModelLoad(const char *name, int64 version, bool training)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_llm model", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	LoadedModel *m = palloc0(sizeof(LoadedModel));

	m->name = pstrdup(name);
	m->version = version;
	m->epoch = LlmEpoch();
	m->user = GetUserId();
	m->context = context;
	m->model.training = training;
	PG_TRY();
	{
		m->model.graph = *GraphRead(name, true);
		if (m->model.graph.count == 0)
			ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("there is no model \"%s\" to run", name),
					errhint("SELECT model, count(*) FROM llm_param GROUP BY model lists those with weights; "
							"llm_init_model('%s', seed) makes random ones.",
						name)));
		m->model.weights = palloc0(sizeof(LlmWeight) * m->model.graph.count);
		MemoryContextSwitchTo(caller);
		LoadParams(m);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		ModelFree(m);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return m;
}

/* ---- use ---- */

/*
 * Using a copy does not go through the executor, which looks at rights. False where this role may not read
 * the tables, or row security may show it other rows than the role that read the copy: loading anew then
 * decides.
 */
static bool
MayUse(const LoadedModel *m)
{
	static const char *const tables[] = {"llm_model_config", "llm_graph", "llm_param", "llm_param_share"};

	for (int i = 0; i < lengthof(tables); i++)
	{
		Oid table = get_relname_relid(tables[i], LlmNamespace());

		if (!OidIsValid(table) || pg_class_aclcheck(table, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
			return false;
		if (m->user != GetUserId() && check_enable_rls(table, InvalidOid, true) != RLS_NONE)
			return false;
	}
	return true;
}

static void
Unpin(void *arg)
{
	LoadedModel *m = arg;

	if (--m->pins == 0 && m->outdated)
		ModelFree(m);
}

static LoadedModel *
ModelPin(LoadedModel *m, MemoryContext pin)
{
	MemoryContextCallback *callback = MemoryContextAlloc(pin, sizeof(MemoryContextCallback));

	m->pins++;
	callback->func = Unpin;
	callback->arg = m;
	MemoryContextRegisterResetCallback(pin, callback);
	return m;
}

LoadedModel *
ModelOf(const char *name, MemoryContext pin)
{
	int64 version = LlmModelVersion(name);
	LoadedModel *m = models;

	while (m && strcmp(m->name, name) != 0)
		m = m->next;
	if (m && (version == 0 || m->version != version || m->epoch != LlmEpoch() || !MayUse(m)))
	{
		ModelForget(m);
		m = NULL;
	}
	if (m == NULL)
	{
		m = ModelLoad(name, version, false);
		m->next = models;
		models = m;
	}
	m->used = ++clock_of_uses;
	return ModelPin(m, pin);
}

LoadedModel *
ModelForTraining(const char *name, MemoryContext pin)
{
	LoadedModel *m = ModelLoad(name, 0, true);

	m->outdated = true; /* nobody else's */
	return ModelPin(m, pin);
}
