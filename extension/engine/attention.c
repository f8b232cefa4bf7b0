/*
 * Attention over a key/value cache. A full forward pass and a decode step are the same code with more or
 * fewer new positions: a query's scores, softmax and weighted sum run over absolute key positions, so both
 * give the same bits. Keys that a query does not attend to enter no sum.
 */
#include <string.h>

#include "engine/parallel.h"
#include "engine/pool.h"
#include "engine/rows.h"

/* Positions appended between two polls of the stop function: whole panels. */
#define FEW (16 * LLM_PANEL)
/*
 * Queries of a block whose scores are computed together: a multiple of the register tiles' heights (14, 6);
 * the scores stay in the second-level cache.
 */
#define BLOCK_QUERIES 42

int llm_attention_chunk = LLM_BLOCK;

typedef struct Forward
{
	const LlmAttention *a;
	const LlmKvCache *cache;
	const float *qkv;
	int past, keys, width; /* width: floats of one row of scores, whole panels */
	int queries, chunks;   /* queries of a task, whole blocks of BLOCK_QUERIES; tasks of a head */
	float *scratch;        /* queries * width per worker */
	float *out, *scores, *probs;
} Forward;

static int
panels(int n)
{
	return n / LLM_PANEL + (n % LLM_PANEL != 0);
}

static float *
keys_of(const LlmKvCache *c, int head)
{
	return c->k + (size_t) head * panels(c->capacity) * c->HS * LLM_PANEL;
}

static float *
values_of(const LlmKvCache *c, int head)
{
	return c->v + (size_t) head * panels(c->HS) * c->capacity * LLM_PANEL;
}

LlmCode
llm_kv_shape(LlmKvCache *cache, int B, int NH, int HS, int capacity, LlmError *err)
{
	size_t head = (size_t) LLM_PANEL * sizeof(float), k, v;

	*cache = (LlmKvCache){.B = B, .NH = NH, .HS = HS, .capacity = capacity};
	if (__builtin_mul_overflow(head * panels(capacity), (size_t) HS, &k) ||
		__builtin_mul_overflow(head * panels(HS), (size_t) capacity, &v) ||
		__builtin_mul_overflow((size_t) B * NH, k, &cache->k_bytes) ||
		__builtin_mul_overflow((size_t) B * NH, v, &cache->v_bytes) ||
		cache->k_bytes > SIZE_MAX - cache->v_bytes)
		return llm_fail(err, LLM_LIMIT,
			"attention: keys and values of %d sequences, %d heads and %d positions are too large", B, NH,
			capacity);
	return LLM_OK;
}

LlmCode
llm_kv_create(
	LlmKvCache *cache, int B, int NH, int HS, int capacity, const LlmAllocator *memory, LlmError *err)
{
	LlmCode code = llm_kv_shape(cache, B, NH, HS, capacity, err);

	if (code != LLM_OK)
		return code;
	cache->k = memory->alloc(memory->context, cache->k_bytes);
	cache->v = cache->k ? memory->alloc(memory->context, cache->v_bytes) : NULL;
	if (cache->v == NULL)
	{
		llm_kv_free(cache, memory);
		return llm_fail(
			err, LLM_NO_MEMORY, "attention: no memory for keys and values of %d positions", capacity);
	}
	return LLM_OK;
}

void
llm_kv_free(LlmKvCache *cache, const LlmAllocator *memory)
{
	if (cache->k)
		memory->release(memory->context, cache->k, cache->k_bytes);
	if (cache->v)
		memory->release(memory->context, cache->v, cache->v_bytes);
	cache->k = cache->v = NULL;
}

LlmCode
llm_kv_copy_row(LlmKvCache *to, int to_row, const LlmKvCache *from, int from_row, LlmError *err)
{
	size_t k = (size_t) panels(from->length) * from->HS * LLM_PANEL;
	size_t v = (size_t) from->length * LLM_PANEL, row = (size_t) from->capacity * LLM_PANEL;
	LlmCode code = LLM_OK;

	for (int h = 0; h < from->NH && code == LLM_OK; h++)
	{
		int at = from_row * from->NH + h, to_at = to_row * to->NH + h;

		code = llm_copy(k, keys_of(from, at), keys_of(to, to_at), err);
		if (code == LLM_OK)
			code =
				llm_copy_rows(panels(from->HS), v, values_of(from, at), row, values_of(to, to_at), row, err);
	}
	return code;
}

