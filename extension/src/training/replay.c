/*
 * Replay: computes steps of llm_train_log again from a checkpoint's weights, with the code that trained and
 * in memory of its own. It locks nothing and writes nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/checkpoint/checkpoint.h"
#include "src/tensor/digest.h"
#include "src/training/replay.h"

/* ---- the checkpoint's weights, moments and step ---- */

/* to: in the memory layout of the node's weight */
static void
TakeValues(Saved *saved, const char *name, const LlmModel *model, int node, float *to, bool needed)
{
	const LlmWeight *w = &model->weights[node];
	Tensor *t = to ? SavedTensor(saved, name) : NULL;
	LlmError err;

	if (t == NULL && needed)
		ereport(
			ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("the checkpoint has no tensor \"%s\"", name)));
	if (to == NULL)
		return;
	if (t == NULL || (size_t) TensorNumel(t) != w->numel) /* moments of another shape are reset to zero */
		memset(to, 0, llm_weight_floats(w) * sizeof(float));
	else
		LLM_CHECK(llm_weight_arrange(model, node, TENSOR_DATA(t), to, &err), &err);
	if (t)
		pfree(t);
}

/* Each parameter keeps its own count of steps for AdamW's bias correction. */
static void
TakeSteps(Training *tr, int64 id, int64 step)
{
	static SpiQuery others = {"SELECT e.key, e.value FROM %s.llm_checkpoint_model AS c,"
							  " pg_catalog.jsonb_each_text(c.steps) AS e WHERE c.checkpoint = $1",
		1, {INT8OID}, .columns = "ss"};
	Datum value = Int64GetDatum(id);
	LlmGraph *graph = &tr->m->model.graph;

	tr->step = step;
	memset(tr->trainer->offset, 0, sizeof(int64_t) * graph->count);
	SpiRun(&others, &value, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int node = llm_graph_find(graph, SpiField(i, 1));

		if (node >= 0)
			tr->trainer->offset[node] = pg_strtoint64(SpiField(i, 2)) - step;
	}
	SPI_freetuptable(SPI_tuptable);
}

void
ReplayCheckpoint(Training *tr, int64 id)
{
	static SpiQuery find = {"SELECT location, format, sha256, step FROM %s.llm_checkpoint WHERE id = $1", 1,
		{INT8OID}, .columns = "sssl"};
	Datum value = Int64GetDatum(id);
	LlmModel *model = &tr->m->model;
	int64 step;
	Saved *saved;
	LlmError err;

	SPI_connect();
	SpiRun(&find, &value, NULL, true, 1);
	if (SPI_processed == 0)
		ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("there is no checkpoint %lld", (long long) id)));
	step = pg_strtoint64(SpiField(0, 4));
	saved = SavedOpen(id, SpiField(0, 1), SpiField(0, 2), SpiField(0, 3));
	TakeSteps(tr, id, step);
	for (int i = 0; i < model->graph.count; i++)
	{
		const char *name = model->graph.nodes[i].name;

		if (model->graph.nodes[i].op != LLM_OP_PARAM)
			continue;
		CHECK_FOR_INTERRUPTS();
		TakeValues(saved, name, model, i, llm_weight_data(&model->weights[i]), true);
		TakeValues(saved, psprintf(SAVED_M "%s", name), model, i, tr->trainer->m[i], false);
		TakeValues(saved, psprintf(SAVED_V "%s", name), model, i, tr->trainer->v[i], false);
		LLM_CHECK(llm_weight_repack(model, i, &err), &err);
	}
	SavedClose(saved);
	SPI_finish();
}

/* ---- the log ---- */

Logged *
ReplayLog(Datum ids, int *count)
{
	static SpiQuery read = {"SELECT run, step, loss, grad_norm, data_crc, rows FROM %s.llm_train_log"
							" WHERE id = ANY ($1) ORDER BY step",
		1, {INT8ARRAYOID}, .columns = "llfdlL"};
	MemoryContext caller = CurrentMemoryContext;
	Logged *log;

	SPI_connect();
	SpiRun(&read, &ids, NULL, true, 0);
	*count = (int) SPI_processed;
	log = MemoryContextAllocZero(caller, sizeof(Logged) * (SPI_processed + 1));
	for (int i = 0; i < *count; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool null;
		ArrayType *rows;

		log[i].run = DatumGetInt64(SPI_getbinval(row, desc, 1, &null));
		log[i].step = DatumGetInt64(SPI_getbinval(row, desc, 2, &null));
		log[i].loss = DatumGetFloat4(SPI_getbinval(row, desc, 3, &null));
		log[i].norm = DatumGetFloat8(SPI_getbinval(row, desc, 4, &null));
		log[i].data_crc = (uint32) DatumGetInt64(SPI_getbinval(row, desc, 5, &null));
		rows = (ArrayType *) DetoastWhole(SPI_getbinval(row, desc, 6, &null));
		log[i].n_ids = ArrayGetNItems(ARR_NDIM(rows), ARR_DIMS(rows));
		log[i].ids = MemoryContextAlloc(caller, sizeof(int64) * Max(1, log[i].n_ids));
		if (array_contains_nulls(rows))
			log[i].n_ids = 0; /* rejected below */
		else
			memcpy(log[i].ids, ARR_DATA_PTR(rows), sizeof(int64) * log[i].n_ids);
	}
	SPI_finish();
	return log;
}

/* ---- steps ---- */

/* The weights' llm_model_sha256. */
typedef struct Weight
{
	const char *utf8;
	int node;
} Weight;

static int
ByName(const void *a, const void *b)
{
	return strcmp(((const Weight *) a)->utf8, ((const Weight *) b)->utf8);
}

