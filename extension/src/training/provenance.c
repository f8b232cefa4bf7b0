/*
 * Where a weight's value comes from: steps are computed again from a checkpoint, and each change of one
 * element is split into what its rows, the momentum carried from earlier steps and the decay contribute.
 *
 * AdamW makes w' = w keep - k m', with m' = b1 m + c1 s g, where g is the gradient, s the clip factor and the
 * mean over micro-batches, and k = rate / (sqrt(v') / root + eps). With k as computed this is linear in g,
 * the sum of what each row adds to it. So the change is the sum of (keep - 1) w, of -k b1 m and of -k c1 s g
 * for each row, but for the rounding of float32. A row's part in m' is carried on: after n more steps it is
 * b1^n times as large.
 */
#include "postgres.h"

#include <math.h>

#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "engine/gradients.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/model/inputs.h"
#include "src/tensor/tensor.h"
#include "src/training/replay.h"

typedef enum Kind
{
	PART_ROW,
	PART_MOMENTUM,
	PART_DECAY,
	PART_REST
} Kind;

static const char *const kinds[] = {"row", "momentum", "decay", "rest"};

/* A part of the change that a step makes. */
typedef struct Part
{
	int step; /* its index among the steps watched */
	Kind kind;
	int place; /* of a row in its step, from 1 */
	int64 row;
	double gradient; /* what it adds to the step's gradient */
	double added;    /* what it adds to the first moment */
	double change;
} Part;

/* A step, and the scalars of its update. */
typedef struct Watched
{
	int64 step;
	float before, after;
	double k, b1, lr, clip, norm;
} Watched;

typedef struct Provenance
{
	Training *tr;
	int node;  /* the parameter */
	size_t at; /* the element's place in the parameter's layout */
	bool decays, random;
	Part *parts;
	int64 count, room;
	Watched *steps;
	int n_steps;
} Provenance;

/* ---- the element ---- */

static int
FindParameter(const Training *tr, const char *name)
{
	int node = llm_graph_find(&tr->m->model.graph, name);

	if (node < 0 || tr->m->model.graph.nodes[node].op != LLM_OP_PARAM)
		ereport(
			ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
					   errmsg("model \"%s\" has no parameter \"%s\"", tr->m->name, name),
					   errhint("SELECT name, shape FROM llm_param_shapes('%s') lists them.", tr->m->name)));
	if (tr->trainer->grad[node] == NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						   errmsg("parameter \"%s\" of model \"%s\" is not trained", name, tr->m->name)));
	return node;
}

