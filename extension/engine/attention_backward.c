/*
 * Gradients of attention, head by head: probabilities are made again for 128 queries at a time, then
 * dV += P^T dY, dS = P (dY V^T - rowsum), dQ = dS K scale, dK += dS^T Q scale. Parallel over heads only, so
 * the order of additions over queries is fixed.
 */
#include <string.h>

#include "engine/gradients.h"
#include "engine/pool.h"

typedef struct Backward
{
	const LlmAttention *a;
	const float *qkv, *dy;
	float *dqkv;
	int width; /* floats of one row of scores: whole panels of T */
	size_t scratch_floats;
	float *scratch;
} Backward;

/* One head's working memory. */
typedef struct Head
{
	float *kt, *vt; /* panels of K^T and V^T: [T/32][HS][32] */
	float *k;       /* panels of K: [HS/32][T][32] */
	float *q, *dy;  /* panels of a block of queries and of its gradient: [HS/32][128][32] */
	float *p, *ds;  /* (128,width) */
	float *dk, *dv; /* (T,HS) */
	float *rows;    /* packed rows of a product: room for T rows of one block */
} Head;

/* The next piece of the scratch; without a base it is only counted. */
static float *
take(float *base, size_t *at, size_t floats)
{
	float *here = base ? base + *at : NULL;

	*at += (floats + 15) / 16 * 16;
	return here;
}

static size_t
lay_out(Head *h, int T, int HS, int width, float *base)
{
	size_t at = 0;

	h->kt = take(base, &at, llm_packed_floats(HS, T));
	h->vt = take(base, &at, llm_packed_floats(HS, T));
	h->k = take(base, &at, llm_packed_floats(T, HS));
	h->q = take(base, &at, llm_packed_floats(LLM_BLOCK, HS));
	h->dy = take(base, &at, llm_packed_floats(LLM_BLOCK, HS));
	h->p = take(base, &at, (size_t) LLM_BLOCK * width);
	h->ds = take(base, &at, (size_t) LLM_BLOCK * width);
	h->dk = take(base, &at, (size_t) T * HS);
	h->dv = take(base, &at, (size_t) T * HS);
	h->rows = take(base, &at, (size_t) (T > LLM_BLOCK ? T : LLM_BLOCK) * LLM_BLOCK);
	return at;
}

static void
pack_all(int k, int n, const float *b, size_t ldb, bool transposed, float *panels)
{
	for (int j = 0; j < n; j += LLM_PANEL, panels += (size_t) k * LLM_PANEL)
	{
		int c = n - j < LLM_PANEL ? n - j : LLM_PANEL;

		if (transposed)
			llm_kernels->pack_panel_transposed(k, c, b + (size_t) j * ldb, ldb, panels);
		else
			llm_kernels->pack_panel(k, c, b + j, ldb, panels);
	}
}

/* out (m,n) = or += a (m,k) @ panels; a^T when columns. Blocks of k as everywhere. */
static void
product(int m, int n, int k, const float *a, size_t lda, bool columns, const float *panels, float *out,
	size_t ldo, bool add, float *rows)
{
	for (int k0 = 0; k0 < k; k0 += LLM_BLOCK)
	{
		int kc = k - k0 < LLM_BLOCK ? k - k0 : LLM_BLOCK;

		if (columns)
			llm_kernels->pack_columns(m, kc, a + (size_t) k0 * lda, lda, rows);
		else
			llm_kernels->pack_rows(m, kc, a + k0, lda, rows);
		for (int j = 0; j < n; j += LLM_PANEL)
			llm_kernels->matmul_block(m, kc, rows, panels + ((size_t) (j / LLM_PANEL) * k + k0) * LLM_PANEL,
				out + j, ldo, n - j < LLM_PANEL ? n - j : LLM_PANEL, k0 == 0 && !add);
	}
}

