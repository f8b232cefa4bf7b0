/*
 * See batch.h.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "kernels/random.h"
#include "src/base/catalog.h"
#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/base/spi.h"
#include "src/model/inputs.h"
#include "src/training/batch.h"
#include "src/training/dataset_row.h"

#define FETCH 10000 /* rows at a time */

static SpiQuery read_ids = {.text = "SELECT id FROM %s.llm_dataset WHERE dataset = $1 ORDER BY id",
	.nargs = 1,
	.types = {TEXTOID},
	.columns = "l"};

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

/* ---- rows stacked ---- */

static void
CheckRowLength(const DatasetRow *row, const LoadedModel *m)
{
	LlmDim P = {1, "P"};
	int64 most = llm_dim_value(&P, &m->model.graph.sizes);

	if (most >= 0 && llm_graph_find(&m->model.graph, "positions") >= 0 && row->length > most)
		ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				errmsg("row %lld of llm_dataset has %d tokens, more than the %lld positions of model \"%s\"",
					(long long) row->id, row->length, (long long) most, m->name),
				errhint("llm_dataset_load(…, block_size => %lld) cuts texts into rows that fit.",
					(long long) most)));
}

/* The part of one row: its elements, then `fill` where it is shorter than others. */
static void
Place(const LlmInput *row, int32 fill, Size numel, void *to)
{
	Size given = InputNumel(row);

	CopyMemory(to, row->integers ? (const void *) row->integers : row->floats, sizeof(int32) * given);
	for (Size i = given; i < numel; i++)
	{
		LLM_POLL(i);
		((int32 *) to)[i] = fill;
	}
}

/* One input of all rows, in the memory context `to`; T: length of the longest tokens. */
static LlmInput
Stack(DatasetRow *const *rows, int n, int which, const LlmNode *node, int T, MemoryContext to)
{
	LlmInput in = rows[0]->in[which];
	bool stacked = IsStacked(node), column = which < rows[0]->n_columns;
	Size numel;
	int32 *data;

	if (column)
		in.dims[0] = T;
	numel = InputNumel(&in);
	ReserveMemory(sizeof(int32) * n * numel);
	data = MemoryContextAllocHuge(to, sizeof(int32) * Max(1, n * numel));
	for (int i = 0; i < n; i++)
	{
		const LlmInput *row = DatasetRowInput(rows[i], in.name);

		if (row == NULL)
			ereport(
				ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						   errmsg("row %lld of dataset \"%s\" has no \"%s\", which row %lld of the same "
								  "batch has",
							   (long long) rows[i]->id, rows[i]->dataset, in.name, (long long) rows[0]->id)));
		Place(row, strcmp(in.name, "tokens") == 0 ? 0 : -1, numel, data + i * numel);
	}
	if (stacked || column)
	{
		memmove(in.dims + 1, in.dims, sizeof(int) * in.ndim);
		in.dims[0] = n;
		in.ndim++;
	}
	if (in.integers)
		in.integers = data;
	else
		in.floats = (const float *) data;
	return in;
}

/* Positions for the tokens of the batch, if it has any. */
static void
AddPositions(Batch *b, const LlmInput *positions)
{
	int T = -1;

	for (int i = 0; i < b->n; i++)
		if (strcmp(b->in[i].name, "positions") == 0)
			return;
		else if (strcmp(b->in[i].name, "tokens") == 0 && b->in[i].ndim > 0)
			T = b->in[i].dims[b->in[i].ndim - 1];
	if (positions && positions->dims[0] != T)
		ereport(
			ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					   errmsg("there are %d positions and %d tokens", positions->dims[0], Max(T, 0)),
					   errhint("positions has one integer for each token of the row; NULL counts from 0.")));
	if (T >= 0)
		b->in[b->n++] = positions ? *positions : PositionsInput(0, T);
	b->n_positions = T >= 0;
}

static void
Weigh(Batch *b, int rows)
{
	const LlmInput *targets = NULL, *tokens = NULL;

	for (int i = 0; i < b->n; i++)
		if (b->in[i].integers && strcmp(b->in[i].name, "targets") == 0)
			targets = &b->in[i];
		else if (b->in[i].integers && strcmp(b->in[i].name, "tokens") == 0)
			tokens = &b->in[i];
	if (targets)
		for (Size i = 0, numel = InputNumel(targets); i < numel; i++)
		{
			LLM_POLL(i);
			b->tokens += targets->integers[i] >= 0;
		}
	else if (tokens)
		b->tokens = (int64) InputNumel(tokens);
	b->weight = targets ? b->tokens : rows;
}

Batch *
BatchRead(const int64 *ids, int n, const LoadedModel *m, int loss, const LlmInput *positions)
{
	MemoryContext caller = CurrentMemoryContext;
	const LlmGraph *graph = &m->model.graph;
	Batch *b = palloc0(sizeof(Batch));
	BatchSizes batch = {.m = m, .rows = n, .sizes = graph->sizes};
	DatasetRow **rows;
	int T = -1;

	SPI_connect();
	rows = palloc(sizeof(DatasetRow *) * n);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		rows[i] = DatasetRowRead(ids[i], m);
		if (positions == NULL)
			CheckRowLength(rows[i], m);
		T = Max(T, rows[i]->length);
	}
	llm_sizes_set(&batch.sizes, "B", n);
	if (T >= 0)
		llm_sizes_set(&batch.sizes, "T", T);
	for (int i = 0; i < n; i++)
	{
		DatasetRowFits(rows[i], &batch);
		DatasetRowComplete(rows[i], &batch, loss);
	}
	b->in = MemoryContextAlloc(caller, sizeof(LlmInput) * (rows[0]->n + 1));
	b->n_columns = rows[0]->n_columns;
	for (; b->n < rows[0]->n; b->n++)
		b->in[b->n] =
			Stack(rows, n, b->n, &graph->nodes[llm_graph_find(graph, rows[0]->in[b->n].name)], T, caller);
	SPI_finish();
	AddPositions(b, positions);
	Weigh(b, n);
	return b;
}

void
BatchChecksum(const Batch *b, LlmCrc32 *crc)
{
	for (int i = 0; i < b->n - b->n_positions; i++)
	{
		const LlmInput *in = &b->in[i];

		if (i >= b->n_columns)
		{
			llm_crc32_add(crc, in->name, strlen(in->name) + 1);
			llm_crc32_add(crc, in->dims, sizeof(int) * in->ndim);
		}
		llm_crc32_add(
			crc, in->integers ? (const void *) in->integers : in->floats, sizeof(int32) * InputNumel(in));
	}
}