/* Where the element with this index is in the parameter's layout. */
static size_t
FindElement(const Training *tr, int node, ArrayType *index)
{
	const LlmModel *model = &tr->m->model;
	const LlmNode *n = &model->graph.nodes[node];
	size_t numel = model->weights[node].numel, floats = llm_weight_floats(&model->weights[node]), flat = 0;
	int given = ArrayGetNItems(ARR_NDIM(index), ARR_DIMS(index)), dims[LLM_MAX_DIMS];
	float *plain, *placed;
	LlmError err;

	for (int d = 0; d < n->ndim; d++)
		dims[d] = (int) llm_dim_value(&n->shape[d], &model->graph.sizes);
	if (ARR_NDIM(index) > 1 || given != n->ndim || array_contains_nulls(index))
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("element has %d indexes, parameter \"%s\" has shape %s", given, n->name,
							   ShapeToString(n->ndim, dims)),
						   errhint("One index for each axis, counted from 0.")));
	for (int d = 0; d < n->ndim; d++)
	{
		int i = ((const int32 *) ARR_DATA_PTR(index))[d];

		if (i < -dims[d] || i >= dims[d])
			ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
							   errmsg("index %d is outside of axis %d of parameter \"%s\", shape %s", i, d,
								   n->name, ShapeToString(n->ndim, dims)),
							   errhint("Indexes count from 0, negative ones from the end.")));
		flat = flat * dims[d] + (i < 0 ? i + dims[d] : i);
	}
	ReserveMemory(sizeof(float) * (numel + floats));
	plain = MemoryContextAllocExtended(
		CurrentMemoryContext, sizeof(float) * numel, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	placed = MemoryContextAllocExtended(
		CurrentMemoryContext, sizeof(float) * floats, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	plain[flat] = 1;
	LLM_CHECK(llm_weight_arrange(model, node, plain, placed, &err), &err);
	flat = 0;
	while (placed[flat] != 1)
		flat++;
	pfree(plain);
	pfree(placed);
	return flat;
}

static float
Value(const Provenance *p)
{
	return llm_weight_data(&p->tr->m->model.weights[p->node])[p->at];
}

/* ---- a row's own gradient ---- */

static bool
DrawsRandom(const LlmGraph *graph)
{
	for (int i = 0; i < graph->count; i++)
		if (graph->nodes[i].op == LLM_OP_NORMAL || graph->nodes[i].op == LLM_OP_UNIFORM ||
			graph->nodes[i].op == LLM_OP_RANDINT)
			return true;
	return false;
}

static LlmInput *
Targets(const Batch *b)
{
	for (int i = 0; i < b->n; i++)
		if (b->in[i].integers && strcmp(b->in[i].name, "targets") == 0)
			return &b->in[i];
	return NULL;
}

/*
 * The batch with the targets of one row alone. The other rows stay, because the random numbers of dropout
 * depend on where a row is in its batch.
 */
static Batch *
OneRowOf(const Batch *all, int row, int rows)
{
	Batch *b = palloc(sizeof(Batch));
	LlmInput *targets;
	Size numel, each;
	int32 *copy;

	*b = *all;
	b->in = palloc(sizeof(LlmInput) * all->n);
	memcpy(b->in, all->in, sizeof(LlmInput) * all->n);
	targets = Targets(b);
	if (targets == NULL)
		ereport(
			ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					   errmsg("the gradients of single rows need targets that are ids, or no random numbers"),
					   errhint("Train with batch_size => 1 and the accumulation that it replaces.")));
	numel = InputNumel(targets);
	each = numel / rows;
	ReserveMemory(sizeof(int32) * numel);
	copy = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(int32) * Max(1, numel));
	b->weight = 0;
	for (Size i = 0; i < numel; i++)
	{
		LLM_POLL(i);
		copy[i] = i / each == row ? targets->integers[i] : -1;
		b->weight += copy[i] >= 0;
	}
	targets->integers = copy;
	return b;
}

/* What one row adds to the step's gradient, a mean over all of its targets (or rows). */
static double
RowGradient(Provenance *p, const Recipe *r, Batch **batches, int64 all, const int64 *ids, int place)
{
	LlmTrainer *trainer = p->tr->trainer;
	int of = place / r->batch_size;
	LlmInput positions = {.name = "positions", .ndim = 1, .dims = {r->n_positions}, .integers = r->positions};
	LlmDropout dropout = TrainingDropout(p->tr, r, of);
	const Batch *b;
	float loss;
	LlmError err;

	if (r->batch_size == 1)
		b = batches[of];
	else if (r->dropout_p == 0 && !p->random)
		b = BatchRead(ids + place, 1, p->tr->m, p->tr->loss, r->positions ? &positions : NULL);
	else
		b = OneRowOf(batches[of], place % r->batch_size, r->batch_size);
	if (b->weight == 0)
		return 0;
	trainer->keeping = r->keeping;
	trainer->spoilt = true; /* begins from zero */
	LLM_CHECK(llm_trainer_gradients(trainer, b->in, b->n, &dropout, 1, &loss, &err), &err);
	trainer->spoilt = true;
	return (double) trainer->grad[p->node][p->at] * b->weight / all;
}

/* ---- a step ---- */

static Part *
AddPart(Provenance *p, int step, Kind kind, double change)
{
	if (p->count == p->room)
	{
		p->room = 2 * p->room + 64;
		ReserveMemory(sizeof(Part) * p->room);
		p->parts = repalloc_huge(p->parts, sizeof(Part) * p->room);
	}
	p->parts[p->count] = (Part){.step = step, .kind = kind, .change = change};
	return &p->parts[p->count++];
}

