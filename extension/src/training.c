/*
 * See training.h.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

#include "engine/gradients.h"
#include "formats/crc32.h"
#include "src/batch.h"
#include "src/forward.h"
#include "src/generate.h"
#include "src/pg_llm.h"
#include "src/query.h"
#include "src/tensor.h"
#include "src/training.h"

static LlmQuery take_lock = {
	.text = "SELECT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended('pg_llm ' || $1, 0))",
	.nargs = 1,
	.types = {TEXTOID}};
static LlmQuery holder_of_lock = {
	.text = "SELECT 'process ' || a.pid || ' of ' || a.usename FROM pg_catalog.pg_locks AS l"
			" JOIN pg_catalog.pg_stat_activity AS a USING (pid) WHERE l.locktype = 'advisory' AND l.granted"
			" AND (l.classid::bigint << 32 | l.objid::bigint) = pg_catalog.hashtextextended('pg_llm ' || $1, "
			"0) LIMIT 1",
	.nargs = 1,
	.types = {TEXTOID}};
static LlmQuery lock_params = {
	.text = "SELECT count(*) FROM (SELECT FROM %s.llm_param AS p WHERE p.model = $1 OR (p.model, p.name) IN"
			" (SELECT source_model, source_name FROM %s.llm_param_share WHERE target_model = $1)"
			" ORDER BY p.model, p.name FOR NO KEY UPDATE OF p) AS locked",
	.nargs = 1,
	.types = {TEXTOID}};
static LlmQuery read_moments = {
	.text = "SELECT g.name, p.m, p.v, p.step, p.model, p.name FROM %s.llm_graph AS g"
			" LEFT JOIN %s.llm_param_share AS s ON s.target_model = g.model AND s.target_name = g.name"
			" JOIN %s.llm_param AS p ON p.model = coalesce(s.source_model, g.model)"
			" AND p.name = coalesce(s.source_name, g.name) WHERE g.model = $1 AND g.op = 'param' ORDER BY "
			"g.id, g.name",
	.nargs = 1,
	.types = {TEXTOID}};
static LlmQuery write_log = {
	.text = "INSERT INTO %s.llm_train_log (model, step, lr, loss, grad_norm, tokens, seconds, rows, seed,"
			" data_crc, recipe) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
	.nargs = 11,
	.types = {TEXTOID, INT8OID, FLOAT8OID, FLOAT4OID, FLOAT8OID, INT8OID, FLOAT8OID, INT8ARRAYOID, INT8OID,
		INT8OID, JSONBOID}};
static LlmQuery write_data = {
	.text = "UPDATE %s.llm_param SET data = $3 WHERE model = $1 AND name = $2", .nargs = 3};
static LlmQuery write_m = {
	.text = "UPDATE %s.llm_param SET m = $3 WHERE model = $1 AND name = $2", .nargs = 3};
static LlmQuery write_v = {
	.text = "UPDATE %s.llm_param SET v = $3, step = $4 WHERE model = $1 AND name = $2", .nargs = 4};

/* ---- locking ---- */

/* One training at a time; a second one is told at once who holds the model. A hand UPDATE waits for the rows.
 */
static void
LockModel(const char *model)
{
	Datum value = CStringGetTextDatum(model);
	bool null;

	SPI_connect();
	LlmRun(&take_lock, &value, NULL, false, 1);
	if (!DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null)))
	{
		char *who;

		LlmRun(&holder_of_lock, &value, NULL, false, 1);
		who = SPI_processed == 1 ? LlmField(0, 1) : NULL;
		ereport(
			ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					   errmsg("model \"%s\" is being trained by %s", model, who ? who : "another session"),
					   errhint("Wait until it has ended, or train a copy under another name.")));
	}
	LlmRun(&lock_params, &value, NULL, false, 1);
	SPI_finish();
}

/* ---- loading ---- */

