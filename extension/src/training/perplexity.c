/*
 * A model's loss on a dataset: over its rows in the order of their ids, a few at a time.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "src/base/arguments.h"
#include "src/base/spi.h"
#include "src/model/forward.h"
#include "src/training/batch.h"

/* Tokens per forward pass: more are not faster and take more memory. */
#define TOKENS_AT_ONCE 1024
#define ROWS_AT_ONCE 8

static int
RowsAtOnce(const LoadedModel *m)
{
	LlmDim P = {1, "P"};
	int64 positions = llm_dim_value(&P, &m->model.graph.sizes);

	return (int) Min(ROWS_AT_ONCE, Max(1, TOKENS_AT_ONCE / Max(1, positions)));
}

/* The sum of the losses over the rows' targets. */
static double
LossOf(const LoadedModel *m, const int64 *ids, int n, int64 *tokens)
{
	Batch *b = BatchRead(ids, n, m, true);
	LlmInput in[3] = {{.name = "tokens", .ndim = 2, .dims = {b->B, b->T}, .integers = b->tokens},
		{.name = "targets", .ndim = 2, .dims = {b->B, b->T}, .integers = b->targets},
		PositionsInput(0, b->T)};
	LlmValue value;

	if (b->scored == 0)
		return 0;
	value = RunNode(m, OutputOf(m, "loss"), in, 3);
	*tokens += b->scored;
	return (double) value.floats[0] * (double) b->scored;
}

/* llm_dataset_loss(model, dataset, max_rows) → (loss, tokens) */
PG_FUNCTION_INFO_V1(llm_dataset_loss);
Datum
llm_dataset_loss(PG_FUNCTION_ARGS)
{
	LoadedModel *m = ModelOf(NameArgument(fcinfo, 0, "model"), CurrentMemoryContext);
	Dataset *d = DatasetOpen(TextArgument(fcinfo, 1, "dataset"), 0);
	int64 rows = PG_ARGISNULL(2) ? d->count : Min(d->count, PG_GETARG_INT64(2)), tokens = 0;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	int at_once = RowsAtOnce(m);
	double total = 0;

	if (rows < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("max_rows is %lld; it must be 1 or more", (long long) PG_GETARG_INT64(2))));
	for (int64 i = 0; i < rows; i += at_once)
	{
		CHECK_FOR_INTERRUPTS();
		total += LossOf(m, d->ids + i, (int) Min(at_once, rows - i), &tokens);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	if (tokens == 0)
		ereport(ERROR, (errcode(ERRCODE_NO_DATA), errmsg("dataset \"%s\" has no target that counts", d->name),
						   errhint("Negative targets are left out of the loss.")));
	return RowResult(fcinfo, (Datum[]){Float8GetDatum(total / (double) tokens), Int64GetDatum(tokens)}, NULL);
}