/* The step of the log, with the parts of its change. */
static Step
WatchStep(Provenance *p, const Recipe *r, const Logged *logged, MemoryContext results)
{
	Training *tr = p->tr;
	Watched *w = &p->steps[p->n_steps];
	LlmHyper hyper = TrainingHyper(tr, r);
	MemoryContext step_context,
		one = AllocSetContextCreate(CurrentMemoryContext, "provenance of a row", ALLOCSET_DEFAULT_SIZES);
	double *gradients = palloc(sizeof(double) * logged->n_ids), k, scale, rest, moment;
	float before = Value(p), m = tr->trainer->m[p->node][p->at];
	int64 all = 0;
	Step step = {0};
	Batch **batches;
	LlmAdamW h;

	batches = TrainingBatches(tr, r, logged->ids, &step);
	ReplayCheckData(&step, logged);
	for (int i = 0; i < r->accumulation; i++)
		all += batches[i]->weight;
	for (int i = 0; i < logged->n_ids; i++)
	{
		step_context = MemoryContextSwitchTo(one);
		gradients[i] = RowGradient(p, r, batches, all, logged->ids, i);
		MemoryContextSwitchTo(step_context);
		MemoryContextReset(one);
		CHECK_FOR_INTERRUPTS();
	}
	step.loss = TrainingGradients(tr, r, batches);
	TrainingUpdate(tr, r, &step);

	/* as in llm_trainer_update */
	scale = hyper.clip > 0 && step.norm > hyper.clip ? hyper.clip / step.norm : 1;
	h = llm_adamw_scalars(hyper.lr, hyper.beta1, hyper.beta2, hyper.eps, p->decays ? hyper.weight_decay : 0,
		tr->step + tr->trainer->offset[p->node], scale);
	k = h.rate / (sqrt(tr->trainer->v[p->node][p->at]) / h.root + h.eps);
	*w = (Watched){.step = tr->step,
		.before = before,
		.after = Value(p),
		.k = k,
		.b1 = h.beta1,
		.lr = hyper.lr,
		.clip = scale,
		.norm = step.norm};
	step_context = MemoryContextSwitchTo(results);
	rest = (double) w->after - before;
	for (int i = 0; i < logged->n_ids; i++)
	{
		double added = (double) h.one_minus_beta1 * h.grad_scale * gradients[i];
		Part *part = AddPart(p, p->n_steps, PART_ROW, -k * added);

		part->place = i + 1;
		part->row = logged->ids[i];
		part->gradient = gradients[i];
		part->added = added;
		rest -= part->change;
	}
	moment = (double) h.beta1 * m;
	rest -= AddPart(p, p->n_steps, PART_MOMENTUM, -k * moment)->change;
	rest -= AddPart(p, p->n_steps, PART_DECAY, ((double) h.keep - 1) * before)->change;
	p->parts[p->count - 2].added = moment;
	AddPart(p, p->n_steps, PART_REST, rest);
	MemoryContextSwitchTo(step_context);
	p->n_steps++;
	MemoryContextDelete(one);
	return step;
}

/* ---- results ---- */

/*
 * What was added to the moment in a step changes the weight by -reach times as much up to the last step:
 * reach(s) = k(s) + b1(s+1) reach(s+1).
 */
static double *
Reaches(const Provenance *p)
{
	double *reach = palloc(sizeof(double) * (p->n_steps + 1));

	reach[p->n_steps] = 0;
	for (int s = p->n_steps - 1; s >= 0; s--)
		reach[s] = p->steps[s].k + (s + 1 < p->n_steps ? p->steps[s + 1].b1 * reach[s + 1] : 0);
	return reach;
}

/* Momentum of later steps is that of rows, and counted with them; the sum of all is the whole change. */
static double
Total(const Provenance *p, const Part *part, const double *reach)
{
	if (part->kind == PART_ROW || (part->kind == PART_MOMENTUM && part->step == 0))
		return -reach[part->step] * part->added;
	return part->kind == PART_MOMENTUM ? 0 : part->change;
}

static void
PutParts(const Provenance *p, ReturnSetInfo *results)
{
	double *reach = Reaches(p), rest = (double) p->steps[p->n_steps - 1].after - p->steps[0].before;

	for (int64 i = 0; i < p->count; i++)
		rest -= Total(p, &p->parts[i], reach);
	for (int64 i = 0; i < p->count; i++)
	{
		const Part *part = &p->parts[i];
		const Watched *w = &p->steps[part->step];
		double total = Total(p, part, reach);
		Datum values[11];
		bool nulls[11] = {false};

		CHECK_FOR_INTERRUPTS();
		if (i == p->count - 1) /* the last step's rest: rounding of the moments that were carried on */
			total += rest;
		values[0] = Int64GetDatum(w->step);
		values[1] = CStringGetTextDatum(kinds[part->kind]);
		nulls[2] = nulls[3] = nulls[4] = part->kind != PART_ROW;
		values[2] = Int32GetDatum(part->place);
		values[3] = Int64GetDatum(part->row);
		values[4] = Float8GetDatum(part->gradient);
		values[5] = Float8GetDatum(part->change);
		nulls[6] = part->kind == PART_MOMENTUM && part->step > 0;
		values[6] = Float8GetDatum(total);
		values[7] = Float4GetDatum(w->before);
		values[8] = Float4GetDatum(w->after);
		values[9] = Float8GetDatum(w->lr);
		values[10] = Float8GetDatum(w->clip);
		tuplestore_putvalues(results->setResult, results->setDesc, values, nulls);
	}
}