/* Appends the keys from position `at` on to a panel, in the columns after those already filled. */
static void
append_keys(int n, int HS, const float *keys, size_t ldk, int at, float *panel)
{
	int column = at % LLM_PANEL;

	/* the remaining columns are multiplied too, and the products discarded: they must be initialised */
	if (column == 0)
		llm_kernels->pack_panel_transposed(HS, n, keys, ldk, panel);
	else
		for (int t = 0; t < n; t++, keys += ldk)
			for (int i = 0; i < HS; i++)
				panel[(size_t) i * LLM_PANEL + column + t] = keys[i];
}

/* Appends the new keys and values of one head of one sequence to the cache. */
static void
append_task(void *context, int head, int worker)
{
	const Forward *f = context;
	int HS = f->a->HS, C = f->a->NH * HS, T = f->a->T;
	const float *q = f->qkv + (size_t) (head / f->a->NH) * T * 3 * C + (size_t) (head % f->a->NH) * HS;
	float *k = keys_of(f->cache, head), *v = values_of(f->cache, head) + (size_t) f->past * LLM_PANEL;

	for (int t = 0, n; t < T && !llm_pool_stopping(worker); t += n)
	{
		int at = f->past + t, room = LLM_PANEL - at % LLM_PANEL;

		n = T - t < room ? T - t : room;
		append_keys(
			n, HS, q + (size_t) t * 3 * C + C, 3 * C, at, k + (size_t) (at / LLM_PANEL) * HS * LLM_PANEL);
	}
	for (int i = 0; i < HS; i += LLM_PANEL, v += (size_t) f->cache->capacity * LLM_PANEL)
		for (int t = 0; t < T && !llm_pool_stopping(worker); t += FEW)
			llm_kernels->pack_panel(T - t < FEW ? T - t : FEW, HS - i < LLM_PANEL ? HS - i : LLM_PANEL,
				q + (size_t) t * 3 * C + 2 * C + i, 3 * C, v + (size_t) t * LLM_PANEL);
}

/* Keys that the query at an absolute position attends to: [first, last). */
static int
first_key(const LlmAttention *a, int position)
{
	return a->window && position + 1 > a->window ? position + 1 - a->window : 0;
}

static int
last_key(const Forward *f, int position)
{
	return f->a->causal ? position + 1 : f->keys;
}

/* s (m,width) = q (m,HS) @ k^T for all panels up to `keys` */
static void
score_rows(const Forward *f, int head, int m, const float *q, int keys, float *s, int worker)
{
	int HS = f->a->HS, ldq = 3 * f->a->NH * HS;
	float rows[BLOCK_QUERIES * LLM_BLOCK];

	for (int k = 0; k < HS; k += LLM_BLOCK)
	{
		int kc = HS - k < LLM_BLOCK ? HS - k : LLM_BLOCK;

		llm_kernels->pack_rows(m, kc, q + k, ldq, rows);
		for (int p = 0; p < panels(keys) && !llm_pool_stopping(worker); p++)
			llm_kernels->matmul_block(m, kc, rows,
				keys_of(f->cache, head) + ((size_t) p * HS + k) * LLM_PANEL, s + (size_t) p * LLM_PANEL,
				f->width, LLM_PANEL, k == 0);
	}
}

/* A block of m queries of a head, and their weighted sums. */
typedef struct QueryBlock
{
	int m, position; /* of the first query */
	const float *p;  /* (m,width): probabilities */
	const float *v;  /* panels of values */
	float *out;      /* (m,HS), rows ldo apart */
	size_t ldo;
} QueryBlock;

