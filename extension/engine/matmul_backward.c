/*
 * The two products of matmul's backward pass. The weight and its gradient are row-major or in the panels
 * that the forward pass reads; neither layout needs a second copy.
 */
#include "engine/partition.h"
#include "engine/gradients.h"
#include "engine/pool.h"

/*
 * Rows that a task packs, and rows multiplied between two prefetches: multiples of every register tile's
 * height (14, 6, 4, 1).
 */
#define ROWS 168
#define FEW_ROWS 84
/* Cache lines: of LLM_PANEL rows of a panel, and of the block that a task packs from them. */
#define PIECE_LINES (LLM_PANEL * LLM_PANEL / LLM_LINE)
#define BLOCK_LINES (LLM_BLOCK / LLM_PANEL * PIECE_LINES)
/*
 * Limits for the block of a gradient that is packed at once: its rows, and its elements, which stay in the
 * third-level cache.
 */
#define MAX_ROWS (12 * ROWS)
#define MAX_FLOATS (2 << 20)

/* ---- dx ---- */

/* dx = dy @ w^T: the layout of w, and the block of dy that is being multiplied. */
typedef struct Product
{
	int M, N, K;
	const float *dy;
	const float *plain, *panels; /* of w (K,N), one of the two */
	bool transposed;             /* plain is (N,K) */
	int row, m;                  /* rows of dy that are packed now */
	int first, n;                /* columns of dy that are packed now: rows of w^T */
	float *rows;                 /* for each block of columns all rows, as matmul_block reads them */
	float *sums;                 /* NULL, or (m,LLM_PANEL) per worker */
	float *dx;
} Product;

static void
pack_dy_task(void *context, int task, int worker)
{
	const Product *p = context;
	int pieces = llm_ceil_div(p->m, ROWS), n = task / pieces * LLM_BLOCK, row = task % pieces * ROWS;
	int nc = llm_min(p->n - n, LLM_BLOCK);

	(void) worker;
	llm_kernels->pack_rows(llm_min(p->m - row, ROWS), nc,
		p->dy + (size_t) (p->row + row) * p->N + p->first + n, p->N,
		p->rows + (size_t) n * p->m + (size_t) row * nc);
}

/* Packs out (nc,LLM_PANEL): the rows of w^T from n on, the columns from k on. */
static void
pack_weight(const Product *p, int n, int nc, int k, float *out)
{
	int columns = llm_min(p->K - k, LLM_PANEL);

	if (p->panels) /* a panel holds LLM_PANEL rows of w^T as its columns */
		for (int i = 0; i < nc; i += LLM_PANEL)
			llm_kernels->pack_panel_transposed(llm_min(nc - i, LLM_PANEL), columns,
				p->panels + ((size_t) ((n + i) / LLM_PANEL) * p->K + k) * LLM_PANEL, LLM_PANEL,
				out + i * LLM_PANEL);
	else if (p->transposed)
		llm_kernels->pack_panel(nc, columns, p->plain + (size_t) n * p->K + k, p->K, out);
	else
		llm_kernels->pack_panel_transposed(nc, columns, p->plain + (size_t) k * p->N + n, p->N, out);
}

/*
 * Prefetches the next block of the weight, which is on other pages of memory, while this one is multiplied:
 * `lines` cache lines from `first` on at a time, because memory serves only some requests at once. Inlined,
 * because GCC removes calls to a function whose only effect is a prefetch.
 */
static inline __attribute__((always_inline)) void
fetch_weight(const Product *p, int n, int k, int first, int lines)
{
	for (int line = first; p->panels && line < first + lines; line++)
	{
		int column = n + line / PIECE_LINES * LLM_PANEL;

		if (line < BLOCK_LINES && column < p->N)
			__builtin_prefetch(p->panels + ((size_t) (column / LLM_PANEL) * p->K + k) * LLM_PANEL +
								   line % PIECE_LINES * LLM_LINE,
				0, 2);
	}
}

/*
 * Computes LLM_PANEL columns of dx: each block of the weight is packed here and multiplied by all rows while
 * it is in the cache. If there are several blocks, their sums are kept contiguous until they are complete:
 * dx's own rows can be so far apart that they evict each other from the cache.
 */
static void
dx_task(void *context, int panel, int worker)
{
	const Product *p = context;
	int k = panel * LLM_PANEL, lines = llm_ceil_div(BLOCK_LINES, llm_ceil_div(p->m, FEW_ROWS));
	int columns = llm_min(p->K - k, LLM_PANEL);
	float block[LLM_BLOCK * LLM_PANEL], *dx = p->dx + (size_t) p->row * p->K + k;
	float *sums = p->sums ? p->sums + (size_t) worker * p->m * LLM_PANEL : dx;
	size_t ldo = p->sums ? LLM_PANEL : p->K;

	if (p->first > 0)
		llm_copy_columns(p->m, columns, dx, p->K, sums, LLM_PANEL);
	for (int n = 0; n < p->n && !llm_pool_stopping(worker); n += LLM_BLOCK)
	{
		int nc = llm_min(p->n - n, LLM_BLOCK);

		pack_weight(p, p->first + n, nc, k, block);
		for (int row = 0; row < p->m; row += FEW_ROWS)
		{
			fetch_weight(p, p->first + n + LLM_BLOCK, k, row / FEW_ROWS * lines, lines);
			llm_kernels->matmul_block(llm_min(p->m - row, FEW_ROWS), nc,
				p->rows + (size_t) n * p->m + (size_t) row * nc, block, sums + row * ldo, ldo, columns,
				p->first + n == 0);
		}
	}
	if (p->sums)
		llm_copy_columns(p->m, columns, sums, LLM_PANEL, dx, p->K);
}

