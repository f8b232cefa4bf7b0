/*
 * Attention over a key/value cache. A full forward pass and a decode step are the same code with more or
 * fewer new positions: a query's scores, softmax and weighted sum run over absolute key positions, so both
 * give the same bits. Keys that a query does not attend to enter no sum.
 */
#include <math.h>

#include "engine/pool.h"
#include "engine/rows.h"
#include "engine/scores.h"

/* Positions appended between two polls of the stop function: whole panels. */
#define FEW (16 * LLM_PANEL)
/*
 * Rows of a block whose scores are computed together: a multiple of the register tiles' heights (14, 6);
 * the scores stay in the second-level cache.
 */
#define BLOCK_QUERIES 42

int llm_attention_chunk = LLM_BLOCK;

typedef struct Forward
{
	const LlmAttention *a;
	const LlmKvCache *cache;
	const LlmQkv *in;
	int past, keys, width; /* width: floats of one row of scores, whole panels */
	/*
	 * With one query a task handles the heads that share keys, so that those are read once; otherwise it
	 * handles queries of one head. rows: of a task, whole blocks of BLOCK_QUERIES.
	 */
	bool grouped;
	int rows, chunks; /* chunks: tasks of a group, or of a head */
	float *scratch;   /* rows * width per worker */
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
	const LlmQkv *in = f->in;
	int HS = f->a->HS, S = f->a->S;
	size_t row = (size_t) (head / f->a->KV) * S, column = (size_t) (head % f->a->KV) * HS;
	const float *keys = in->k + row * in->k_row + column, *values = in->v + row * in->v_row + column;
	float *k = keys_of(f->cache, head), *v = values_of(f->cache, head) + (size_t) f->past * LLM_PANEL;

	for (int t = 0, n; t < S && !llm_pool_stopping(worker); t += n)
	{
		int at = f->past + t, room = LLM_PANEL - at % LLM_PANEL;

		n = S - t < room ? S - t : room;
		append_keys(
			n, HS, keys + t * in->k_row, in->k_row, at, k + (size_t) (at / LLM_PANEL) * HS * LLM_PANEL);
	}
	for (int i = 0; i < HS; i += LLM_PANEL, v += (size_t) f->cache->capacity * LLM_PANEL)
		for (int t = 0; t < S && !llm_pool_stopping(worker); t += FEW)
			llm_kernels->pack_panel(S - t < FEW ? S - t : FEW, HS - i < LLM_PANEL ? HS - i : LLM_PANEL,
				values + t * in->v_row + i, in->v_row, v + (size_t) t * LLM_PANEL);
}

/* Rows that share keys: queries of one head, or the heads of a group at one position. */
typedef struct QueryBlock
{
	int m, b, h, query; /* rows; sequence, head and query of the first one */
	int position;       /* of the first query */
	int head;           /* of keys and values, in the cache */
	const float *q;     /* (m,HS), rows ldq apart */
	size_t ldq;
	float *p;   /* (m,width): scores, then probabilities */
	float *out; /* (m,HS), rows ldo apart */
	size_t ldo;
} QueryBlock;

static int
position_of(const Forward *f, const QueryBlock *s, int row)
{
	return f->grouped ? s->position : s->position + row;
}

static int
head_of(const Forward *f, const QueryBlock *s, int row)
{
	return f->grouped ? s->h + row : s->h;
}

/* The keys that a row attends to: [first, last). */
static int
first_key(const Forward *f, const QueryBlock *s, int row)
{
	return llm_first_key(f->a, position_of(f, s, row));
}

static int
last_key(const Forward *f, const QueryBlock *s, int row)
{
	return llm_last_key(f->a, position_of(f, s, row), f->keys);
}