/* stored: the element as it is now */
static void
CheckEnd(const Provenance *p, float stored)
{
	float value = Value(p);
	char computed[32], found[32];

	if (memcmp(&value, &stored, sizeof(float)) != 0)
		ereport(
			ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					   errmsg("the log leads to %s for this element of \"%s\", and %s is stored",
						   llm_decimal(value, computed), p->tr->m->model.graph.nodes[p->node].name,
						   llm_decimal(stored, found)),
					   errhint("The model was changed outside of training since; to_step => %lld looks at "
							   "what training made.",
						   (long long) p->tr->step)));
}

/* llm_provenance_parts(model, from_checkpoint, log_ids, parameter, element, first_step, is_stored, stored) */
PG_FUNCTION_INFO_V1(llm_provenance_parts);
Datum
llm_provenance_parts(PG_FUNCTION_ARGS)
{
	MemoryContext results = CurrentMemoryContext, one;
	Provenance p = {.tr = NULL};
	Progress *progress;
	Recipe *recipe = NULL;
	Logged *log;
	int count;

	InitMaterializedSRF(fcinfo, 0);
	log = ReplayLog(PG_GETARG_DATUM(2), &count);
	progress = ProgressBegin(results, "replay", text_to_cstring(PG_GETARG_TEXT_PP(0)), "step", count);
	ProgressPhaseIs(progress, PROGRESS_LOADING);
	p.tr = TrainingLoad(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	p.node = FindParameter(p.tr, text_to_cstring(PG_GETARG_TEXT_PP(3)));
	p.at = FindElement(p.tr, p.node, PG_GETARG_ARRAYTYPE_P(4));
	p.decays = p.tr->m->model.graph.nodes[p.node].ndim >= 2;
	p.random = DrawsRandom(&p.tr->m->model.graph);
	p.steps = palloc(sizeof(Watched) * (count + 1));
	p.parts = palloc(sizeof(Part));
	ReplayCheckpoint(p.tr, PG_GETARG_INT64(1));
	one = AllocSetContextCreate(results, "pg_llm provenance", ALLOCSET_DEFAULT_SIZES);
	ProgressRange(progress, 0, count);
	for (int i = 0; i < count; i++)
	{
		Step step = {0};

		CHECK_FOR_INTERRUPTS();
		if (recipe == NULL || recipe->run != log[i].run)
			recipe = RecipeOfRun(log[i].run);
		ReplayCheck(p.tr, recipe, &log[i]);
		MemoryContextSwitchTo(one);
		if (log[i].step >= PG_GETARG_INT64(5))
			step = WatchStep(&p, recipe, &log[i], results);
		else
		{
			step = TrainingStep(p.tr, recipe, log[i].ids);
			ReplayCheckData(&step, &log[i]);
		}
		MemoryContextSwitchTo(results);
		MemoryContextReset(one);
		if (!ReplayMatches(&step, &log[i]))
			ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("step %lld of model \"%s\" does not repeat: its loss is %.9g, logged is %.9g",
						(long long) log[i].step, p.tr->m->name, step.loss, log[i].loss),
					errhint("The graph, the log or the weights were changed between checkpoint %lld and this "
							"step.",
						(long long) PG_GETARG_INT64(1))));
		ProgressStep(progress, i + 1, step.tokens);
	}
	if (PG_GETARG_BOOL(6))
		CheckEnd(&p, PG_GETARG_FLOAT4(7));
	if (p.n_steps > 0)
		PutParts(&p, (ReturnSetInfo *) fcinfo->resultinfo);
	TrainingClose(p.tr);
	ProgressEnd(progress);
	return (Datum) 0;
}