/* Which keys of a block the rows from `row` on attend to. */
typedef enum Mask
{
	MASK_NONE,    /* each row: all kc */
	MASK_TRIANGLE /* a tile's last row: all kc; each row above: one less */
} Mask;

/* out (+)= p @ v over the keys k … k + kc - 1 */
static void
weigh_block(const Forward *f, const QueryBlock *s, int row, int m, int k, int kc, Mask mask, bool first)
{
	int HS = f->a->HS;
	float rows[BLOCK_QUERIES * LLM_BLOCK];

	llm_kernels->pack_rows(m, kc, s->p + (size_t) row * f->width + k, f->width, rows);
	for (int i = 0; i < HS; i += LLM_PANEL)
	{
		const float *panel = s->v + ((size_t) (i / LLM_PANEL) * f->cache->capacity + k) * LLM_PANEL;
		float *out = s->out + row * s->ldo + i;
		int n = HS - i < LLM_PANEL ? HS - i : LLM_PANEL;

		if (mask == MASK_TRIANGLE)
			llm_kernels->matmul_triangle(kc, rows, panel, out, s->ldo, n, first);
		else
			llm_kernels->matmul_block(m, kc, rows, panel, out, s->ldo, n, first);
	}
}

/*
 * Handles the rows that attend to some but not all keys of block k. Returns the first row that attends to
 * all of them.
 */
static int
weigh_masked(const Forward *f, const QueryBlock *s, int k)
{
	int seen = s->position + 1 - k; /* keys that the first row attends to; one more for each following row */
	int row = seen < 1 ? 1 - seen : 0, end = LLM_BLOCK - seen < s->m ? LLM_BLOCK - seen : s->m;
	int tile = llm_kernels->tile_rows;

	for (; row + tile <= end; row += tile)
		weigh_block(f, s, row, tile, k, seen + row + tile - 1, MASK_TRIANGLE, k == 0);
	for (; row < end; row++)
		weigh_block(f, s, row, 1, k, seen + row, MASK_NONE, k == 0);
	return row;
}

/* Each row over the keys of its own window. */
static void
weigh_windows(const Forward *f, const QueryBlock *s, int worker)
{
	for (int row = 0; row < s->m; row++)
	{
		int first = first_key(f->a, s->position + row), last = last_key(f, s->position + row);

		for (int k = first, end; k < last && !llm_pool_stopping(worker); k = end)
		{
			end = (k / LLM_BLOCK + 1) * LLM_BLOCK;
			end = end < last ? end : last;
			weigh_block(f, s, row, 1, k, end - k, MASK_NONE, k == first);
		}
	}
}

/* Each row over its own keys, in blocks of keys for all rows together. */
static void
weigh_rows(const Forward *f, const QueryBlock *s, int worker)
{
	int keys = last_key(f, s->position + s->m - 1);

	if (f->a->window)
	{
		weigh_windows(f, s, worker);
		return;
	}
	for (int k = 0; k < keys && !llm_pool_stopping(worker); k += LLM_BLOCK)
	{
		int row = f->a->causal ? weigh_masked(f, s, k) : 0;

		if (row < s->m)
			weigh_block(
				f, s, row, s->m - row, k, keys - k < LLM_BLOCK ? keys - k : LLM_BLOCK, MASK_NONE, k == 0);
	}
}

/*
 * Copies a row of scores or probabilities to the traced output, over all keys: where the query does not
 * attend, probabilities are 0 and scores -inf.
 */
static void
show_row(float *to, const float *from, int first, int last, int keys, float unseen, float scale)
{
	for (int k = 0; k < keys; k++)
		to[k] = k < first || k >= last ? unseen : from[k] * scale;
}

