/*
 * The two products of a matmul's way back. The weight comes, and its gradient goes, row-major or in the
 * panels that the forward reads: either way the other operand is packed some rows at a time, so that neither
 * a second copy of a weight nor one of its gradient is ever made.
 */
#include <string.h>

#include "engine/gradients.h"
#include "engine/pool.h"

/* Floats of a stripe of packed weight, about: they stay in the third-level cache. */
#define STRIPE ((size_t) 1 << 20)
/* Rows packed by a task: a multiple of every register tile's height (14, 6, 4, 1). */
#define ROWS 168

/* ceil(n / width), without n + width, which an int may not hold */
static int
parts(int n, int width)
{
	return n / width + (n % width != 0);
}

static int
least(int a, int b)
{
	return a < b ? a : b;
}

/* ---- dx ---- */

/* What dx = dy @ w^T reads: w as it is, (K,N) or (N,K), or its panels. */
typedef struct Weight
{
	int N, K;
	const float *plain, *panels; /* one of the two */
	bool transposed;             /* plain is (N,K) */
	int first, rows;             /* of w^T (N,K), now to be packed */
	float *stripe;               /* [ceil(K/LLM_PANEL)][rows][LLM_PANEL] */
} Weight;

static void
pack_stripe_task(void *context, int panel, int worker)
{
	const Weight *w = context;
	int k = panel * LLM_PANEL, n = least(w->K - k, LLM_PANEL);
	float *to = w->stripe + (size_t) panel * w->rows * LLM_PANEL;

	(void) worker;
	if (w->panels) /* a panel holds LLM_PANEL rows of w^T, side by side */
		for (int i = 0; i < w->rows; i += LLM_PANEL)
			llm_kernels->pack_panel_transposed(least(w->rows - i, LLM_PANEL), n,
				w->panels + ((size_t) ((w->first + i) / LLM_PANEL) * w->K + k) * LLM_PANEL, LLM_PANEL,
				to + (size_t) i * LLM_PANEL);
	else if (w->transposed)
		llm_kernels->pack_panel(w->rows, n, w->plain + (size_t) w->first * w->K + k, w->K, to);
	else
		llm_kernels->pack_panel_transposed(w->rows, n, w->plain + (size_t) k * w->N + w->first, w->N, to);
}

/* Stripe by stripe of the rows that are summed over, each a whole number of blocks: the order of additions is
 * that of one product. */
static LlmCode
stripes(int M, const float *dy, Weight *w, float *dx, const LlmAllocator *memory, LlmError *err)
{
	int panels = parts(w->K, LLM_PANEL), most;
	size_t bytes;
	LlmCode code = LLM_OK;

	if (M == 0 || w->K == 0)
		return LLM_OK;
	if (w->N == 0)
	{
		memset(dx, 0, (size_t) M * w->K * sizeof(float));
		return LLM_OK;
	}
	most = (int) (STRIPE / ((size_t) panels * LLM_PANEL * LLM_BLOCK));
	most = least(parts(w->N, LLM_BLOCK), most ? most : 1);
	bytes = (size_t) most * LLM_BLOCK * panels * LLM_PANEL * sizeof(float);
	w->stripe = memory->alloc(memory->context, bytes);
	if (w->stripe == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "matmul: no memory for %zu MB of packed weights", bytes >> 20);
	for (; code == LLM_OK && w->first < w->N; w->first += w->rows)
	{
		w->rows = least(w->N - w->first, most * LLM_BLOCK);
		code = llm_parallel(panels, pack_stripe_task, w, err);
		if (code == LLM_OK)
			code = (w->first ? llm_matmul_add : llm_matmul_packed)(
				M, w->K, w->rows, dy + w->first, w->N, w->stripe, dx, err);
	}
	memory->release(memory->context, w->stripe, bytes);
	return code;
}

