/*
 * A training call within the caller's transaction: optimizer steps in memory, then one write. The changes
 * become durable when that transaction commits.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "src/base/arguments.h"
#include "src/model/inputs.h"
#include "src/model/trace.h"
#include "src/training/train.h"
#include "src/training/training.h"

int
ThreadsArgument(FunctionCallInfo fcinfo, int n, const char *name)
{
	int threads = PG_ARGISNULL(n) ? 0 : PG_GETARG_INT32(n);

	if (!PG_ARGISNULL(n) && (threads < 1 || threads > 1024))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("%s is %d; it must be from 1 to 1024", name, threads),
						   errhint("Leave it out to use pg_llm.threads.")));
	return threads;
}

int64
NoticeArgument(FunctionCallInfo fcinfo, int n)
{
	int64 every = PG_ARGISNULL(n) ? -1 : PG_GETARG_INT64(n);

	if (!PG_ARGISNULL(n) && every < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("notice_every is %lld; it must be 0 (none) or more", (long long) every)));
	return every;
}

/*
 * llm_train_steps(plan llm_train_run, batch_id, grad_workers, notice_every, wait): what llm_train and
 * llm_train_step call with every default resolved.
 */
PG_FUNCTION_INFO_V1(llm_train_steps);
Datum
llm_train_steps(PG_FUNCTION_ARGS)
{
	Recipe *r;
	TrainingPlan plan = {0};
	Training *tr;
	Step step;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("plan must not be NULL")));
	r = RecipeOfRow(PG_GETARG_DATUM(0));
	if ((r->dataset == NULL) == PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("batch_id must not be NULL"),
						   errhint("It is the id of a row of llm_dataset.")));
	plan.recipe = r;
	plan.threads = ThreadsArgument(fcinfo, 2, "grad_workers");
	plan.notice_every = NoticeArgument(fcinfo, 3);
	plan.ids = palloc(sizeof(int64) * r->batch_size * r->accumulation);
	plan.progress = ProgressBegin(CurrentMemoryContext, "train", r->model, "step", r->n_steps);
	tr = TrainingOpen(r->model, !PG_ARGISNULL(4) && PG_GETARG_BOOL(4), plan.progress);
	if (r->dataset)
		plan.data = DatasetOpen(r->dataset, r->seed);
	else
		plan.ids[0] = PG_GETARG_INT64(1);
	RecipeBegin(r, PG_GETARG_DATUM(0), tr->step, false, plan.notice_every == 0);
	plan.last = tr->step + r->n_steps;
	ProgressRange(plan.progress, 0, r->n_steps);
	step = TrainingSteps(tr, &plan);
	ProgressPhaseIs(plan.progress, PROGRESS_WRITING);
	TrainingWrite(tr);
	TrainingClose(tr);
	ProgressEnd(plan.progress);
	PG_RETURN_FLOAT4(step.loss);
}

/*
 * llm_trace_rows(model, ids bigint[], positions, seed, step): the forward pass over rows of llm_dataset,
 * recorded, with the random numbers of the first micro-batch of that step.
 */
PG_FUNCTION_INFO_V1(llm_trace_rows);
Datum
llm_trace_rows(PG_FUNCTION_ARGS)
{
	LoadedModel *m = ModelOf(NameArgument(fcinfo, 0, "model"), CurrentMemoryContext);
	LlmInput positions = PG_ARGISNULL(2) ? (LlmInput){0} : ArrayArgument(fcinfo, 2, "positions");
	LlmDropout draw = {0};
	int loss = TrainingLossOf(m), n;
	ArrayType *ids;
	Batch *b;

	if (PG_ARGISNULL(1) || PG_ARGISNULL(3) || PG_ARGISNULL(4))
		ereport(
			ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("ids, seed and step must not be NULL")));
	ids = PG_GETARG_ARRAYTYPE_P(1);
	n = ArrayGetNItems(ARR_NDIM(ids), ARR_DIMS(ids));
	if (n == 0 || array_contains_nulls(ids))
		ereport(
			ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("ids must be one or more, not NULL")));
	draw.seed = (uint64) PG_GETARG_INT64(3);
	draw.step = (uint32) PG_GETARG_INT64(4);
	b = BatchRead((const int64 *) ARR_DATA_PTR(ids), n, m, loss, PG_ARGISNULL(2) ? NULL : &positions);
	PG_RETURN_INT64(TraceRun(m, loss, b->in, b->n, TokensArray(b->in, b->n), &draw));
}
