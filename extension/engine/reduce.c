/*
 * See reduce.h. x (outer,n,inner) is split along n into the chunks of 4096 that the reduction rule adds in
 * float64: a chunk of a column is gathered together with its neighbours' into a small buffer, so that a
 * kernel always reads contiguous memory. Chunks may be computed in any order by any thread; their results
 * are combined in index order.
 */
#include "engine/reduce.h"

#include <math.h>
#include <string.h>

#include "engine/pool.h"
#include "kernels/kernels.h"

/* Columns gathered at once: one cache line. */
#define WIDTH 16
/* Indexes beyond are not exact in float32. */
#define EXACT (1 << 24)

typedef struct Partial
{
	double value;
	int64_t index;
} Partial;

typedef struct Reduce
{
	LlmReduction kind;
	int64_t outer, n, inner, chunks;
	int64_t tiles; /* groups of WIDTH columns */
	int64_t per_task;
	const float *x;
	float *out;        /* LLM_REDUCE_VAR: holds the means on entry */
	Partial *partials; /* (outer,chunks,inner) of columns so long that threads share them, else NULL */
} Reduce;

/* Reduces one chunk of a column, stored contiguously. */
static Partial
reduce_chunk(LlmReduction kind, size_t n, const float *x, float shift, float *scratch)
{
	Partial partial = {0, 0};
	size_t index = 0;

	switch (kind)
	{
		case LLM_REDUCE_SUM:
		case LLM_REDUCE_MEAN:
			partial.value = llm_kernels->sum(n, x);
			break;
		case LLM_REDUCE_VAR:
			partial.value = llm_kernels->sum_squares(n, x, shift);
			break;
		case LLM_REDUCE_NORM:
			partial.value = llm_kernels->sum_squares(n, x, 0);
			break;
		case LLM_REDUCE_MIN:
			llm_kernels->unary(LLM_NEG, n, x, scratch);
			partial.value = -llm_kernels->max(n, scratch, &index);
			break;
		case LLM_REDUCE_MAX:
		case LLM_REDUCE_ARGMAX:
			partial.value = llm_kernels->max(n, x, &index);
			break;
	}
	partial.index = (int64_t) index;
	return partial;
}

/* Combines the next chunk in index order with those before it. */
static void
join(LlmReduction kind, Partial *all, Partial next, int64_t first)
{
	if (kind < LLM_REDUCE_MAX)
		all->value += next.value;
	else if (first == 0 || (!isnan(all->value) &&
							   (isnan(next.value) || (kind == LLM_REDUCE_MIN ? next.value < all->value
																			 : next.value > all->value))))
		*all = (Partial){next.value, first + next.index};
}

static float
finish(const Reduce *r, Partial all)
{
	switch (r->kind)
	{
		case LLM_REDUCE_MEAN:
		case LLM_REDUCE_VAR:
			return (float) (all.value / (double) r->n);
		case LLM_REDUCE_NORM:
			return (float) sqrt(all.value);
		case LLM_REDUCE_ARGMAX:
			return all.index > EXACT ? INFINITY : (float) all.index;
		default:
			return (float) all.value;
	}
}

/* Reduces chunk number `chunk` of up to WIDTH neighbouring columns. */
static void
reduce_columns(const Reduce *r, int64_t o, int64_t column, int width, int64_t chunk, Partial *partials)
{
	int64_t from = chunk * LLM_CHUNK, n = r->n - from < LLM_CHUNK ? r->n - from : LLM_CHUNK;
	const float *x = r->x + (o * r->n + from) * r->inner + column;
	float columns[WIDTH * LLM_CHUNK], scratch[LLM_CHUNK];

	if (r->inner > 1)
	{
		for (int64_t i = 0; i < n; i++)
			for (int j = 0; j < width; j++)
				columns[j * n + i] = x[i * r->inner + j];
		x = columns;
	}
	for (int j = 0; j < width; j++)
	{
		float shift = r->kind == LLM_REDUCE_VAR ? r->out[o * r->inner + column + j] : 0;

		partials[j] = reduce_chunk(r->kind, n, x + j * n, shift, scratch);
	}
}

static int
tile_width(const Reduce *r, int64_t column)
{
	return (int) (r->inner - column < WIDTH ? r->inner - column : WIDTH);
}

