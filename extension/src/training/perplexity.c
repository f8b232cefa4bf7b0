/*
 * A model's loss on a dataset, over its rows in the order of their ids, and on a text, over windows of it; a
 * few rows or windows at a time.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "src/base/arguments.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/model/inputs.h"
#include "src/tokenizer/tokenizer.h"
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

/*
 * A batch's weight times its loss, the mean over its targets (or rows). Random nodes draw anew for each
 * batch.
 */
static double
LossOf(const LoadedModel *m, int node, const Batch *b, uint32 batch)
{
	LlmDropout draw = {.seed = (uint64) llm_random_seed, .micro_batch = batch};
	LlmExec *exec;
	LlmValue value;
	LlmError err;

	if (b->weight == 0)
		return 0;
	LLM_CHECK(llm_exec_open(&m->model, node, false, 0, ContextAllocator(), &exec, &err), &err);
	llm_exec_draw(exec, &draw);
	LLM_CHECK(llm_exec_run(exec, b->in, b->n, &value, &err), &err);
	if (value.numel != 1)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("the node \"loss\" of model \"%s\" is %s, not a scalar", m->name,
							   ShapeToString(value.ndim, value.dims))));
	return (double) value.floats[0] * (double) b->weight;
}

static int64
MaxRowsArgument(FunctionCallInfo fcinfo, int n, int64 count)
{
	int64 rows = PG_ARGISNULL(n) ? count : Min(count, PG_GETARG_INT64(n));

	if (rows < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("max_rows is %lld; it must be 1 or more", (long long) rows)));
	return rows;
}

/* llm_dataset_loss(model, dataset, max_rows) → (loss, tokens) */
PG_FUNCTION_INFO_V1(llm_dataset_loss);
Datum
llm_dataset_loss(PG_FUNCTION_ARGS)
{
	const char *name = NameArgument(fcinfo, 0, "model");
	Dataset *d =
		DatasetOpen(TextArgument(fcinfo, 1, "dataset"), 0); /* before the weights, which take longer */
	int64 rows = MaxRowsArgument(fcinfo, 2, d->count);
	LoadedModel *m = ModelOf(name, CurrentMemoryContext);
	int64 tokens = 0, weight = 0;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	int at_once = RowsAtOnce(m), loss = OutputOf(m, "loss");
	double total = 0;

	for (int64 i = 0; i < rows; i += at_once)
	{
		Batch *b;

		CHECK_FOR_INTERRUPTS();
		b = BatchRead(d->ids + i, (int) Min(at_once, rows - i), m, loss, NULL);
		total += LossOf(m, loss, b, (uint32) (i / at_once));
		weight += b->weight;
		tokens += b->tokens;
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	if (weight == 0)
		ereport(ERROR, (errcode(ERRCODE_NO_DATA), errmsg("dataset \"%s\" has no target that counts", d->name),
						   errhint("Negative targets are left out of the loss.")));
	return RowResult(fcinfo, (Datum[]){Float8GetDatum(total / (double) weight), Int64GetDatum(tokens)}, NULL);
}

/* ---- a text ---- */

/* The windows of a text: `size` tokens each, the next one `stride` tokens further. */
typedef struct Windows
{
	const int32 *ids;
	int64 count;
	int size, stride;
	int64 begin, scored; /* where the next window begins; up to where the windows before it have scored */
} Windows;

/*
 * The next n windows as a batch, or fewer at the end; NULL after the last. Each token is scored once, by the
 * first window that has a token before it.
 */
static Batch *
NextWindows(Windows *w, int n)
{
	Batch *b = palloc0(sizeof(Batch));
	Size room = sizeof(int32) * n * w->size;
	int T = (int) Min(w->size, w->count - w->begin) - 1, B = 0;
	int32 *tokens, *targets;

	ReserveMemory(2 * room);
	tokens = palloc0(room);
	targets = palloc(room);
	for (; B < n && T > 0 && w->scored < w->count; B++, w->begin += w->stride)
	{
		int64 end = Min(w->begin + w->size, w->count);

		for (int t = 0; t < T; t++)
		{
			int64 next = w->begin + t + 1;
			bool scores = next < end && next >= w->scored;

			tokens[B * T + t] = next < end ? w->ids[w->begin + t] : 0;
			targets[B * T + t] = scores ? w->ids[next] : -1;
			b->weight += scores;
		}
		w->scored = end;
	}
	b->n = 3;
	b->in = palloc(sizeof(LlmInput) * b->n);
	b->in[0] = (LlmInput){.name = "tokens", .ndim = 2, .dims = {B, T}, .integers = tokens};
	b->in[1] = (LlmInput){.name = "targets", .ndim = 2, .dims = {B, T}, .integers = targets};
	b->in[2] = PositionsInput(0, T);
	return B > 0 ? b : NULL;
}

typedef struct TextLoss
{
	FunctionCallInfo fcinfo;
	Windows windows;
} TextLoss;

/* Sets size and stride of the windows; by default they overlap by half. */
static void
WindowArguments(LoadedModel *m, void *argument)
{
	LlmDim P = {1, "P"};
	FunctionCallInfo fcinfo = ((TextLoss *) argument)->fcinfo;
	Windows *w = &((TextLoss *) argument)->windows;

	w->size = (int) llm_dim_value(&P, &m->model.graph.sizes);
	w->stride = PG_ARGISNULL(2) ? Max(1, w->size / 2) : PG_GETARG_INT32(2);
	if (w->stride < 1 || w->stride > w->size)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("stride is %d, expected 1 to %d, the positions of model \"%s\"", w->stride,
							   w->size, m->name),
						   errhint("It is how many tokens further the next window begins.")));
}

/* llm_text_loss(model, text, stride) → (loss, tokens) */
PG_FUNCTION_INFO_V1(llm_text_loss);
Datum
llm_text_loss(PG_FUNCTION_ARGS)
{
	const char *name = NameArgument(fcinfo, 0, "model");
	LoadedModel *m;
	MemoryContext context, caller = CurrentMemoryContext;
	TextLoss call = {.fcinfo = fcinfo};
	Windows *w = &call.windows;
	int64 tokens = 0;
	double total = 0;
	const char *string;
	uint32 batches = 0;
	Size count;
	int loss;
	Batch *b;

	if (PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("text must not be NULL")));
	string = text_to_cstring(PG_GETARG_TEXT_PP(1));
	w->ids = TokenizerEncode(TokenizerOf(name, caller), string, strlen(string), false, &count);
	w->count = (int64) count;
	if (w->count < 2)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("the text has %lld tokens; 2 or more were expected", (long long) w->count),
						   errhint("The first token is not predicted.")));
	m = ModelChecked(name, WindowArguments, &call, caller);
	context = AllocSetContextCreate(caller, "windows", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	loss = OutputOf(m, "loss");
	while ((b = NextWindows(w, RowsAtOnce(m))) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		total += LossOf(m, loss, b, batches++);
		tokens += b->weight;
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	return RowResult(fcinfo, (Datum[]){Float8GetDatum(total / (double) tokens), Int64GetDatum(tokens)}, NULL);
}
