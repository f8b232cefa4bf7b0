/*
 * y_(i,j) = x_i @ w_e, e = id_(i,j): each row times the weight matrices of the experts chosen for it, and of
 * no others (Shazeer et al., 2017). x has one row for all experts of a position, or one for each of them.
 *
 * The pairs of a row and an expert are sorted by expert, so that each expert is one product over its rows.
 * Within an expert the pairs keep their order. The bits are those of each row's product alone.
 */
#include <string.h>

#include "engine/broadcast.h"
#include "engine/gradients.h"
#include "engine/ops/direct.h"
#include "engine/ops/op.h"
#include "engine/partition.h"
#include "engine/pool.h"
#include "engine/rows.h"

/* ---- pairs, sorted by expert ---- */

typedef struct Sorted
{
	int32_t *first;  /* (E+1) an expert's first place in the sorted order */
	int32_t *pairs;  /* (pairs) the pair at each place */
	int32_t *rows;   /* (pairs) its row of x */
	int32_t *places; /* (pairs) the place of each pair */
	float *in, *out; /* (pairs,K) or (pairs,N) in sorted order */
	size_t bytes;    /* of all of them, which begin at first */
} Sorted;

/* A counting sort, which keeps the order within an expert. */
static void
sort(const LlmExperts *e, const int32_t *ids, Sorted *s)
{
	memset(s->first, 0, (e->E + 1) * sizeof(int32_t));
	for (size_t i = 0; i < e->pairs; i++)
		s->first[ids[i] + 1]++;
	for (int i = 0; i < e->E; i++)
		s->first[i + 1] += s->first[i];
	for (size_t i = 0; i < e->pairs; i++)
	{
		int32_t place = s->first[ids[i]]++;

		s->places[i] = place;
		s->pairs[place] = (int32_t) i;
		s->rows[place] = (int32_t) (i / e->per_row);
	}
	memmove(s->first + 1, s->first, e->E * sizeof(int32_t)); /* each begins where the one before it ends */
	s->first[0] = 0;
}

/* Memory for rows of `in` and `out` elements, and the pairs sorted. */
static LlmCode
open_sorted(const LlmExperts *e, const int32_t *ids, size_t in, size_t out, Sorted *s,
	const LlmAllocator *memory, LlmError *err)
{
	*s = (Sorted){.bytes = (e->E + 1 + e->pairs * (3 + in + out)) * sizeof(float)};
	s->first = memory->alloc(memory->context, s->bytes);
	if (s->first == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "expert_matmul: no memory for %zu MB of rows", s->bytes >> 20);
	s->pairs = s->first + e->E + 1;
	s->rows = s->pairs + e->pairs;
	s->places = s->rows + e->pairs;
	s->in = (float *) (s->places + e->pairs);
	s->out = s->in + e->pairs * in;
	sort(e, ids, s);
	return llm_poll(err);
}

static LlmCode
close_sorted(Sorted *s, LlmCode code, const LlmAllocator *memory)
{
	if (s->first)
		memory->release(memory->context, s->first, s->bytes);
	return code;
}

/* ---- one product for each expert ---- */

typedef struct Product
{
	const Sorted *s;
	const float *w;  /* (E,K,N) */
	int inner;       /* elements that are summed: K, or with transposed matrices N */
	int columns;     /* of the result: N, or K */
	bool transposed; /* by the transposed matrix of each expert */
	int panels;
} Product;

/*
 * The rows of one expert times one panel of its matrix. The panel is packed block by block and used at once,
 * so that a matrix is read only once and needs no second copy.
 */
static void
panel_task(void *context, int task, int worker)
{
	const Product *p = context;
	int expert = task / p->panels, column = task % p->panels * LLM_PANEL, tile = llm_kernels->tile_rows;
	int from = p->s->first[expert], to = p->s->first[expert + 1];
	int n = (int) llm_min(p->columns - column, LLM_PANEL);
	const float *w = p->w + (size_t) expert * p->inner * p->columns;
	float panel[LLM_BLOCK * LLM_PANEL], rows[LLM_BLOCK * LLM_PANEL];

	for (int k = 0; k < p->inner && from < to && !llm_pool_stopping(worker); k += LLM_BLOCK)
	{
		int kc = (int) llm_min(p->inner - k, LLM_BLOCK);

		if (p->transposed)
			llm_kernels->pack_panel_transposed(kc, n, w + (size_t) column * p->inner + k, p->inner, panel);
		else
			llm_kernels->pack_panel(kc, n, w + (size_t) k * p->columns + column, p->columns, panel);
		for (int row = from; row < to; row += tile)
		{
			int m = to - row < tile ? to - row : tile;
			const float *in = p->s->in + (size_t) row * p->inner + k;

			if (m > 1)
				llm_kernels->pack_rows(m, kc, in, p->inner, rows);
			llm_kernels->matmul_block(m, kc, m > 1 ? rows : in, panel,
				p->s->out + (size_t) row * p->columns + column, p->columns, n, k == 0);
		}
	}
}

