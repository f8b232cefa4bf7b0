/*
 * Gradients of attention, head by head of keys and values: probabilities are recomputed for a chunk of
 * queries at a time, then, in blocks of 128 queries whatever the chunk size, dV += P^T dY, dS = P (dY V^T -
 * rowsum), dQ = dS K scale, dK += dS^T Q scale. Heads of queries that share keys follow one another. Parallel
 * over heads of keys only, so the order of additions is fixed.
 */
#include <string.h>

#include "engine/gradients.h"
#include "engine/pool.h"
#include "engine/rows.h"
#include "engine/scores.h"

/* Rows between two polls of the stop function: a multiple of every register tile's height (14, 6, 4, 1). */
#define FEW 2016

typedef struct Backward
{
	const LlmAttention *a;
	const LlmQkv *in;
	const float *dy;
	const LlmQkvGradient *to;
	int width; /* floats of one row of scores: whole panels of S */
	int chunk; /* rows of scores held at once: whole blocks */
	size_t scratch_floats;
	float *scratch;
} Backward;

/* The working memory of one head of keys. */
typedef struct Head
{
	int worker;     /* index of the thread */
	float *kt, *vt; /* panels of K^T and V^T: [S/32][HS][32] */
	float *k;       /* panels of K: [HS/32][S][32] */
	float *q, *dy;  /* panels of a block of queries and of its gradient: [HS/32][128][32] */
	float *p, *ds;  /* (chunk,width) */
	float *dk, *dv; /* (S,HS) */
	float *rows;    /* packed rows of a product: S rows of one block */
} Head;

/* The next piece of the scratch memory; with base NULL it is only counted. */
static float *
take(float *base, size_t *at, size_t floats)
{
	float *here = base ? base + *at : NULL;

	*at += (floats + 15) / 16 * 16;
	return here;
}

static size_t
lay_out(Head *h, int S, int HS, int width, int chunk, float *base)
{
	size_t at = 0;

	h->kt = take(base, &at, llm_packed_floats(HS, S));
	h->vt = take(base, &at, llm_packed_floats(HS, S));
	h->k = take(base, &at, llm_packed_floats(S, HS));
	h->q = take(base, &at, llm_packed_floats(LLM_BLOCK, HS));
	h->dy = take(base, &at, llm_packed_floats(LLM_BLOCK, HS));
	h->p = take(base, &at, (size_t) chunk * width);
	h->ds = take(base, &at, (size_t) chunk * width);
	h->dk = take(base, &at, (size_t) S * HS);
	h->dv = take(base, &at, (size_t) S * HS);
	h->rows = take(base, &at, (size_t) (S > LLM_BLOCK ? S : LLM_BLOCK) * LLM_BLOCK);
	return at;
}

/* Packs b (k,n), or its transpose, into panels, some rows at a time. */
static void
pack_all(int k, int n, const float *b, size_t ldb, bool transposed, float *panels, int worker)
{
	for (int j = 0; j < n; j += LLM_PANEL, panels += (size_t) k * LLM_PANEL)
		for (int i = 0; i < k && !llm_pool_stopping(worker); i += FEW)
		{
			int rows = k - i < FEW ? k - i : FEW, c = n - j < LLM_PANEL ? n - j : LLM_PANEL;
			float *to = panels + (size_t) i * LLM_PANEL;

			if (transposed)
				llm_kernels->pack_panel_transposed(rows, c, b + (size_t) j * ldb + i, ldb, to);
			else
				llm_kernels->pack_panel(rows, c, b + (size_t) i * ldb + j, ldb, to);
		}
}

/* out (m,n) = or += a (m,k) @ panels; a^T if `columns`. Blocks of k as in every product. */
static void
product(int m, int n, int k, const float *a, size_t lda, bool columns, const float *panels, float *out,
	size_t ldo, bool add, const Head *h)
{
	for (int i = 0; i < m && !llm_pool_stopping(h->worker); i += FEW)
		for (int k0 = 0; k0 < k; k0 += LLM_BLOCK)
		{
			int mc = m - i < FEW ? m - i : FEW, kc = k - k0 < LLM_BLOCK ? k - k0 : LLM_BLOCK;

			if (columns)
				llm_kernels->pack_columns(mc, kc, a + (size_t) k0 * lda + i, lda, h->rows);
			else
				llm_kernels->pack_rows(mc, kc, a + (size_t) i * lda + k0, lda, h->rows);
			for (int j = 0; j < n && !llm_pool_stopping(h->worker); j += LLM_PANEL)
				llm_kernels->matmul_block(mc, kc, h->rows,
					panels + ((size_t) (j / LLM_PANEL) * k + k0) * LLM_PANEL, out + (size_t) i * ldo + j, ldo,
					n - j < LLM_PANEL ? n - j : LLM_PANEL, k0 == 0 && !add);
		}
}