static void
TakeMoment(HeapTuple row, TupleDesc desc, int column, float *to, size_t numel)
{
	bool null;
	Datum datum = SPI_getbinval(row, desc, column, &null);
	Tensor *t;

	if (null)
		return;
	t = DatumGetTensor(datum);
	if ((size_t) TensorNumel(t) == numel) /* another shape is of another architecture: start anew */
		memcpy(to, TENSOR_DATA(t), numel * sizeof(float));
	if ((Pointer) t != DatumGetPointer(datum))
		pfree(t);
}

static void
LoadMoments(Training *tr)
{
	LlmGraph *graph = &tr->m->model.graph;
	Datum value = CStringGetTextDatum(tr->m->name);
	Portal portal;

	SPI_connect();
	portal = LlmOpen(&read_moments, &value);
	for (SPI_cursor_fetch(portal, true, 1); SPI_processed > 0; SPI_cursor_fetch(portal, true, 1))
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		int node = llm_graph_find(graph, LlmField(0, 1));
		bool null;

		if (node >= 0)
		{
			TakeMoment(row, desc, 2, tr->trainer->m[node], tr->m->model.weights[node].numel);
			TakeMoment(row, desc, 3, tr->trainer->v[node], tr->m->model.weights[node].numel);
			tr->step = Max(tr->step, DatumGetInt64(SPI_getbinval(row, desc, 4, &null)));
			tr->store_model[node] = MemoryContextStrdup(tr->context, LlmField(0, 5));
			tr->store_name[node] = MemoryContextStrdup(tr->context, LlmField(0, 6));
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	SPI_finish();
}

Training *
TrainingOpen(const char *model)
{
	Training *tr = palloc0(sizeof(Training));
	LlmError err;

	tr->context = CurrentMemoryContext;
	LockModel(model);
	PushActiveSnapshot(GetLatestSnapshot()); /* what others committed before the locks were ours */
	tr->m = ModelForTraining(model, tr->context);
	LLM_CHECK(
		llm_trainer_open(&tr->m->model, NodeOf(tr->m, "loss"), LlmContextAllocator(), &tr->trainer, &err),
		&err);
	tr->store_model = palloc0(sizeof(char *) * tr->m->model.graph.count);
	tr->store_name = palloc0(sizeof(char *) * tr->m->model.graph.count);
	LoadMoments(tr);
	PopActiveSnapshot();
	return tr;
}

/* ---- writing back ---- */

static void
WriteColumn(LlmQuery *query, Training *tr, int node, const float *from, int64 step)
{
	const LlmNode *n = &tr->m->model.graph.nodes[node];
	int dims[LLM_MAX_DIMS];
	Tensor *t;
	Datum values[4];

	for (int i = 0; i < n->ndim; i++)
		dims[i] = (int) llm_dim_value(&n->shape[i], &tr->m->model.graph.sizes);
	t = TensorNew(n->ndim, dims);
	memcpy(TENSOR_DATA(t), from, TensorNumel(t) * sizeof(float));
	TensorCanonicalize(t);
	values[0] = CStringGetTextDatum(tr->store_model[node]);
	values[1] = CStringGetTextDatum(tr->store_name[node]);
	values[2] = PointerGetDatum(t);
	values[3] = Int64GetDatum(step);
	query->types[0] = query->types[1] = TEXTOID;
	query->types[2] = LlmTensorType();
	query->types[3] = INT8OID;
	LlmRun(query, values, NULL, false, 0);
	pfree(t);
}

/* One column per UPDATE: several large ones in a row would pass the 1 GB a row may have in memory. */
void
TrainingWrite(Training *tr)
{
	SPI_connect();
	for (int i = 0; i < tr->m->model.graph.count; i++)
		if (tr->trainer->grad[i])
		{
			WriteColumn(&write_data, tr, i, tr->m->model.weights[i].plain, tr->step);
			WriteColumn(&write_m, tr, i, tr->trainer->m[i], tr->step);
			WriteColumn(&write_v, tr, i, tr->trainer->v[i], tr->step);
		}
	SPI_finish();
}

/* ---- steps ---- */

Step
TrainingStep(Training *tr, const Recipe *r, int64 nth, const int64 *ids)
{
	LlmDropout dropout = {.p = (float) r->dropout_p, .seed = r->seed, .step = (uint32) (tr->step + 1)};
	LlmHyper hyper = r->hyper;
	Step step = {0};
	double total = 0;
	LlmCrc32 crc;
	LlmError err;

	llm_crc32_init(&crc);
	for (int i = 0; i < r->accumulation; i++)
	{
		Batch *b = BatchRead(ids + (Size) i * r->batch_size, r->batch_size, VocabularySize(tr->m));
		LlmInput in[3] = {{.name = "tokens", .ndim = 2, .dims = {b->B, b->T}, .integers = b->tokens},
			{.name = "targets", .ndim = 2, .dims = {b->B, b->T}, .integers = b->targets}};
		float loss;

		CheckLength(tr->m, b->T);
		in[2] = PositionsInput(0, b->T);
		dropout.micro_batch = (uint32) i;
		LLM_CHECK(llm_trainer_gradients(tr->trainer, in, 3, &dropout, &loss, &err), &err);
		if (!isfinite(loss))
			ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					errmsg("the loss of model \"%s\" became %f at step %lld", tr->m->name, loss,
						(long long) tr->step + 1),
					errhint("The weights are as before this call. Try a smaller lr_max or a grad_clip.")));
		total += loss;
		step.tokens += b->scored;
		llm_crc32_add(&crc, b->tokens, sizeof(int32) * (Size) b->B * b->T);
		llm_crc32_add(&crc, b->targets, sizeof(int32) * (Size) b->B * b->T);
	}
	step.data_crc = crc.value;
	step.loss = (float) (total / r->accumulation);
	step.lr = hyper.lr = llm_lr_schedule(nth, r->warmup, r->n_steps, r->lr_max, r->min_lr);
	LLM_CHECK(llm_trainer_update(tr->trainer, &hyper, tr->step + 1, r->accumulation, &step.norm, &err), &err);
	tr->step++;
	return step;
}

