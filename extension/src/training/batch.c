/*
 * See batch.h.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "kernels/random.h"
#include "src/base/catalog.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/model/inputs.h"
#include "src/training/batch.h"

#define FETCH 10000 /* rows at a time */

static SpiQuery read_ids = {.text = "SELECT id FROM %s.llm_dataset WHERE dataset = $1 ORDER BY id",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "l"};
static SpiQuery read_row = {.text = "SELECT tokens, target FROM %s.llm_dataset WHERE id = $1",
	.nargs = 1,
	.types = {INT8OID},
	.columns = "I?I?"};

Dataset *
DatasetOpen(const char *name, uint64 seed)
{
	MemoryContext caller = CurrentMemoryContext;
	Datum value = CStringGetTextDatum(name);
	Dataset *d = palloc0(sizeof(Dataset));
	int64 room = 0;
	Portal rows;
	bool null;

	SPI_connect();
	rows = SpiOpen(&read_ids, &value);
	while (SpiFetch(&read_ids, rows, FETCH))
	{
		if (d->count + (int64) SPI_processed > room)
		{
			room = 2 * room + FETCH;
			ReserveMemory((sizeof(int64) + sizeof(int32)) * room);
			d->ids = d->ids ? repalloc_huge(d->ids, sizeof(int64) * room)
							: MemoryContextAllocHuge(caller, sizeof(int64) * room);
		}
		for (uint64 i = 0; i < SPI_processed; i++)
			d->ids[d->count++] =
				DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null));
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(rows);
	if (d->count == 0)
		ereport(ERROR,
			(errcode(ERRCODE_NO_DATA), errmsg("dataset \"%s\" has no rows", name),
				errhint("SELECT dataset, count(*) FROM llm_dataset GROUP BY dataset lists what there is; "
						"llm_dataset_load and pg-llm prepare-dataset %s fill it.",
					DatabaseOption())));
	if (d->count > INT_MAX)
		ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("dataset \"%s\" has too many rows", name)));
	d->name = MemoryContextStrdup(caller, name);
	d->seed = seed;
	d->epoch = -1;
	d->order = MemoryContextAllocHuge(caller, sizeof(int32) * d->count);
	SPI_finish();
	return d;
}

/* Fisher-Yates shuffle with the epoch's own random numbers. */
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

		LLM_POLL(i);
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
	ArrayType *a = null ? NULL : (ArrayType *) DetoastWhole(datum);

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
	{
		LLM_POLL(i);
		if (x[i] >= vocab || (x[i] < 0 && !negative))
			ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					errmsg("row %lld of llm_dataset: %s %d at place %d is outside the vocabulary of %d",
						(long long) id, what, x[i], i + 1, vocab),
					errhint("Was the dataset made with this model's tokenizer?")));
	}
}

static void
CheckLengths(const int *lengths, const int64 *ids, int n, const LoadedModel *m)
{
	LlmDim P = {1, "P"};
	int64 most = llm_dim_value(&P, &m->model.graph.sizes);

	if (most < 0 || llm_graph_find(&m->model.graph, "positions") < 0)
		return;
	for (int i = 0; i < n; i++)
		if (lengths[i] > most)
			ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					errmsg(
						"row %lld of llm_dataset has %d tokens, more than the %lld positions of model \"%s\"",
						(long long) ids[i], lengths[i], (long long) most, m->name),
					errhint("llm_dataset_load(…, block_size => %lld) cuts texts into rows that fit.",
						(long long) most)));
}

/* One row's arrays and their length, in SPI's memory context. */
static int
ReadRow(int64 id, int vocab, const int32 **tokens, const int32 **targets)
{
	Datum value = Int64GetDatum(id);
	int length, other;

	SpiRun(&read_row, &value, NULL, true, 1);
	if (SPI_processed == 0)
		ereport(ERROR,
			(errcode(ERRCODE_NO_DATA), errmsg("llm_dataset has no row %lld (any more)", (long long) id),
				errhint("Rows that a training reads must stay until it has ended. Nothing since the last "
						"commit is kept: the weights are as before.")));
	*tokens = RowArray(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, id, &length);
	*targets = RowArray(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, id, &other);
	if (other != length)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						   errmsg("row %lld of llm_dataset has %d tokens and %d targets", (long long) id,
							   length, other)));
	CheckTokens(*tokens, length, vocab, false, "token", id);
	CheckTokens(*targets, length, vocab, true, "target", id);
	return length;
}

/* Pads shorter rows with positions that do not count. */
static void
Fill(Batch *b, int row, const int32 *tokens, const int32 *targets, int length)
{
	Size at = (Size) row * b->T;

	for (int t = 0; t < b->T; t++)
	{
		LLM_POLL(t);
		b->tokens[at + t] = t < length ? tokens[t] : 0;
		b->targets[at + t] = t < length ? targets[t] : -1;
		b->scored += t < length && targets[t] >= 0;
	}
}

Batch *
BatchRead(const int64 *ids, int n, const LoadedModel *m, bool counted)
{
	MemoryContext caller = CurrentMemoryContext;
	Batch *b = palloc0(sizeof(Batch));
	const int32 **tokens, **targets;
	int vocab = VocabularySize(m), *lengths;
	Size size;

	SPI_connect();
	tokens = palloc(sizeof(int32 *) * n);
	targets = palloc(sizeof(int32 *) * n);
	lengths = palloc(sizeof(int) * n);
	b->B = n;
	for (int i = 0; i < n; i++)
	{
		lengths[i] = ReadRow(ids[i], vocab, &tokens[i], &targets[i]);
		b->T = Max(b->T, lengths[i]);
	}
	if (counted)
		CheckLengths(lengths, ids, n, m);
	size = sizeof(int32) * Max(1, (Size) n * b->T);
	ReserveMemory(2 * size);
	b->tokens = MemoryContextAllocHuge(caller, size);
	b->targets = MemoryContextAllocHuge(caller, size);
	for (int i = 0; i < n; i++)
		Fill(b, i, tokens[i], targets[i], lengths[i]);
	SPI_finish();
	return b;
}