/* p and ds of m queries from `query` on, over the first `keys` keys; unseen keys get 0. */
static void
probabilities(
	const Backward *w, Head *h, int head, int m, int query, int keys, const float *q, const float *dy, int C)
{
	const LlmAttention *a = w->a;

	product(m, keys, a->HS, q, 3 * C, false, h->kt, h->p, w->width, false, h->rows);
	product(m, keys, a->HS, dy, C, false, h->vt, h->ds, w->width, false, h->rows);
	for (int i = 0; i < m; i++)
	{
		int last = a->causal ? query + i + 1 : a->T;
		int first = a->window && query + i + 1 > a->window ? query + i + 1 - a->window : 0;
		uint64_t row = ((uint64_t) head * a->T + query + i) * a->T; /* of the stream's elements */
		float *p = h->p + (size_t) i * w->width, *ds = h->ds + (size_t) i * w->width;

		llm_kernels->softmax(last - first, first, a->scale, p + first, p + first);
		if (a->dropout > 0)
			llm_drop(&a->stream, a->dropout, row + first, last - first, ds + first, ds + first);
		llm_kernels->softmax_backward(last - first, first, a->scale, p + first, ds + first, ds + first);
		if (a->dropout > 0)
			llm_drop(&a->stream, a->dropout, row + first, last - first, p + first, p + first);
		memset(p, 0, first * sizeof(float));
		memset(ds, 0, first * sizeof(float));
		memset(p + last, 0, (keys - last) * sizeof(float));
		memset(ds + last, 0, (keys - last) * sizeof(float));
	}
}

static void
head_task(void *context, int task, int worker)
{
	const Backward *w = context;
	const LlmAttention *a = w->a;
	int T = a->T, HS = a->HS, C = a->NH * HS, b = task / a->NH, head = task % a->NH;
	const float *q = w->qkv + (size_t) b * T * 3 * C + (size_t) head * HS, *k = q + C, *v = k + C;
	const float *dy = w->dy + (size_t) b * T * C + (size_t) head * HS;
	float *dq = w->dqkv + (q - w->qkv);
	Head h;

	lay_out(&h, T, HS, w->width, w->scratch + worker * w->scratch_floats);
	pack_all(HS, T, k, 3 * C, true, h.kt);
	pack_all(HS, T, v, 3 * C, true, h.vt);
	pack_all(T, HS, k, 3 * C, false, h.k);
	memset(h.dk, 0, (size_t) T * HS * sizeof(float));
	memset(h.dv, 0, (size_t) T * HS * sizeof(float));
	for (int query = 0; query < T && !llm_pool_stopping(worker); query += LLM_BLOCK)
	{
		int m = T - query < LLM_BLOCK ? T - query : LLM_BLOCK, keys = a->causal ? query + m : T;
		const float *qs = q + (size_t) query * 3 * C, *dys = dy + (size_t) query * C;
		float mask = a->head_mask ? a->head_mask[head] : 1;

		probabilities(w, &h, task, m, query, keys, qs, dys, C);
		if (a->head_mask)
		{
			llm_kernels->binary(LLM_MUL, (size_t) m * w->width, h.p, 1, &mask, 0, h.p);
			llm_kernels->binary(LLM_MUL, (size_t) m * w->width, h.ds, 1, &mask, 0, h.ds);
		}
		pack_all(m, HS, qs, 3 * C, false, h.q);
		pack_all(m, HS, dys, C, false, h.dy);
		product(keys, HS, m, h.p, w->width, true, h.dy, h.dv, HS, true, h.rows);
		product(keys, HS, m, h.ds, w->width, true, h.q, h.dk, HS, true, h.rows);
		/* K's panels are T rows long, of which this product reads the first `keys` */
		for (int k0 = 0; k0 < keys; k0 += LLM_BLOCK)
		{
			int kc = keys - k0 < LLM_BLOCK ? keys - k0 : LLM_BLOCK;

			llm_kernels->pack_rows(m, kc, h.ds + k0, w->width, h.rows);
			for (int j = 0; j < HS; j += LLM_PANEL)
				llm_kernels->matmul_block(m, kc, h.rows,
					h.k + ((size_t) (j / LLM_PANEL) * T + k0) * LLM_PANEL, dq + (size_t) query * 3 * C + j,
					3 * C, HS - j < LLM_PANEL ? HS - j : LLM_PANEL, k0 == 0);
		}
	}
	for (int t = 0; t < T; t++)
	{
		memcpy(dq + (size_t) t * 3 * C + C, h.dk + (size_t) t * HS, HS * sizeof(float));
		memcpy(dq + (size_t) t * 3 * C + 2 * C, h.dv + (size_t) t * HS, HS * sizeof(float));
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
	w.scratch_floats = lay_out(&h, a->T, a->HS, w.width, NULL);
	bytes = w.scratch_floats * llm_pool_threads() * sizeof(float);
	w.scratch = memory->alloc(memory->context, bytes);
	if (w.scratch == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "attention: no memory for the gradients of %d positions", a->T);
	code = llm_parallel(a->B * a->NH, head_task, &w, err);
	memory->release(memory->context, w.scratch, bytes);
	return code;
}