/* s->out = s->in @ the experts' matrices */
static LlmCode
multiply(const LlmExperts *e, const Sorted *s, const float *w, bool transposed, LlmError *err)
{
	Product p = {.s = s, .w = w, .transposed = transposed};

	p.inner = transposed ? e->N : e->K;
	p.columns = transposed ? e->K : e->N;
	p.panels = llm_ceil_div(p.columns, LLM_PANEL);
	if (p.inner == 0)
		return llm_fill(e->pairs * p.columns, 0, s->out, err);
	if ((int64_t) p.panels * e->E > INT32_MAX)
		return llm_fail(
			err, LLM_LIMIT, "expert_matmul: %d experts of %d columns are too many", e->E, p.columns);
	return llm_parallel(p.panels * e->E, panel_task, &p, err);
}

LlmCode
llm_expert_matmul(const LlmExperts *e, const float *x, const int32_t *ids, const float *w, float *out,
	const LlmAllocator *memory, LlmError *err)
{
	Sorted s;
	LlmCode code = open_sorted(e, ids, e->K, e->N, &s, memory, err);

	if (code == LLM_OK)
		code = llm_gather_rows(e->pairs, s.rows, e->K, x, s.in, err);
	if (code == LLM_OK)
		code = multiply(e, &s, w, false, err);
	if (code == LLM_OK)
		code = llm_gather_rows(e->pairs, s.places, e->N, s.out, out, err);
	return close_sorted(&s, code, memory);
}

/* ---- gradients ---- */

typedef struct Sums
{
	const LlmExperts *e;
	const Sorted *s;
	float *dx;
} Sums;

/* The gradient of a row of x: its pairs' contributions, added in order. */
static void
row_task(void *context, size_t row, int worker)
{
	const Sums *sums = context;
	size_t K = sums->e->K, pair = row * sums->e->per_row;
	float *dx = sums->dx + row * K;

	(void) worker;
	memcpy(dx, sums->s->out + sums->s->places[pair] * K, K * sizeof(float));
	for (int j = 1; j < sums->e->per_row; j++)
		llm_kernels->binary(LLM_ADD, K, dx, 1, sums->s->out + sums->s->places[pair + j] * K, 1, dx);
}

/* dx, of x's shape, from dy (pairs,N). */
static LlmCode
expert_dx(const LlmExperts *e, const int32_t *ids, const float *w, const float *dy, float *dx,
	const LlmAllocator *memory, LlmError *err)
{
	Sorted s;
	Sums sums = {e, &s, dx};
	LlmCode code = open_sorted(e, ids, e->N, e->K, &s, memory, err);

	if (code == LLM_OK)
		code = llm_gather_rows(e->pairs, s.pairs, e->N, dy, s.in, err);
	if (code == LLM_OK)
		code = multiply(e, &s, w, true, err);
	if (code == LLM_OK && e->K > 0)
		code = llm_each_row(e->pairs / e->per_row, (size_t) e->K * e->per_row, row_task, &sums, err);
	return close_sorted(&s, code, memory);
}

/* Adds to dw (E,K,N). */
static LlmCode
expert_dw(const LlmExperts *e, const float *x, const int32_t *ids, const float *dy, float *dw,
	const LlmAllocator *memory, LlmError *err)
{
	size_t K = e->K, N = e->N;
	Sorted s;
	LlmCode code = open_sorted(e, ids, K, N, &s, memory, err);

	if (code == LLM_OK)
		code = llm_gather_rows(e->pairs, s.rows, K, x, s.in, err);
	if (code == LLM_OK)
		code = llm_gather_rows(e->pairs, s.pairs, N, dy, s.out, err);
	for (int i = 0; code == LLM_OK && i < e->E; i++)
		if (s.first[i + 1] > s.first[i])
			code = llm_matmul_dw(s.first[i + 1] - s.first[i], e->N, e->K, s.in + s.first[i] * K,
				s.out + s.first[i] * N, false, dw + i * K * N, memory, err);
	return close_sorted(&s, code, memory);
}

/* ---- shapes ---- */

LlmCode
llm_experts_of(const LlmOperand in[3], LlmExperts *e, LlmError *err)
{
	const LlmOperand *x = &in[0], *ids = &in[1], *w = &in[2];
	bool shared = x->ndim == ids->ndim;
	bool fits = w->ndim == 3 && ids->ndim > 0 && (shared || x->ndim == ids->ndim + 1);
	int64_t pairs = 1;

	for (int i = 0; fits && i < x->ndim - 1; i++)
		fits = x->dims[i] == ids->dims[i];
	if (!fits || x->dims[x->ndim - 1] != w->dims[1])
	{
		llm_fail(err, LLM_SHAPE, "expert_matmul: x %s, ids %s and w %s do not fit",
			llm_shape_text(x->ndim, x->dims).s, llm_shape_text(ids->ndim, ids->dims).s,
			llm_shape_text(w->ndim, w->dims).s);
		return llm_hint(err, "They are (…,K) or (…,k,K), (…,k) and (E,K,N): k experts for each row.");
	}
	for (int i = 0; i < ids->ndim; i++)
		pairs *= ids->dims[i];
	if (pairs > INT32_MAX)
		return llm_fail(err, LLM_LIMIT, "expert_matmul: %lld rows are too many at once", (long long) pairs);
	*e = (LlmExperts){.E = w->dims[0], .K = w->dims[1], .N = w->dims[2], .pairs = pairs, .per_row = 1};
	if (shared)
		e->per_row = ids->dims[ids->ndim - 1];
	return LLM_OK;
}