/* A block of at most 128 queries of a head. */
typedef struct Block
{
	int b, head;         /* sequence, head of queries */
	int m, query, keys;  /* number of queries, the first of them, the keys that the last one attends to */
	const float *q, *dy; /* rows q_row and NH*HS apart */
	float *dq, *p, *ds;  /* rows q_row and width apart */
} Block;

static Block
block_of(const Backward *w, const Head *h, int b, int head, int query, int first)
{
	const LlmAttention *a = w->a;
	size_t row = (size_t) b * a->T + query, at = (size_t) head * a->HS;
	Block k = {
		.b = b, .head = head, .m = a->T - query < LLM_BLOCK ? a->T - query : LLM_BLOCK, .query = query};

	k.keys = llm_last_key(a, query + k.m - 1, a->S);
	k.q = w->in->q + row * w->in->q_row + at;
	k.dy = w->dy + row * a->NH * a->HS + at;
	k.dq = w->to->q + row * w->in->q_row + at;
	k.p = h->p + (size_t) (query - first) * w->width;
	k.ds = h->ds + (size_t) (query - first) * w->width;
	return k;
}

/* Row i of a block: its scores become p, dY V^T becomes ds; keys that it does not attend to get 0. */
static void
probabilities_row(const Backward *w, const Head *h, const Block *k, int i, bool adjusted)
{
	const LlmAttention *a = w->a;
	int at = k->query + i, first = llm_first_key(a, at), last = llm_last_key(a, at, a->S);
	uint64_t row = (((uint64_t) k->b * a->NH + k->head) * a->T + at) * a->S; /* of the stream's elements */
	float *p = k->p + (size_t) i * w->width, *ds = k->ds + (size_t) i * w->width;
	float scale = adjusted ? 1 : a->scale;

	if (adjusted)
		llm_adjust_scores(a, k->b, k->head, at, first, last, p);
	llm_row_softmax(h->worker, last - first, first, scale, p + first, p + first);
	if (a->dropout > 0)
		llm_drop(&a->stream, a->dropout, row + first, last - first, ds + first, ds + first);
	llm_row_softmax_backward(h->worker, last - first, first, scale, p + first, ds + first, ds + first);
	if (a->dropout > 0)
		llm_drop(&a->stream, a->dropout, row + first, last - first, p + first, p + first);
	memset(p, 0, first * sizeof(float));
	memset(ds, 0, first * sizeof(float));
	memset(p + last, 0, (k->keys - last) * sizeof(float));
	memset(ds + last, 0, (k->keys - last) * sizeof(float));
	if (a->head_mask)
	{
		llm_kernels->binary(LLM_MUL, k->keys, p, 1, &a->head_mask[k->head], 0, p);
		llm_kernels->binary(LLM_MUL, k->keys, ds, 1, &a->head_mask[k->head], 0, ds);
	}
	if (w->to->scores)
	{
		memcpy(w->to->scores + row, ds, k->keys * sizeof(float));
		memset(w->to->scores + row + k->keys, 0, (a->S - k->keys) * sizeof(float));
	}
	if (adjusted) /* from the adjusted scores to q k^T */
		llm_kernels->binary(LLM_MUL, k->keys, ds, 1, &a->scale, 0, ds);
}

/* Computes p and ds of a block over the keys that it attends to. */
static void
probabilities(const Backward *w, const Head *h, const Block *k)
{
	const LlmAttention *a = w->a;
	bool adjusted = llm_scores_adjusted(a);

	product(k->m, k->keys, a->HS, k->q, w->in->q_row, false, h->kt, k->p, w->width, false, h);
	product(k->m, k->keys, a->HS, k->dy, (size_t) a->NH * a->HS, false, h->vt, k->ds, w->width, false, h);
	for (int i = 0; i < k->m && !llm_pool_stopping(h->worker); i++)
		probabilities_row(w, h, k, i, adjusted);
}

/* Adds the block's contributions to dv and dk, and writes its dq. */
static void
products(const Backward *w, const Head *h, const Block *k)
{
	int S = w->a->S, HS = w->a->HS;

	pack_all(k->m, HS, k->q, w->in->q_row, false, h->q, h->worker);
	pack_all(k->m, HS, k->dy, (size_t) w->a->NH * HS, false, h->dy, h->worker);
	product(k->keys, HS, k->m, k->p, w->width, true, h->dy, h->dv, HS, true, h);
	product(k->keys, HS, k->m, k->ds, w->width, true, h->q, h->dk, HS, true, h);
	/* K's panels are S rows long, of which this product reads the first `keys` */
	for (int k0 = 0; k0 < k->keys && !llm_pool_stopping(h->worker); k0 += LLM_BLOCK)
	{
		int kc = k->keys - k0 < LLM_BLOCK ? k->keys - k0 : LLM_BLOCK;

		llm_kernels->pack_rows(k->m, kc, k->ds + k0, w->width, h->rows);
		for (int j = 0; j < HS; j += LLM_PANEL)
			llm_kernels->matmul_block(k->m, kc, h->rows,
				h->k + ((size_t) (j / LLM_PANEL) * S + k0) * LLM_PANEL, k->dq + j, w->in->q_row,
				HS - j < LLM_PANEL ? HS - j : LLM_PANEL, k0 == 0);
	}
}

