/*
 * See batch.h.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "kernels/random.h"
#include "src/batch.h"
#include "src/pg_llm.h"
#include "src/query.h"

static LlmQuery read_ids = {
	.text = "SELECT id FROM %s.llm_dataset WHERE dataset = $1 ORDER BY id", .nargs = 1, .types = {TEXTOID}};
static LlmQuery read_row = {
	.text = "SELECT tokens, target FROM %s.llm_dataset WHERE id = $1", .nargs = 1, .types = {INT8OID}};

Dataset *
DatasetOpen(const char *name, uint64 seed)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum value = CStringGetTextDatum(name);
	Dataset *d = palloc0(sizeof(Dataset));
	bool null;

	SPI_connect();
	LlmRun(&read_ids, &value, NULL, true, 0);
	if (SPI_processed == 0)
		ereport(ERROR,
			(errcode(ERRCODE_NO_DATA), errmsg("dataset \"%s\" has no rows", name),
				errhint("SELECT dataset, count(*) FROM llm_dataset GROUP BY dataset lists what there is; "
						"llm_dataset_load and pg-llm prepare-dataset fill it.")));
	if (SPI_processed > INT_MAX)
		ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("dataset \"%s\" has too many rows", name)));
	d->name = MemoryContextStrdup(caller, name);
	d->seed = seed;
	d->epoch = -1;
	d->count = (int64) SPI_processed;
	d->ids = MemoryContextAlloc(caller, sizeof(int64) * d->count);
	d->order = MemoryContextAlloc(caller, sizeof(int32) * d->count);
	for (int64 i = 0; i < d->count; i++)
		d->ids[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null));
	SPI_finish();
	return d;
}

/* Fisher and Yates, by the epoch's own random numbers. */
static void
Shuffle(Dataset *d, int64 epoch)
{
	LlmStream stream = llm_stream(d->seed, "shuffle", (uint32) epoch, (uint32) (epoch >> 32));

	for (int64 i = 0; i < d->count; i++)
		d->order[i] = (int32) i;
	for (int64 i = d->count - 1; i > 0; i--)
	{
		int64 j = (int64) (llm_uniform(&stream, i) * (double) (i + 1));
		int32 other = d->order[j];

		d->order[j] = d->order[i];
		d->order[i] = other;
	}
	d->epoch = epoch;
}

void
DatasetPick(Dataset *d, int64 place, int n, int64 *ids)
{
	for (int i = 0; i < n; i++, place++)
	{
		if (place / d->count != d->epoch)
			Shuffle(d, place / d->count);
		ids[i] = d->ids[d->order[place % d->count]];
	}
}

static const int32 *
RowArray(HeapTuple row, TupleDesc desc, int column, int64 id, int *length)
{
	bool null;
	Datum datum = SPI_getbinval(row, desc, column, &null);
	ArrayType *a = null ? NULL : DatumGetArrayTypeP(datum);

	if (a == NULL || ARR_NDIM(a) != 1 || array_contains_nulls(a))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						   errmsg("row %lld of llm_dataset has no one-dimensional arrays without NULL",
							   (long long) id)));
	*length = ARR_DIMS(a)[0];
	return (const int32 *) ARR_DATA_PTR(a);
}

static void
CheckTokens(const int32 *x, int n, int vocab, bool negative, const char *what, int64 id)
{
	for (int i = 0; i < n; i++)
		if (x[i] >= vocab || (x[i] < 0 && !negative))
			ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					errmsg("row %lld of llm_dataset: %s %d at place %d is outside the vocabulary of %d",
						(long long) id, what, x[i], i + 1, vocab),
					errhint("Was the dataset made with this model's tokenizer?")));
}

Batch *
BatchRead(const int64 *ids, int n, int vocab)
{
	MemoryContext caller = CurrentMemoryContext;
	Batch *b = palloc0(sizeof(Batch));
	const int32 **tokens, **targets;
	int *lengths;

	SPI_connect();
	tokens = palloc(sizeof(int32 *) * n);
	targets = palloc(sizeof(int32 *) * n);
	lengths = palloc(sizeof(int) * n);
	b->B = n;
	for (int i = 0; i < n; i++)
	{
		Datum value = Int64GetDatum(ids[i]);
		int other;

		LlmRun(&read_row, &value, NULL, true, 1);
		if (SPI_processed == 0)
			ereport(ERROR,
				(errcode(ERRCODE_NO_DATA), errmsg("row %lld of llm_dataset is gone", (long long) ids[i]),
					errhint("Somebody deleted it during training; the weights are as before.")));
		tokens[i] = RowArray(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, ids[i], &lengths[i]);
		targets[i] = RowArray(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, ids[i], &other);
		if (other != lengths[i])
			ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
							   errmsg("row %lld of llm_dataset has %d tokens and %d targets",
								   (long long) ids[i], lengths[i], other)));
		CheckTokens(tokens[i], lengths[i], vocab, false, "token", ids[i]);
		CheckTokens(targets[i], lengths[i], vocab, true, "target", ids[i]);
		b->T = Max(b->T, lengths[i]);
	}
	b->tokens = MemoryContextAllocZero(caller, sizeof(int32) * Max(1, (Size) n * b->T));
	b->targets = MemoryContextAlloc(caller, sizeof(int32) * Max(1, (Size) n * b->T));
	for (int i = 0; i < n; i++)
		for (int t = 0; t < b->T; t++)
		{
			bool inside = t < lengths[i];

			if (inside)
				b->tokens[(Size) i * b->T + t] = tokens[i][t];
			b->targets[(Size) i * b->T + t] = inside ? targets[i][t] : -1;
			b->scored += inside && targets[i][t] >= 0;
		}
	SPI_finish();
	return b;
}
