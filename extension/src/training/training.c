/*
 * See training.h.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "engine/gradients.h"
#include "formats/crc32.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/model/inputs.h"
#include "src/model/training_lock.h"
#include "src/tensor/tensor.h"
#include "src/training/training.h"

static SpiQuery read_moments = {
	.text = "SELECT g.name, p.m, p.v, p.step, p.model, p.name, p.model = g.model AND NOT EXISTS (SELECT FROM"
			" %s.llm_param_share AS u WHERE (u.source_model, u.source_name) = (p.model, p.name)"
			" AND u.target_model <> g.model) FROM %s.llm_graph AS g"
			" LEFT JOIN %s.llm_param_share AS s ON s.target_model = g.model AND s.target_name = g.name"
			" JOIN %s.llm_param AS p ON p.model = coalesce(s.source_model, g.model)"
			" AND p.name = coalesce(s.source_name, g.name) WHERE g.model = $1 AND g.op = 'param' ORDER BY "
			"g.id, g.name",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "st?t?lssb"};
static SpiQuery write_log = {
	.text = "INSERT INTO %s.llm_train_log (run, model, step, lr, loss, grad_norm, tokens, seconds, rows, "
			"seed, data_crc) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
	.nargs = 11,
	.types = {INT8OID, TEXTOID, INT8OID, FLOAT8OID, FLOAT4OID, FLOAT8OID, INT8OID, FLOAT8OID, INT8ARRAYOID,
		INT8OID, INT8OID},
	.one = true};

/* ---- loading ---- */

static void
TakeMoment(Training *tr, HeapTuple row, TupleDesc desc, int column, int node, float *to)
{
	const LlmModel *model = &tr->m->model;
	bool null;
	Datum datum = SPI_getbinval(row, desc, column, &null);
	Tensor *t;
	LlmError err;

	if (null)
		return;
	t = DatumGetTensor(datum);
	if ((size_t) TensorNumel(t) == model->weights[node].numel) /* another shape is reset to zero */
		LLM_CHECK(llm_weight_arrange(model, node, TENSOR_DATA(t), to, &err), &err);
	if ((Pointer) t != DatumGetPointer(datum))
		pfree(t);
}

static void
LoadMoment(Training *tr, HeapTuple row, TupleDesc desc, int node)
{
	LlmTrainer *t = tr->trainer;
	bool null;

	if (t->m[node]) /* else it is frozen */
	{
		TakeMoment(tr, row, desc, 2, node, t->m[node]);
		TakeMoment(tr, row, desc, 3, node, t->v[node]);
	}
	t->offset[node] = DatumGetInt64(SPI_getbinval(row, desc, 4, &null));
	tr->store_model[node] = MemoryContextStrdup(tr->context, SpiField(0, 5));
	tr->store_name[node] = MemoryContextStrdup(tr->context, SpiField(0, 6));
	tr->own[node] = DatumGetBool(SPI_getbinval(row, desc, 7, &null));
}

static void
LoadMoments(Training *tr)
{
	Datum value = CStringGetTextDatum(tr->m->name);
	Portal portal;

	SPI_connect();
	portal = SpiOpen(&read_moments, &value);
	while (SpiFetch(&read_moments, portal, 1))
	{
		HeapTuple row = SPI_tuptable->vals[0];
		int node = llm_graph_find(&tr->m->model.graph, SpiField(0, 1));

		if (node >= 0)
			LoadMoment(tr, row, SPI_tuptable->tupdesc, node);
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(portal);
	SPI_finish();
	for (int i = 0; i < tr->m->model.graph.count; i++)
		if (tr->m->model.graph.nodes[i].op == LLM_OP_PARAM && tr->store_model[i] == NULL)
			ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
							   errmsg("model \"%s\": parameter \"%s\" has no row to write to", tr->m->name,
								   tr->m->model.graph.nodes[i].name)));
}

/*
 * The model's step is the largest step among the parameters that it alone trains (a part added later has a
 * smaller one); if it has none, among all its parameters. Each parameter keeps its own count for AdamW's bias
 * correction.
 */
static void
SetSteps(Training *tr)
{
	int64 *offset = tr->trainer->offset;
	bool own = false;

	for (int i = 0; i < tr->m->model.graph.count; i++)
		if (tr->store_model[i])
		{
			if (tr->own[i] == own)
				tr->step = Max(tr->step, offset[i]);
			else if (tr->own[i])
				tr->step = offset[i];
			own |= tr->own[i];
		}
	for (int i = 0; i < tr->m->model.graph.count; i++)
		offset[i] -= tr->store_model[i] ? tr->step : offset[i];
}