/* Multiplies dy block by block: equal numbers of rows, and whole blocks of the dimension that is summed. */
static LlmCode
multiply(Product *p, const LlmAllocator *memory, LlmError *err)
{
	int rows, columns, sums = p->N > LLM_BLOCK ? llm_pool_threads() * LLM_PANEL : 0;
	size_t bytes;
	LlmCode code = LLM_OK;

	if (p->M == 0 || p->K == 0)
		return LLM_OK;
	if (p->N == 0)
		return llm_fill((size_t) p->M * p->K, 0, p->dx, err);
	rows = llm_ceil_div(llm_ceil_div(p->M, llm_ceil_div(p->M, MAX_ROWS)), FEW_ROWS) * FEW_ROWS;
	columns = llm_min(llm_ceil_div(p->N, LLM_BLOCK), MAX_FLOATS / (rows * LLM_BLOCK)) * LLM_BLOCK;
	bytes = (size_t) rows * (columns + sums) * sizeof(float);
	p->rows = memory->alloc(memory->context, bytes);
	if (p->rows == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "matmul: no memory for %zu MB of packed rows", bytes >> 20);
	p->sums = sums ? p->rows + (size_t) rows * columns : NULL;
	for (p->row = 0; code == LLM_OK && p->row < p->M; p->row += rows)
		for (p->first = 0; code == LLM_OK && p->first < p->N; p->first += columns)
		{
			p->m = llm_min(p->M - p->row, rows);
			p->n = llm_min(p->N - p->first, columns);
			code =
				llm_parallel(llm_ceil_div(p->n, LLM_BLOCK) * llm_ceil_div(p->m, ROWS), pack_dy_task, p, err);
			if (code == LLM_OK)
				code = llm_parallel(llm_ceil_div(p->K, LLM_PANEL), dx_task, p, err);
		}
	memory->release(memory->context, p->rows, bytes);
	return code;
}

LlmCode
llm_matmul_dx(int M, int N, int K, const float *dy, const float *w, bool transposed, float *dx,
	const LlmAllocator *memory, LlmError *err)
{
	Product p = {.M = M, .N = N, .K = K, .dy = dy, .plain = w, .transposed = transposed, .dx = dx};

	return multiply(&p, memory, err);
}

LlmCode
llm_matmul_dx_panels(int M, int N, int K, const float *dy, const float *panels, float *dx,
	const LlmAllocator *memory, LlmError *err)
{
	Product p = {.M = M, .N = N, .K = K, .dy = dy, .panels = panels, .dx = dx};

	return multiply(&p, memory, err);
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
		code = llm_matmul_columns(out_rows, out_columns, M, rows, out_rows, panels, dw, memory, err);
	memory->release(memory->context, panels, bytes);
	return code;
}

typedef struct Gradient
{
	int M, N, K;
	const float *x, *dy;
	float *rows; /* x^T packed: for each block of M its K rows, as matmul_block reads them */
	float *dw;   /* panels */
} Gradient;

static void
pack_rows_task(void *context, int task, int worker)
{
	const Gradient *g = context;
	int pieces = llm_ceil_div(g->K, ROWS), m = task / pieces * LLM_BLOCK, k = task % pieces * ROWS;
	int mc = llm_min(g->M - m, LLM_BLOCK);

	(void) worker;
	llm_kernels->pack_columns(llm_min(g->K - k, ROWS), mc, g->x + (size_t) m * g->K + k, g->K,
		g->rows + (size_t) m * g->K + (size_t) k * mc);
}

/* Computes one panel of dw, which stays in the second-level cache while all rows of x and dy are read. */
static void
panel_task(void *context, int panel, int worker)
{
	const Gradient *g = context;
	int n = llm_min(g->N - panel * LLM_PANEL, LLM_PANEL);
	float columns[LLM_BLOCK * LLM_PANEL];

	for (int m = 0; m < g->M && !llm_pool_stopping(worker); m += LLM_BLOCK)
	{
		int mc = llm_min(g->M - m, LLM_BLOCK);

		llm_kernels->pack_panel(mc, n, g->dy + (size_t) m * g->N + (size_t) panel * LLM_PANEL, g->N, columns);
		for (int k = 0; k < g->K && (k == 0 || !llm_pool_stopping(worker)); k += MAX_ROWS)
			llm_kernels->matmul_block(llm_min(g->K - k, MAX_ROWS), mc,
				g->rows + (size_t) m * g->K + (size_t) k * mc, columns,
				g->dw + ((size_t) panel * g->K + k) * LLM_PANEL, LLM_PANEL, n, false);
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
	code = llm_parallel(llm_ceil_div(M, LLM_BLOCK) * llm_ceil_div(K, ROWS), pack_rows_task, &g, err);
	if (code == LLM_OK)
		code = llm_parallel(llm_ceil_div(N, LLM_PANEL), panel_task, &g, err);
	memory->release(memory->context, g.rows, bytes);
	return code;
}