/* The contributions of one head of queries, a chunk of them at a time. */
static void
add_head(const Backward *w, const Head *h, int b, int head)
{
	int T = w->a->T;

	for (int first = 0; first < T; first += w->chunk)
	{
		int end = T - first < w->chunk ? T : first + w->chunk;

		for (int query = first; query < end && !llm_pool_stopping(h->worker); query += LLM_BLOCK)
		{
			Block block = block_of(w, h, b, head, query, first);

			probabilities(w, h, &block);
		}
		for (int query = first; query < end && !llm_pool_stopping(h->worker); query += LLM_BLOCK)
		{
			Block block = block_of(w, h, b, head, query, first);

			products(w, h, &block);
		}
	}
}

/* to (S,HS), rows `ldo` apart */
static void
write_head(const Head *h, int S, int HS, const float *from, float *to, size_t ldo)
{
	for (int t = 0; t < S && !(t % FEW == 0 && llm_pool_stopping(h->worker)); t++)
		memcpy(to + t * ldo, from + (size_t) t * HS, HS * sizeof(float));
}

static void
head_task(void *context, int task, int worker)
{
	const Backward *w = context;
	const LlmAttention *a = w->a;
	int S = a->S, HS = a->HS, b = task / a->KV, share = a->NH / a->KV;
	size_t row = (size_t) b * S, column = (size_t) (task % a->KV) * HS;
	const float *k = w->in->k + row * w->in->k_row + column, *v = w->in->v + row * w->in->v_row + column;
	Head h;

	lay_out(&h, S, HS, w->width, w->chunk, w->scratch + worker * w->scratch_floats);
	h.worker = worker;
	pack_all(HS, S, k, w->in->k_row, true, h.kt, worker);
	pack_all(HS, S, v, w->in->v_row, true, h.vt, worker);
	pack_all(S, HS, k, w->in->k_row, false, h.k, worker);
	llm_row_zero(worker, (size_t) S * HS, h.dk);
	llm_row_zero(worker, (size_t) S * HS, h.dv);
	for (int i = 0; i < share; i++)
		add_head(w, &h, b, task % a->KV * share + i);
	write_head(&h, S, HS, h.dk, w->to->k + row * w->in->k_row + column, w->in->k_row);
	write_head(&h, S, HS, h.dv, w->to->v + row * w->in->v_row + column, w->in->v_row);
}

LlmQkvGradient
llm_dqkv_of(const LlmAttention *a, float *dqkv)
{
	size_t C = (size_t) a->NH * a->HS;

	return (LlmQkvGradient){dqkv, dqkv + C, dqkv + 2 * C, NULL};
}

/* Without queries or without keys, every gradient that has elements is zero. */
static LlmCode
no_gradients(const LlmAttention *a, const LlmQkvGradient *to, LlmError *err)
{
	size_t queries = (size_t) a->B * a->T * a->NH * a->HS, keys = (size_t) a->B * a->S * a->KV * a->HS;
	LlmCode code = llm_fill(queries, 0, to->q, err);

	if (code == LLM_OK)
		code = llm_fill(keys, 0, to->k, err);
	return code == LLM_OK ? llm_fill(keys, 0, to->v, err) : code;
}

LlmCode
llm_attention_backward(const LlmAttention *a, const LlmQkv *in, const float *dy, const LlmQkvGradient *to,
	const LlmAllocator *memory, LlmError *err)
{
	Backward w = {.a = a, .in = in, .dy = dy, .to = to};
	Head h;
	size_t bytes;
	LlmCode code;

	if (a->B == 0 || a->T == 0 || a->S == 0 || a->NH == 0 || a->HS == 0)
		return no_gradients(a, to, err);
	w.width = (a->S + LLM_PANEL - 1) / LLM_PANEL * LLM_PANEL;
	w.chunk =
		a->T < llm_attention_chunk ? (a->T + LLM_BLOCK - 1) / LLM_BLOCK * LLM_BLOCK : llm_attention_chunk;
	w.scratch_floats = lay_out(&h, a->S, a->HS, w.width, w.chunk, NULL);
	bytes = w.scratch_floats * llm_pool_threads() * sizeof(float);
	w.scratch = memory->alloc(memory->context, bytes);
	if (w.scratch == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "attention: no memory for the gradients of %d positions", a->T);
	code = llm_parallel(a->B * a->KV, head_task, &w, err);
	memory->release(memory->context, w.scratch, bytes);
	return code;
}