static bool
SameStore(const Training *tr, int a, int b)
{
	return tr->store_name[a] && tr->store_name[b] && strcmp(tr->store_name[a], tr->store_name[b]) == 0 &&
		   strcmp(tr->store_model[a], tr->store_model[b]) == 0;
}

/* Nodes of this graph that share one row of llm_param are one parameter. The first of them owns the row. */
static void
TieShared(Training *tr)
{
	const LlmGraph *graph = &tr->m->model.graph;
	LlmError err;

	for (int i = 0; i < graph->count; i++)
	{
		int first = 0;

		if (tr->store_name[i] == NULL || (strcmp(tr->store_name[i], graph->nodes[i].name) == 0 &&
											 strcmp(tr->store_model[i], tr->m->name) == 0))
			continue;
		while (!SameStore(tr, first, i))
			first++;
		for (int j = first + 1; j < graph->count; j++)
			if (SameStore(tr, first, j))
				LLM_CHECK(llm_trainer_tie(tr->trainer, j, first, SessionAllocator(), &err), &err);
	}
}

Training *
TrainingLoad(const char *model)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "pg_llm training", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	Training *tr = palloc0(sizeof(Training));
	LlmError err;

	tr->context = context;
	tr->m = ModelForTraining(model, context);
	tr->loss = TrainingLossOf(tr->m);
	LLM_CHECK(llm_trainer_open(&tr->m->model, tr->loss, ContextAllocator(), &tr->trainer, &err), &err);
	tr->store_model = palloc0(sizeof(char *) * tr->m->model.graph.count);
	tr->store_name = palloc0(sizeof(char *) * tr->m->model.graph.count);
	tr->own = palloc0(sizeof(bool) * tr->m->model.graph.count);
	LoadMoments(tr);
	SetSteps(tr);
	TieShared(tr);
	MemoryContextSwitchTo(caller);
	return tr;
}

Training *
TrainingOpen(const char *model, bool wait, Progress *progress)
{
	Training *tr;

	if (!TrainingLockRows(model, true, wait))
		TrainingRowsHeld(model);
	PushActiveSnapshot(GetLatestSnapshot()); /* sees what others committed before we had the locks */
	ProgressPhaseIs(progress, PROGRESS_LOADING);
	tr = TrainingLoad(model);
	PopActiveSnapshot();
	return tr;
}

void
TrainingClose(Training *tr)
{
	MemoryContextDelete(tr->context);
}

/* ---- steps ---- */

static void
CheckFinite(const Training *tr, float loss)
{
	if (!isfinite(loss))
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						   errmsg("the loss of model \"%s\" became %f at step %lld", tr->m->name, loss,
							   (long long) tr->step + 1),
						   errhint("Nothing since the last commit is kept: the weights are as before. Try a "
								   "smaller lr_max, a longer warmup or a grad_clip.")));
}

/* Reads all micro-batches of a step, because each one's weight depends on the targets of all. */
Batch **
TrainingBatches(const Training *tr, const Recipe *r, const int64 *ids, Step *step)
{
	Batch **batches = palloc(sizeof(Batch *) * r->accumulation);
	LlmInput positions = {.name = "positions", .ndim = 1, .dims = {r->n_positions}, .integers = r->positions};
	LlmCrc32 crc;

	llm_crc32_init(&crc);
	for (int i = 0; i < r->accumulation; i++)
	{
		batches[i] = BatchRead(
			ids + (Size) i * r->batch_size, r->batch_size, tr->m, tr->loss, r->positions ? &positions : NULL);
		step->tokens += batches[i]->tokens;
		BatchChecksum(batches[i], &crc);
	}
	step->data_crc = crc.value;
	return batches;
}

LlmDropout
TrainingDropout(const Training *tr, const Recipe *r, int micro_batch)
{
	return (LlmDropout){.p = (float) r->dropout_p,
		.seed = r->seed,
		.step = (uint32) (tr->step + 1),
		.micro_batch = (uint32) micro_batch};
}

/*
 * Adds the gradients of all micro-batches; returns the loss of the step: the mean over its targets, or over
 * its rows where no targets are ids.
 */