LlmCode
llm_infer_expert_matmul(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_input_of(graph, node, 0), *ids = llm_input_of(graph, node, 1),
				  *w = llm_input_of(graph, node, 2);
	bool fits = ids->ndim > 0 && (x->ndim == ids->ndim || x->ndim == ids->ndim + 1);

	if (w->ndim != 3)
		return llm_infer_refuse(node, x, w, "the weights must be (E,K,N): a matrix for each expert", err);
	for (int i = 0; fits && i < x->ndim - 1; i++)
		fits = llm_dim_same(graph, &x->shape[i], &ids->shape[i]);
	if (!fits || ids->ndim == LLM_MAX_DIMS)
	{
		llm_infer_refuse(node, x, ids, "the ids must be one row of experts for each row", err);
		return llm_hint(err, "They are (…,K) or (…,k,K) and (…,k): k experts for each row.");
	}
	if (!llm_dim_same(graph, &x->shape[x->ndim - 1], &w->shape[1]))
		return llm_infer_refuse(node, x, w, "the last dimension must be that of the matrices' rows", err);
	llm_infer_copy_shape(node, ids);
	node->shape[node->ndim++] = w->shape[2];
	return LLM_OK;
}

/* A position's rows depend on its own row of x and its own experts. */
bool
llm_rows_expert_matmul(const LlmExec *exec, const LlmNode *node, int t)
{
	const LlmNode *nodes = exec->model->graph.nodes;
	int x = nodes[node->inputs[0]].ndim, ids = nodes[node->inputs[1]].ndim;

	return llm_t_axis_of(exec, node, 2) == -1 && llm_t_axis_of(exec, node, 0) == t &&
		   llm_t_axis_of(exec, node, 1) == t && t < (x == ids ? ids - 1 : ids);
}

/* ---- the operation ---- */

static LlmCode
experts_of(const LlmValue *in, LlmExperts *e, LlmError *err)
{
	LlmOperand operands[3];

	for (int i = 0; i < 3; i++)
		operands[i] = (LlmOperand){in[i].ndim, in[i].dims, NULL};
	return llm_experts_of(operands, e, err);
}

LlmCode
llm_forward_expert_matmul(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	Buffer *buffer;
	const int32_t *ids;
	LlmExperts e;
	LlmCode code = experts_of(in, &e, err);

	if (code == LLM_OK)
		code = llm_run_result(exec, index, err);
	if (code != LLM_OK)
		return code;
	ids = llm_ids_of(exec, &exec->model->graph.nodes[index], &in[1], e.E, &buffer, err);
	if (ids == NULL)
		return err->code;
	code =
		llm_expert_matmul(&e, in[0].floats, ids, in[2].floats, llm_result_of(exec, index), exec->memory, err);
	llm_buffer_drop(exec, buffer);
	return code;
}

static LlmCode
back_x(Back *b, const LlmExperts *e, const int32_t *ids, LlmError *err)
{
	Buffer *buffer;
	float *dx;
	LlmCode code;

	if (!llm_back_wants(b, 0))
		return LLM_OK;
	dx = llm_back_open(b, 0, true, &buffer, err);
	if (dx == NULL)
		return err->code;
	code = e->pairs ? expert_dx(e, ids, b->in[2].floats, b->dy, dx, b->exec->memory, err)
					: llm_fill(b->in[0].numel, 0, dx, err);
	return llm_back_close(b, 0, buffer, code, err);
}

static LlmCode
back_w(Back *b, const LlmExperts *e, const int32_t *ids, LlmError *err)
{
	Buffer *buffer;
	float *dw;
	LlmCode code;

	if (!llm_back_wants(b, 2))
		return LLM_OK;
	dw = llm_back_open(b, 2, false, &buffer, err);
	if (dw == NULL)
		return err->code;
	code = expert_dw(e, b->in[0].floats, ids, b->dy, dw, b->exec->memory, err);
	return llm_back_close(b, 2, buffer, code, err);
}

LlmCode
llm_backward_expert_matmul(Back *b, LlmError *err)
{
	Buffer *buffer;
	const int32_t *ids;
	LlmExperts e;
	LlmCode code = experts_of(b->in, &e, err);

	if (code != LLM_OK)
		return code;
	ids = llm_ids_of(b->exec, b->node, &b->in[1], e.E, &buffer, err);
	if (ids == NULL)
		return err->code;
	code = back_w(b, &e, ids, err);
	if (code == LLM_OK)
		code = back_x(b, &e, ids, err);
	llm_buffer_drop(b->exec, buffer);
	return code;
}
