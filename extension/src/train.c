/*
 * Training calls: arguments checked, steps in memory, written back. The caller's transaction makes it
 * lasting.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "src/batch.h"
#include "src/training.h"

/* Steps in memory, one memory context each; a NOTICE about every tenth of the way. Returns the last loss. */
static float
RunSteps(Training *tr, const Recipe *r, Dataset *data, int64 *ids)
{
	MemoryContext step_context =
		AllocSetContextCreate(CurrentMemoryContext, "training step", ALLOCSET_DEFAULT_SIZES);
	int rows = r->batch_size * r->accumulation;
	int64 every = Max(1, r->n_steps / 10);
	Step step = {0};

	for (int64 n = 1; n <= r->n_steps; n++)
	{
		MemoryContext caller = MemoryContextSwitchTo(step_context);
		instr_time start, end;

		CHECK_FOR_INTERRUPTS();
		INSTR_TIME_SET_CURRENT(start);
		if (data)
			DatasetPick(data, tr->step * rows, rows, ids);
		step = TrainingStep(tr, r, n, ids);
		INSTR_TIME_SET_CURRENT(end);
		INSTR_TIME_SUBTRACT(end, start);
		step.seconds = INSTR_TIME_GET_DOUBLE(end);
		TrainingLog(tr, r, &step, ids, rows);
		if (data && (n % every == 0 || n == 1))
			ereport(NOTICE,
				(errmsg("step %lld of %lld: loss %.4f", (long long) n, (long long) r->n_steps, step.loss)));
		MemoryContextSwitchTo(caller);
		MemoryContextReset(step_context);
	}
	return step.loss;
}

static double
Number(FunctionCallInfo fcinfo, int n, const char *name, double least, double most)
{
	double x = PG_GETARG_FLOAT8(n);

	if (!(x >= least && x <= most))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("%s is %g; it must be from %g to %g", name, x, least, most)));
	return x;
}

/*
 * llm_train_run(model, dataset, batch_id, n_steps, lr_max, min_lr, warmup, beta1, beta2, eps, wd, grad_clip,
 * dropout_p, batch_size, accumulation, seed): what llm_train and llm_train_step call with every default
 * resolved.
 */
PG_FUNCTION_INFO_V1(llm_train_run);
Datum
llm_train_run(PG_FUNCTION_ARGS)
{
	Recipe r = {0};
	Dataset *data = NULL;
	Training *tr;
	int64 *ids;
	float loss;

	for (int i = 0; i < 16; i++)
		if (PG_ARGISNULL(i) && i != 1 && i != 2 && i != 11)
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							   errmsg("an argument of the training call is NULL")));
	if (PG_ARGISNULL(1) == PG_ARGISNULL(2))
		ereport(
			ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("name a dataset or one of its rows")));
	r.lr_max = Number(fcinfo, 4, "lr_max", 0, 1e6);
	r.min_lr = Number(fcinfo, 5, "min_lr", 0, 1e6);
	r.hyper.beta1 = Number(fcinfo, 7, "beta1", 0, 0.999999999);
	r.hyper.beta2 = Number(fcinfo, 8, "beta2", 0, 0.999999999);
	r.hyper.eps = Number(fcinfo, 9, "eps", 0, 1e6);
	r.hyper.weight_decay = Number(fcinfo, 10, "wd", 0, 1e6);
	r.hyper.clip = PG_ARGISNULL(11) ? 0 : Number(fcinfo, 11, "grad_clip", 1e-30, 1e30);
	r.dropout_p = Number(fcinfo, 12, "dropout_p", 0, 0.999999);
	r.n_steps = PG_GETARG_INT64(3);
	r.warmup = PG_GETARG_INT64(6);
	r.batch_size = PG_GETARG_INT32(13);
	r.accumulation = PG_GETARG_INT32(14);
	r.seed = (uint64) PG_GETARG_INT64(15);
	if (r.n_steps < 1 || r.batch_size < 1 || r.accumulation < 1 || r.warmup < 0 ||
		(int64) r.batch_size * r.accumulation > 1000000)
		ereport(
			ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					   errmsg("n_steps, batch_size and accumulation must be 1 or more, warmup 0 or more")));
	ids = palloc(sizeof(int64) * r.batch_size * r.accumulation);
	tr = TrainingOpen(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (PG_ARGISNULL(1))
		ids[0] = PG_GETARG_INT64(2);
	else
		data = DatasetOpen(text_to_cstring(PG_GETARG_TEXT_PP(1)), r.seed);
	loss = RunSteps(tr, &r, data, ids);
	TrainingWrite(tr);
	PG_RETURN_FLOAT4(loss);
}