LlmCode
llm_matmul_dx(int M, int N, int K, const float *dy, const float *w, bool transposed, float *dx,
	const LlmAllocator *memory, LlmError *err)
{
	Weight weight = {.N = N, .K = K, .plain = w, .transposed = transposed};

	return stripes(M, dy, &weight, dx, memory, err);
}

LlmCode
llm_matmul_dx_panels(int M, int N, int K, const float *dy, const float *panels, float *dx,
	const LlmAllocator *memory, LlmError *err)
{
	Weight weight = {.N = N, .K = K, .panels = panels};

	return stripes(M, dy, &weight, dx, memory, err);
}

/* ---- dw ---- */

LlmCode
llm_matmul_dw(int M, int N, int K, const float *x, const float *dy, bool transposed, float *dw,
	const LlmAllocator *memory, LlmError *err)
{
	const float *rows = transposed ? dy : x, *columns = transposed ? x : dy;
	int out_rows = transposed ? N : K, out_columns = transposed ? K : N;
	size_t bytes = llm_packed_floats(M, out_columns) * sizeof(float);
	float *panels;
	LlmCode code;

	if (bytes == 0 || out_rows == 0)
		return LLM_OK;
	panels = memory->alloc(memory->context, bytes);
	if (panels == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "matmul: no memory for %zu MB of packed gradients", bytes >> 20);
	code = llm_pack(M, out_columns, columns, false, panels, err);
	if (code == LLM_OK)
		code = llm_matmul_columns(out_rows, out_columns, M, rows, out_rows, panels, dw, err);
	memory->release(memory->context, panels, bytes);
	return code;
}

typedef struct Gradient
{
	int M, N, K;
	const float *x, *dy;
	float *rows; /* x^T packed: per block of M its K rows, as matmul_block reads them */
	float *dw;   /* panels */
} Gradient;

static void
pack_rows_task(void *context, int task, int worker)
{
	const Gradient *g = context;
	int pieces = parts(g->K, ROWS), m = task / pieces * LLM_BLOCK, k = task % pieces * ROWS;
	int mc = least(g->M - m, LLM_BLOCK);

	(void) worker;
	llm_kernels->pack_columns(least(g->K - k, ROWS), mc, g->x + (size_t) m * g->K + k, g->K,
		g->rows + (size_t) m * g->K + (size_t) k * mc);
}

/* One panel of dw stays in the second-level cache while all rows of x and dy pass. */
static void
panel_task(void *context, int panel, int worker)
{
	const Gradient *g = context;
	int n = least(g->N - panel * LLM_PANEL, LLM_PANEL);
	float columns[LLM_BLOCK * LLM_PANEL];

	for (int m = 0; m < g->M && !llm_pool_stopping(worker); m += LLM_BLOCK)
	{
		int mc = least(g->M - m, LLM_BLOCK);

		llm_kernels->pack_panel(mc, n, g->dy + (size_t) m * g->N + (size_t) panel * LLM_PANEL, g->N, columns);
		llm_kernels->matmul_block(g->K, mc, g->rows + (size_t) m * g->K, columns,
			g->dw + (size_t) panel * g->K * LLM_PANEL, LLM_PANEL, n, false);
	}
}

LlmCode
llm_matmul_dw_panels(int M, int N, int K, const float *x, const float *dy, float *panels,
	const LlmAllocator *memory, LlmError *err)
{
	Gradient g = {.M = M, .N = N, .K = K, .x = x, .dy = dy, .dw = panels};
	size_t bytes = (size_t) M * K * sizeof(float);
	LlmCode code;

	if (bytes == 0 || N == 0)
		return LLM_OK;
	g.rows = memory->alloc(memory->context, bytes);
	if (g.rows == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "matmul: no memory for %zu MB of packed rows", bytes >> 20);
	code = llm_parallel(parts(M, LLM_BLOCK) * parts(K, ROWS), pack_rows_task, &g, err);
	if (code == LLM_OK)
		code = llm_parallel(parts(N, LLM_PANEL), panel_task, &g, err);
	memory->release(memory->context, g.rows, bytes);
	return code;
}