/* What a step depends on besides weights, data, seed and learning rate; shortest digits that read back alike.
 */
static Datum
RecipeJson(const Recipe *r)
{
	char *json =
		psprintf("{\"batch_size\": %d, \"accumulation\": %d, \"beta1\": %s, \"beta2\": %s, \"eps\": %s, "
				 "\"wd\": %s, \"grad_clip\": %s, \"dropout_p\": %s}",
			r->batch_size, r->accumulation, double_to_shortest_decimal(r->hyper.beta1),
			double_to_shortest_decimal(r->hyper.beta2), double_to_shortest_decimal(r->hyper.eps),
			double_to_shortest_decimal(r->hyper.weight_decay),
			r->hyper.clip > 0 ? double_to_shortest_decimal(r->hyper.clip) : "null",
			double_to_shortest_decimal(r->dropout_p));

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

void
TrainingLog(const Training *tr, const Recipe *r, const Step *step, const int64 *ids, int rows)
{
	Datum values[11], *elements = palloc(sizeof(Datum) * rows);

	for (int i = 0; i < rows; i++)
		elements[i] = Int64GetDatum(ids[i]);
	values[0] = CStringGetTextDatum(tr->m->name);
	values[1] = Int64GetDatum(tr->step);
	values[2] = Float8GetDatum(step->lr);
	values[3] = Float4GetDatum(step->loss);
	values[4] = Float8GetDatum(step->norm);
	values[5] = Int64GetDatum(step->tokens);
	values[6] = Float8GetDatum(step->seconds);
	values[7] =
		PointerGetDatum(construct_array(elements, rows, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[8] = Int64GetDatum((int64) r->seed);
	values[9] = Int64GetDatum((int64) step->data_crc);
	values[10] = RecipeJson(r);
	SPI_connect();
	LlmRun(&write_log, values, NULL, false, 0);
	SPI_finish();
}