/* Short columns: a task reduces some groups of WIDTH columns completely. */
static void
columns_task(void *context, int task, int worker)
{
	const Reduce *r = context;
	int64_t from = task * r->per_task, to = from + r->per_task, all = r->outer * r->tiles;

	(void) worker;
	for (int64_t i = from; i < to && i < all; i++)
	{
		int64_t o = i / r->tiles, column = i % r->tiles * WIDTH;
		int width = tile_width(r, column);
		Partial total[WIDTH] = {{0}}, partial[WIDTH];

		for (int64_t chunk = 0; chunk < r->chunks; chunk++)
		{
			reduce_columns(r, o, column, width, chunk, partial);
			for (int j = 0; j < width; j++)
				join(r->kind, &total[j], partial[j], chunk * LLM_CHUNK);
		}
		for (int j = 0; j < width; j++)
			r->out[o * r->inner + column + j] = finish(r, total[j]);
	}
}

/* Long columns: a task reduces some chunks, which are combined afterwards. */
static void
chunks_task(void *context, int task, int worker)
{
	const Reduce *r = context;
	int64_t from = task * r->per_task, to = from + r->per_task, all = r->outer * r->chunks * r->tiles;

	(void) worker;
	for (int64_t i = from; i < to && i < all; i++)
	{
		int64_t row = i / r->tiles, column = i % r->tiles * WIDTH;

		reduce_columns(r, row / r->chunks, column, tile_width(r, column), row % r->chunks,
			r->partials + row * r->inner + column);
	}
}

static void
join_chunks(const Reduce *r)
{
	for (int64_t i = 0; i < r->outer * r->inner; i++)
	{
		const Partial *partial = r->partials + i / r->inner * r->chunks * r->inner + i % r->inner;
		Partial total = {0};

		for (int64_t chunk = 0; chunk < r->chunks; chunk++)
			join(r->kind, &total, partial[chunk * r->inner], chunk * LLM_CHUNK);
		r->out[i] = finish(r, total);
	}
}

static LlmCode
reduce_long(Reduce *r, const LlmAllocator *memory, LlmError *err)
{
	size_t size = (size_t) r->outer * r->chunks * r->inner * sizeof(Partial);
	int64_t tile = LLM_CHUNK * (r->inner < WIDTH ? r->inner : WIDTH);
	LlmCode code;

	r->partials = memory->alloc(memory->context, size);
	if (r->partials == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory for %zu bytes of partial sums", size);
	r->per_task = tile < LLM_TASK_MOVED ? LLM_TASK_MOVED / tile : 1;
	code = llm_parallel(
		(int) ((r->outer * r->chunks * r->tiles + r->per_task - 1) / r->per_task), chunks_task, r, err);
	if (code == LLM_OK)
		join_chunks(r);
	memory->release(memory->context, r->partials, size);
	return code;
}

static LlmCode
reduce_short(Reduce *r, LlmError *err)
{
	int64_t tile = r->n * (r->inner < WIDTH ? r->inner : WIDTH);

	r->per_task = tile < LLM_TASK_MOVED ? LLM_TASK_MOVED / (tile + 1) + 1 : 1;
	return llm_parallel((int) ((r->outer * r->tiles + r->per_task - 1) / r->per_task), columns_task, r, err);
}

static LlmCode
check_indexes(int64_t n, const float *indexes, LlmError *err)
{
	for (int64_t i = 0; i < n; i++)
	{
		if (i % LLM_POLL_ELEMENTS == 0 && llm_poll(err) != LLM_OK)
			return err->code;
		if (isinf(indexes[i]))
		{
			llm_fail(err, LLM_LIMIT, "argmax: an index beyond %d is not exact in float32", EXACT);
			return llm_hint(err, "Take argmax along one axis, or of slices.");
		}
	}
	return LLM_OK;
}

LlmCode
llm_reduce(LlmReduction kind, int64_t outer, int64_t n, int64_t inner, const float *x, float *out,
	const LlmAllocator *memory, LlmError *err)
{
	Reduce r = {.kind = kind, .outer = outer, .n = n, .inner = inner, .x = x, .out = out};
	LlmCode code;

	r.chunks = (n + LLM_CHUNK - 1) / LLM_CHUNK;
	r.tiles = (inner + WIDTH - 1) / WIDTH;
	if (outer == 0 || inner == 0)
		return LLM_OK;
	if (n == 0 && kind >= LLM_REDUCE_MAX)
	{
		llm_fail(err, LLM_SHAPE, "a maximum or minimum of no elements does not exist");
		return llm_hint(err, "The axis has length 0.");
	}
	if (kind == LLM_REDUCE_VAR &&
		(code = llm_reduce(LLM_REDUCE_MEAN, outer, n, inner, x, out, memory, err)) != LLM_OK)
		return code;
	/* 16 chunks: long enough that one partial result per chunk is small compared with the data */
	code = r.chunks > 16 ? reduce_long(&r, memory, err) : reduce_short(&r, err);
	return code == LLM_OK && kind == LLM_REDUCE_ARGMAX ? check_indexes(outer * inner, out, err) : code;
}