/* p (m,width) = q (m,HS) @ k^T for all panels up to the last row's last key */
static void
score_rows(const Forward *f, const QueryBlock *s, int worker)
{
	int HS = f->a->HS, used = panels(last_key(f, s, s->m - 1));
	float rows[BLOCK_QUERIES * LLM_BLOCK];

	for (int k = 0; k < HS; k += LLM_BLOCK)
	{
		int kc = HS - k < LLM_BLOCK ? HS - k : LLM_BLOCK;

		llm_kernels->pack_rows(s->m, kc, s->q + k, s->ldq, rows);
		for (int p = 0; p < used && !llm_pool_stopping(worker); p++)
			llm_kernels->matmul_block(s->m, kc, rows,
				keys_of(f->cache, s->head) + ((size_t) p * HS + k) * LLM_PANEL, s->p + (size_t) p * LLM_PANEL,
				f->width, LLM_PANEL, k == 0);
	}
}

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
	const float *v = values_of(f->cache, s->head);
	float rows[BLOCK_QUERIES * LLM_BLOCK];

	llm_kernels->pack_rows(m, kc, s->p + (size_t) row * f->width + k, f->width, rows);
	for (int i = 0; i < HS; i += LLM_PANEL)
	{
		const float *panel = v + ((size_t) (i / LLM_PANEL) * f->cache->capacity + k) * LLM_PANEL;
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

/* m rows that attend to the same keys: those of the first of them. */
static void
weigh_alike(const Forward *f, const QueryBlock *s, int row, int m, int worker)
{
	int first = first_key(f, s, row), last = last_key(f, s, row);

	for (int k = first, end; k < last && !llm_pool_stopping(worker); k = end)
	{
		end = (k / LLM_BLOCK + 1) * LLM_BLOCK;
		end = end < last ? end : last;
		weigh_block(f, s, row, m, k, end - k, MASK_NONE, k == first);
	}
}

/* Each row over its own keys, in blocks of keys for all rows together. */
static void
weigh_rows(const Forward *f, const QueryBlock *s, int worker)
{
	int keys = last_key(f, s, s->m - 1);

	if (f->grouped || (!f->a->causal && f->a->window == 0))
		weigh_alike(f, s, 0, s->m, worker);
	else if (f->a->window)
		for (int row = 0; row < s->m; row++)
			weigh_alike(f, s, row, 1, worker);
	else
		for (int k = 0; k < keys && !llm_pool_stopping(worker); k += LLM_BLOCK)
		{
			int row = weigh_masked(f, s, k);

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

/* A row's scores become probabilities. */
static void
normalize_row(const Forward *f, const QueryBlock *s, int row, int worker)
{
	const LlmAttention *a = f->a;
	int first = first_key(f, s, row), last = last_key(f, s, row), position = position_of(f, s, row);
	int h = head_of(f, s, row);
	uint64_t head = (uint64_t) s->b * a->NH + h; /* of all sequences */
	size_t shown = (head * a->queries + s->query + (f->grouped ? 0 : row)) * f->keys;
	float *x = s->p + (size_t) row * f->width, scale = a->scale;

	if (llm_scores_adjusted(a))
	{
		llm_adjust_scores(a, s->b, h, position, first, last, x);
		scale = 1;
	}
	if (f->scores)
		show_row(f->scores + shown, x, first, last, f->keys, -__builtin_inff(), scale);
	llm_row_softmax(worker, last - first, first, scale, x + first, x + first);
	if (f->probs)
		show_row(f->probs + shown, x, first, last, f->keys, 0, 1);
	if (a->dropout > 0)
		llm_drop(&a->stream, a->dropout, (head * (f->past + a->T) + position) * f->keys + first, last - first,
			x + first, x + first);
}

static void
attend_block(const Forward *f, const QueryBlock *s, int worker)
{
	score_rows(f, s, worker);
	for (int row = 0; row < s->m && !llm_pool_stopping(worker); row++)
		normalize_row(f, s, row, worker);
	weigh_rows(f, s, worker);
	for (int row = 0; f->a->head_mask && row < s->m; row++)
		llm_kernels->binary(LLM_MUL, f->a->HS, s->out + row * s->ldo, 1, f->a->head_mask + head_of(f, s, row),
			0, s->out + row * s->ldo);
}

/* The rows from `first` on of a group's heads, or of a head's queries. */
static QueryBlock
block_of(const Forward *f, int task, int first, int m)
{
	const LlmAttention *a = f->a;
	int share = a->NH / a->KV, tasks = f->grouped ? a->KV : a->NH, skipped = a->T - a->queries;
	QueryBlock s = {.m = m, .b = task / tasks, .h = task % tasks, .query = first};
	size_t column, C = (size_t) a->NH * a->HS;

	if (f->grouped)
	{
		s.h = s.h * share + first;
		s.query = 0;
	}
	column = (size_t) s.h * a->HS;
	s.position = f->past + skipped + s.query;
	s.head = s.b * a->KV + s.h / share;
	s.q = f->in->q + ((size_t) s.b * a->T + skipped + s.query) * f->in->q_row + column;
	s.ldq = f->grouped ? a->HS : f->in->q_row;
	s.out = f->out + ((size_t) s.b * a->queries + s.query) * C + column;
	s.ldo = f->grouped ? a->HS : C;
	return s;
}

static int
rows_of(const Forward *f)
{
	return f->grouped ? f->a->NH / f->a->KV : f->a->queries;
}

static void
attend_task(void *context, int task, int worker)
{
	const Forward *f = context;
	int first = task % f->chunks * f->rows;
	int end = first + f->rows < rows_of(f) ? first + f->rows : rows_of(f);
	float *scratch = f->scratch + (size_t) worker * f->rows * f->width;

	for (int row = first; row < end && !llm_pool_stopping(worker); row += BLOCK_QUERIES)
	{
		QueryBlock s =
			block_of(f, task / f->chunks, row, end - row < BLOCK_QUERIES ? end - row : BLOCK_QUERIES);

		s.p = scratch + (size_t) (row - first) * f->width;
		attend_block(f, &s, worker);
	}
}

/* Rows per task: whole blocks of BLOCK_QUERIES, limited by the chunk and by the number of rows. */
static int
rows_of_task(const Forward *f)
{
	int blocks = llm_attention_chunk / BLOCK_QUERIES,
		needed = (rows_of(f) + BLOCK_QUERIES - 1) / BLOCK_QUERIES;

	return (blocks < needed ? blocks : needed) * BLOCK_QUERIES;
}

static LlmCode
attend(Forward *f, const LlmAllocator *memory, LlmError *err)
{
	const LlmAttention *a = f->a;
	int64_t tasks;
	size_t bytes;
	LlmCode code;

	f->width = panels(f->keys) * LLM_PANEL;
	f->grouped = a->queries == 1 && a->KV < a->NH;
	f->rows = rows_of_task(f);
	f->chunks = (rows_of(f) + f->rows - 1) / f->rows;
	tasks = (int64_t) a->B * (f->grouped ? a->KV : a->NH) * f->chunks;
	if (tasks > INT32_MAX)
		return llm_fail(
			err, LLM_LIMIT, "attention: %d sequences of %d heads are too many at once", a->B, a->NH);
	bytes = (size_t) llm_pool_threads() * f->rows * f->width * sizeof(float);
	f->scratch = memory->alloc(memory->context, bytes);
	if (f->scratch == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "attention: no memory for the scores of %d positions", f->keys);
	code = llm_parallel(a->B * a->KV, append_task, f, err);
	if (code == LLM_OK)
		code = llm_parallel((int) tasks, attend_task, f, err);
	memory->release(memory->context, f->scratch, bytes);
	return code;
}

LlmCode
llm_attention(const LlmAttention *a, const LlmQkv *in, LlmKvCache *cache, float *out, float *scores,
	float *probs, const LlmAllocator *memory, LlmError *err)
{
	Forward f = {.a = a,
		.cache = cache,
		.in = in,
		.past = cache->length,
		.keys = cache->length + a->S,
		.out = out,
		.scores = scores,
		.probs = probs};
	LlmCode code;

	if (a->B == 0 || a->NH == 0 || a->T == 0 || a->HS == 0)
		return LLM_OK;
	if (f.keys == 0) /* a sum over no keys */
		return llm_fill((size_t) a->B * a->queries * a->NH * a->HS, 0, out, err);
	code = attend(&f, memory, err);
	if (code == LLM_OK)
		cache->length = f.keys;
	return code;
}

LlmAttention
llm_self_attention(int B, int T, int NH, int HS, bool causal)
{
	return (LlmAttention){.B = B,
		.T = T,
		.S = T,
		.NH = NH,
		.KV = NH,
		.HS = HS,
		.causal = causal,
		.queries = T,
		.scale = HS ? (float) (1 / sqrt(HS)) : 1};
}

LlmQkv
llm_qkv_of(const LlmAttention *a, const float *qkv)
{
	size_t C = (size_t) a->NH * a->HS;

	return (LlmQkv){qkv, qkv + C, qkv + 2 * C, 3 * C, 3 * C, 3 * C};
}