/* m queries of a head from `query` on; s: scratch for their scores */
static void
attend_block(const Forward *f, int head, int query, int m, float *s, int worker)
{
	const LlmAttention *a = f->a;
	int skipped = a->T - a->queries, position = f->past + skipped + query, C = a->NH * a->HS;
	int b = head / a->NH, h = head % a->NH, keys = last_key(f, position + m - 1);
	const float *q = f->qkv + ((size_t) b * a->T + skipped + query) * 3 * C + (size_t) h * a->HS;
	float *out = f->out + ((size_t) b * a->queries + query) * C + (size_t) h * a->HS;

	score_rows(f, head, m, q, keys, s, worker);
	for (int row = 0; row < m && !llm_pool_stopping(worker); row++)
	{
		int first = first_key(a, position + row), last = last_key(f, position + row);
		float *x = s + (size_t) row * f->width;
		size_t shown = (((size_t) head * a->queries) + query + row) * f->keys;

		if (f->scores)
			show_row(f->scores + shown, x, first, last, f->keys, -__builtin_inff(), a->scale);
		llm_row_softmax(worker, last - first, first, a->scale, x + first, x + first);
		if (f->probs)
			show_row(f->probs + shown, x, first, last, f->keys, 0, 1);
		if (a->dropout > 0)
			llm_drop(&a->stream, a->dropout, ((uint64_t) head * f->keys + position + row) * f->keys + first,
				last - first, x + first, x + first);
	}
	weigh_rows(f, &(QueryBlock){m, position, s, values_of(f->cache, head), out, C}, worker);
	if (a->head_mask)
		for (int row = 0; row < m; row++)
			llm_kernels->binary(
				LLM_MUL, a->HS, out + (size_t) row * C, 1, a->head_mask + h, 0, out + (size_t) row * C);
}

static void
attend_task(void *context, int task, int worker)
{
	const Forward *f = context;
	int head = task / f->chunks, first = task % f->chunks * f->queries;
	int end = first + f->queries < f->a->queries ? first + f->queries : f->a->queries;
	float *s = f->scratch + (size_t) worker * f->queries * f->width;

	for (int query = first; query < end && !llm_pool_stopping(worker); query += BLOCK_QUERIES)
		attend_block(f, head, query, end - query < BLOCK_QUERIES ? end - query : BLOCK_QUERIES,
			s + (size_t) (query - first) * f->width, worker);
}

/* Queries per task: whole blocks of BLOCK_QUERIES, limited by the chunk and by the number of queries. */
static int
queries_of_task(const LlmAttention *a)
{
	int blocks = llm_attention_chunk / BLOCK_QUERIES,
		needed = (a->queries + BLOCK_QUERIES - 1) / BLOCK_QUERIES;

	return (blocks < needed ? blocks : needed) * BLOCK_QUERIES;
}

LlmCode
llm_attention(const LlmAttention *a, const float *qkv, LlmKvCache *cache, float *out, float *scores,
	float *probs, const LlmAllocator *memory, LlmError *err)
{
	Forward f = {.a = a,
		.cache = cache,
		.qkv = qkv,
		.past = cache->length,
		.out = out,
		.scores = scores,
		.probs = probs};
	int64_t tasks;
	size_t bytes;
	LlmCode code;

	if (a->B == 0 || a->NH == 0 || a->T == 0 || a->HS == 0)
		return LLM_OK;
	f.keys = f.past + a->T;
	f.width = panels(f.keys) * LLM_PANEL;
	f.queries = queries_of_task(a);
	f.chunks = (a->queries + f.queries - 1) / f.queries;
	tasks = (int64_t) a->B * a->NH * f.chunks;
	if (tasks > INT32_MAX)
		return llm_fail(
			err, LLM_LIMIT, "attention: %d sequences of %d heads are too many at once", a->B, a->NH);
	bytes = (size_t) llm_pool_threads() * f.queries * f.width * sizeof(float);
	f.scratch = memory->alloc(memory->context, bytes);
	if (f.scratch == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "attention: no memory for the scores of %d positions", f.keys);
	code = llm_parallel(a->B * a->NH, append_task, &f, err);
	if (code == LLM_OK)
		code = llm_parallel((int) tasks, attend_task, &f, err);
	if (code == LLM_OK)
		cache->length = f.keys;
	memory->release(memory->context, f.scratch, bytes);
	return code;
}