float
TrainingGradients(Training *tr, const Recipe *r, Batch **batches)
{
	LlmDropout dropout = TrainingDropout(tr, r, 0);
	double total = 0;
	int64 all = 0;
	LlmError err;

	tr->trainer->keeping = r->keeping;
	for (int i = 0; i < r->accumulation; i++)
		all += batches[i]->weight;
	for (int i = 0; i < r->accumulation; i++)
	{
		Batch *b = batches[i];
		/* exactly 1 where all micro-batches have the same number of targets; without any, the loss objects */
		double weight = all ? (double) (b->weight * r->accumulation) / all : 1;
		float loss;

		if (weight == 0)
			continue;
		dropout.micro_batch = (uint32) i;
		LLM_CHECK(
			llm_trainer_gradients(tr->trainer, b->in, b->n, &dropout, (float) weight, &loss, &err), &err);
		CheckFinite(tr, loss);
		total += weight * loss;
	}
	return (float) (total / r->accumulation);
}

LlmHyper
TrainingHyper(const Training *tr, const Recipe *r)
{
	LlmHyper hyper = r->hyper;

	hyper.lr = llm_lr_schedule(tr->step + 1 - r->first_step, r->warmup, r->n_steps, r->lr_max, r->min_lr);
	return hyper;
}

void
TrainingUpdate(Training *tr, const Recipe *r, Step *step)
{
	LlmHyper hyper = TrainingHyper(tr, r);
	LlmError err;

	step->lr = hyper.lr;
	LLM_CHECK(
		llm_trainer_update(tr->trainer, &hyper, tr->step + 1, r->accumulation, &step->norm, &err), &err);
	tr->step++;
}

Step
TrainingStep(Training *tr, const Recipe *r, const int64 *ids)
{
	Step step = {0};
	Batch **batches = TrainingBatches(tr, r, ids, &step);

	step.loss = TrainingGradients(tr, r, batches);
	TrainingUpdate(tr, r, &step);
	return step;
}

void
TrainingLog(const Training *tr, const Recipe *r, const Step *step, const int64 *ids)
{
	int rows = r->batch_size * r->accumulation;
	Datum values[11], *elements = palloc(sizeof(Datum) * rows);

	for (int i = 0; i < rows; i++)
		elements[i] = Int64GetDatum(ids[i]);
	values[0] = Int64GetDatum(r->run);
	values[1] = CStringGetTextDatum(tr->m->name);
	values[2] = Int64GetDatum(tr->step);
	values[3] = Float8GetDatum(step->lr);
	values[4] = Float4GetDatum(step->loss);
	values[5] = Float8GetDatum(step->norm);
	values[6] = Int64GetDatum(step->tokens);
	values[7] = Float8GetDatum(step->seconds);
	values[8] =
		PointerGetDatum(construct_array(elements, rows, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[9] = Int64GetDatum((int64) r->seed);
	values[10] = Int64GetDatum((int64) step->data_crc);
	SPI_connect();
	SpiRun(&write_log, values, NULL, false, 0);
	SPI_finish();
}

static Step
OneStep(Training *tr, const TrainingPlan *plan)
{
	const Recipe *r = plan->recipe;
	int rows = r->batch_size * r->accumulation;
	instr_time start, end;
	Step step;

	INSTR_TIME_SET_CURRENT(start);
	if (plan->data)
		DatasetPick(plan->data, tr->step * rows, rows, plan->ids);
	step = TrainingStep(tr, r, plan->ids);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	step.seconds = INSTR_TIME_GET_DOUBLE(end);
	TrainingLog(tr, r, &step, plan->ids);
	return step;
}

static void
Tell(const Training *tr, const TrainingPlan *plan, const Step *step)
{
	int64 n = tr->step - plan->recipe->first_step, all = plan->recipe->n_steps;
	int64 every = plan->notice_every < 0 ? Max(1, all / 10) : plan->notice_every;

	if (every > 0 && (n % every == 0 || n == 1))
		ereport(NOTICE, (errmsg("step %lld of %lld: loss %.4f, learning rate %.3g", (long long) n,
							(long long) all, step->loss, step->lr)));
}

Step
TrainingSteps(Training *tr, const TrainingPlan *plan)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "training step", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	int level = NewGUCNestLevel();
	char threads[16];
	Step step = {0};
	int64 steps = 0;

	snprintf(threads, sizeof(threads), "%d", plan->threads);
	if (plan->threads > 0)
		set_config_option(
			"pg_llm.threads", threads, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	while (tr->step < plan->last && !(plan->enough && plan->enough(plan->context, steps)))
	{
		CHECK_FOR_INTERRUPTS();
		step = OneStep(tr, plan);
		ProgressStep(plan->progress, tr->step - plan->recipe->first_step, step.tokens);
		Tell(tr, plan, &step);
		MemoryContextReset(context);
		steps++;
	}
	AtEOXact_GUC(true, level);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return step;
}
