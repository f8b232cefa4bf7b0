/*
 * Gradients of attention, head by head: probabilities are recomputed for a chunk of queries at a time, then,
 * in blocks of 128 queries whatever the chunk size, dV += P^T dY, dS = P (dY V^T - rowsum), dQ = dS K scale,
 * dK += dS^T Q scale. Parallel over heads only, so the order of additions over queries is fixed.
 */
#include <string.h>

#include "engine/gradients.h"
#include "engine/pool.h"
#include "engine/rows.h"

/* Rows between two polls of the stop function: a multiple of every register tile's height (14, 6, 4, 1). */
#define FEW 2016

typedef struct Backward
{
	const LlmAttention *a;
	const float *qkv, *dy;
	float *dqkv;
	int width; /* floats of one row of scores: whole panels of T */
	int chunk; /* rows of scores held at once: whole blocks */
	size_t scratch_floats;
	float *scratch;
} Backward;

/* One head's working memory. */
typedef struct Head
{
	int worker;     /* index of the thread */
	float *kt, *vt; /* panels of K^T and V^T: [T/32][HS][32] */
	float *k;       /* panels of K: [HS/32][T][32] */
	float *q, *dy;  /* panels of a block of queries and of its gradient: [HS/32][128][32] */
	float *p, *ds;  /* (chunk,width) */
	float *dk, *dv; /* (T,HS) */
	float *rows;    /* packed rows of a product: T rows of one block */
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
lay_out(Head *h, int T, int HS, int width, int chunk, float *base)
{
	size_t at = 0;

	h->kt = take(base, &at, llm_packed_floats(HS, T));
	h->vt = take(base, &at, llm_packed_floats(HS, T));
	h->k = take(base, &at, llm_packed_floats(T, HS));
	h->q = take(base, &at, llm_packed_floats(LLM_BLOCK, HS));
	h->dy = take(base, &at, llm_packed_floats(LLM_BLOCK, HS));
	h->p = take(base, &at, (size_t) chunk * width);
	h->ds = take(base, &at, (size_t) chunk * width);
	h->dk = take(base, &at, (size_t) T * HS);
	h->dv = take(base, &at, (size_t) T * HS);
	h->rows = take(base, &at, (size_t) (T > LLM_BLOCK ? T : LLM_BLOCK) * LLM_BLOCK);
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
	int m, query, keys;  /* number of queries, the first of them, the keys that the last one attends to */
	const float *q, *dy; /* rows 3*C and C apart */
	float *dq, *p, *ds;  /* rows 3*C and width apart */
} Block;

static Block
block_of(const Backward *w, const Head *h, int task, int query, int first)
{
	const LlmAttention *a = w->a;
	int C = a->NH * a->HS, b = task / a->NH, head = task % a->NH;
	size_t row = (size_t) b * a->T + query, at = (size_t) head * a->HS;
	Block k = {.m = a->T - query < LLM_BLOCK ? a->T - query : LLM_BLOCK, .query = query};

	k.keys = a->causal ? query + k.m : a->T;
	k.q = w->qkv + row * 3 * C + at;
	k.dy = w->dy + row * C + at;
	k.dq = w->dqkv + row * 3 * C + at;
	k.p = h->p + (size_t) (query - first) * w->width;
	k.ds = h->ds + (size_t) (query - first) * w->width;
	return k;
}

/* Computes p and ds of a block over the keys that it attends to; masked keys get 0. */
static void
probabilities(const Backward *w, const Head *h, int task, const Block *k)
{
	const LlmAttention *a = w->a;
	int C = a->NH * a->HS;

	product(k->m, k->keys, a->HS, k->q, 3 * C, false, h->kt, k->p, w->width, false, h);
	product(k->m, k->keys, a->HS, k->dy, C, false, h->vt, k->ds, w->width, false, h);
	for (int i = 0; i < k->m && !llm_pool_stopping(h->worker); i++)
	{
		int at = k->query + i, last = a->causal ? at + 1 : a->T;
		int first = a->window && at + 1 > a->window ? at + 1 - a->window : 0;
		uint64_t row = ((uint64_t) task * a->T + at) * a->T; /* of the stream's elements */
		float *p = k->p + (size_t) i * w->width, *ds = k->ds + (size_t) i * w->width;

		llm_row_softmax(h->worker, last - first, first, a->scale, p + first, p + first);
		if (a->dropout > 0)
			llm_drop(&a->stream, a->dropout, row + first, last - first, ds + first, ds + first);
		llm_row_softmax_backward(h->worker, last - first, first, a->scale, p + first, ds + first, ds + first);
		if (a->dropout > 0)
			llm_drop(&a->stream, a->dropout, row + first, last - first, p + first, p + first);
		memset(p, 0, first * sizeof(float));
		memset(ds, 0, first * sizeof(float));
		memset(p + last, 0, (k->keys - last) * sizeof(float));
		memset(ds + last, 0, (k->keys - last) * sizeof(float));
		if (a->head_mask)
		{
			llm_kernels->binary(LLM_MUL, k->keys, p, 1, &a->head_mask[task % a->NH], 0, p);
			llm_kernels->binary(LLM_MUL, k->keys, ds, 1, &a->head_mask[task % a->NH], 0, ds);
		}
	}
}

/* Adds the block's contributions to dv and dk, and writes its dq. */
static void
products(const Backward *w, const Head *h, const Block *k)
{
	int T = w->a->T, HS = w->a->HS, C = w->a->NH * HS;

	pack_all(k->m, HS, k->q, 3 * C, false, h->q, h->worker);
	pack_all(k->m, HS, k->dy, C, false, h->dy, h->worker);
	product(k->keys, HS, k->m, k->p, w->width, true, h->dy, h->dv, HS, true, h);
	product(k->keys, HS, k->m, k->ds, w->width, true, h->q, h->dk, HS, true, h);
	/* K's panels are T rows long, of which this product reads the first `keys` */
	for (int k0 = 0; k0 < k->keys && !llm_pool_stopping(h->worker); k0 += LLM_BLOCK)
	{
		int kc = k->keys - k0 < LLM_BLOCK ? k->keys - k0 : LLM_BLOCK;

		llm_kernels->pack_rows(k->m, kc, k->ds + k0, w->width, h->rows);
		for (int j = 0; j < HS; j += LLM_PANEL)
			llm_kernels->matmul_block(k->m, kc, h->rows,
				h->k + ((size_t) (j / LLM_PANEL) * T + k0) * LLM_PANEL, k->dq + j, 3 * C,
				HS - j < LLM_PANEL ? HS - j : LLM_PANEL, k0 == 0);
	}
}

static void
head_task(void *context, int task, int worker)
{
	const Backward *w = context;
	const LlmAttention *a = w->a;
	int T = a->T, HS = a->HS, C = a->NH * HS;
	size_t at = (size_t) (task / a->NH) * T * 3 * C + (size_t) (task % a->NH) * HS;
	const float *k = w->qkv + at + C, *v = k + C;
	float *dk = w->dqkv + at + C;
	Head h;

	lay_out(&h, T, HS, w->width, w->chunk, w->scratch + worker * w->scratch_floats);
	h.worker = worker;
	pack_all(HS, T, k, 3 * C, true, h.kt, worker);
	pack_all(HS, T, v, 3 * C, true, h.vt, worker);
	pack_all(T, HS, k, 3 * C, false, h.k, worker);
	llm_row_zero(worker, (size_t) T * HS, h.dk);
	llm_row_zero(worker, (size_t) T * HS, h.dv);
	for (int first = 0; first < T; first += w->chunk)
	{
		int end = T - first < w->chunk ? T : first + w->chunk;

		for (int query = first; query < end && !llm_pool_stopping(worker); query += LLM_BLOCK)
		{
			Block block = block_of(w, &h, task, query, first);

			probabilities(w, &h, task, &block);
		}
		for (int query = first; query < end && !llm_pool_stopping(worker); query += LLM_BLOCK)
		{
			Block block = block_of(w, &h, task, query, first);

			products(w, &h, &block);
		}
	}
	for (int t = 0; t < T && !(t % FEW == 0 && llm_pool_stopping(worker)); t++, dk += 3 * C)
	{
		memcpy(dk, h.dk + (size_t) t * HS, HS * sizeof(float));
		memcpy(dk + C, h.dv + (size_t) t * HS, HS * sizeof(float));
	}
}

LlmCode
llm_attention_backward(const LlmAttention *a, const float *qkv, const float *dy, float *dqkv,
	const LlmAllocator *memory, LlmError *err)
{
	Backward w = {.a = a, .qkv = qkv, .dy = dy, .dqkv = dqkv};
	Head h;
	size_t bytes;
	LlmCode code;

	if (a->B == 0 || a->T == 0 || a->NH == 0 || a->HS == 0)
		return LLM_OK;
	w.width = (a->T + LLM_PANEL - 1) / LLM_PANEL * LLM_PANEL;
	w.chunk =
		a->T < llm_attention_chunk ? (a->T + LLM_BLOCK - 1) / LLM_BLOCK * LLM_BLOCK : llm_attention_chunk;
	w.scratch_floats = lay_out(&h, a->T, a->HS, w.width, w.chunk, NULL);
	bytes = w.scratch_floats * llm_pool_threads() * sizeof(float);
	w.scratch = memory->alloc(memory->context, bytes);
	if (w.scratch == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "attention: no memory for the gradients of %d positions", a->T);
	code = llm_parallel(a->B * a->NH, head_task, &w, err);
	memory->release(memory->context, w.scratch, bytes);
	return code;
}