static char *
HashWeights(const Training *tr)
{
	const LlmGraph *graph = &tr->m->model.graph;
	Weight *weights = palloc(sizeof(Weight) * (graph->count + 1));
	Digest *digest = DigestBegin();
	int count = 0;

	for (int i = 0; i < graph->count; i++)
		if (graph->nodes[i].op == LLM_OP_PARAM)
			weights[count++] = (Weight){
				pg_server_to_any(pstrdup(graph->nodes[i].name), (int) strlen(graph->nodes[i].name), PG_UTF8),
				i};
	qsort(weights, count, sizeof(Weight), ByName);
	for (int i = 0; i < count; i++)
	{
		const LlmNode *node = &graph->nodes[weights[i].node];
		int dims[LLM_MAX_DIMS];
		Tensor *t;
		LlmError err;

		for (int d = 0; d < node->ndim; d++)
			dims[d] = (int) llm_dim_value(&node->shape[d], &graph->sizes);
		t = TensorNew(node->ndim, dims);
		LLM_CHECK(llm_weight_unpack(&tr->m->model, weights[i].node,
					  llm_weight_data(&tr->m->model.weights[weights[i].node]), TENSOR_DATA(t), &err),
			&err);
		DigestTensor(digest, weights[i].utf8, t);
		pfree(t);
	}
	return DigestEnd(digest);
}

/* The first ids of the step's rows, for a message. */
static char *
RowList(const Logged *logged)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < Min(logged->n_ids, 20); i++)
		appendStringInfo(&text, i > 0 ? ", %lld" : "%lld", (long long) logged->ids[i]);
	if (logged->n_ids > 20)
		appendStringInfoString(&text, ", …");
	return text.data;
}

void
ReplayCheck(const Training *tr, const Recipe *r, const Logged *logged)
{
	if (logged->n_ids != r->batch_size * r->accumulation || logged->step != tr->step + 1)
		ereport(
			ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
					   errmsg("the log of step %lld is not what training wrote: %d rows, %d x %d expected",
						   (long long) logged->step, logged->n_ids, r->batch_size, r->accumulation),
					   errhint("Rows of llm_train_log or llm_train_run were changed.")));
}

void
ReplayCheckData(const Step *step, const Logged *logged)
{
	if (step->data_crc != logged->data_crc)
		ereport(
			ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					   errmsg("step %lld cannot be replayed: rows of llm_dataset have changed since",
						   (long long) logged->step),
					   errdetail("It was trained on rows %s; the checksum of what they hold is %u, "
								 "logged is %u.",
						   RowList(logged), step->data_crc, logged->data_crc),
					   errhint("Put back what they held, or replay up to the step before: to_step => %lld.",
						   (long long) logged->step - 1)));
}

bool
ReplayMatches(const Step *step, const Logged *logged)
{
	return memcmp(&step->loss, &logged->loss, sizeof(float)) == 0 &&
		   memcmp(&step->norm, &logged->norm, sizeof(double)) == 0;
}

static Step
OneStep(Training *tr, const Recipe *r, const Logged *logged)
{
	Step step;

	ReplayCheck(tr, r, logged);
	step = TrainingStep(tr, r, logged->ids);
	ReplayCheckData(&step, logged);
	return step;
}

static bool
Contains(ArrayType *array, int64 x)
{
	const int64 *values = (const int64 *) ARR_DATA_PTR(array);

	for (int i = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) - 1; i >= 0; i--)
		if (values[i] == x)
			return true;
	return false;
}

/* llm_replay_steps(model, from_checkpoint, log_ids, hashed) */
PG_FUNCTION_INFO_V1(llm_replay_steps);
Datum
llm_replay_steps(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *results = (ReturnSetInfo *) fcinfo->resultinfo;
	ArrayType *hashed = PG_GETARG_ARRAYTYPE_P(3);
	MemoryContext one, outer;
	Progress *progress;
	Recipe *recipe = NULL;
	Training *tr;
	Logged *log;
	int count;

	InitMaterializedSRF(fcinfo, 0);
	log = ReplayLog(PG_GETARG_DATUM(2), &count);
	progress =
		ProgressBegin(CurrentMemoryContext, "replay", text_to_cstring(PG_GETARG_TEXT_PP(0)), "step", count);
	ProgressPhaseIs(progress, PROGRESS_LOADING);
	tr = TrainingLoad(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	ReplayCheckpoint(tr, PG_GETARG_INT64(1));
	one = AllocSetContextCreate(CurrentMemoryContext, "pg_llm replay", ALLOCSET_DEFAULT_SIZES);
	ProgressRange(progress, 0, count);
	for (int i = 0; i < count; i++)
	{
		Datum values[5];
		bool nulls[5] = {false};
		Step step;

		CHECK_FOR_INTERRUPTS();
		if (recipe == NULL || recipe->run != log[i].run)
			recipe = RecipeOfRun(log[i].run);
		outer = MemoryContextSwitchTo(one);
		step = OneStep(tr, recipe, &log[i]);
		values[0] = Int64GetDatum(tr->step);
		values[1] = Float4GetDatum(step.loss);
		values[2] = Float4GetDatum(log[i].loss);
		values[3] = BoolGetDatum(ReplayMatches(&step, &log[i]));
		nulls[4] = !Contains(hashed, tr->step);
		values[4] = nulls[4] ? (Datum) 0 : CStringGetTextDatum(HashWeights(tr));
		tuplestore_putvalues(results->setResult, results->setDesc, values, nulls);
		ProgressStep(progress, i + 1, step.tokens);
		MemoryContextSwitchTo(outer);
		MemoryContextReset(one);
	}
	TrainingClose(tr);
	ProgressEnd(progress);
	return (Datum) 0;
}
