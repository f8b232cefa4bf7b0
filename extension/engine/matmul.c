/*
 * Matrix products over the thread pool. A task is a block of rows (BLIS: MC) times a group of panels of
 * LLM_PANEL columns (BLIS: NR). For each block of k (BLIS: KC) it packs its rows once and multiplies them by
 * every panel of the group, whose slice stays in the first-level cache.
 */
#include <string.h>

#include "engine/quantized.h"
#include "engine/partition.h"
#include "engine/parallel.h"
#include "engine/pool.h"

/*
 * MAX_ROWS, MIN_ROWS: rows of a task, at most and, as long as more tasks are useful, at least; the packed
 * rows take at most 84 kB of stack. MAX_PANELS: panels of a task; with their block of the product they stay
 * in the second-level cache. MIN_BYTES: bytes of the weight that a task reads for a single row; fewer are
 * read faster than the next task is claimed.
 */
#define MAX_ROWS 168
#define MIN_ROWS 42
#define MAX_PANELS 24
#define MIN_BYTES 98304
/* Rows of b between two polls of the stop function, where nothing else polls: whole blocks. */
#define FEW_ROWS (64 * LLM_BLOCK)

typedef struct Product
{
	int M, N, K;
	int rows, row_blocks; /* rows of a task; number of such row blocks */
	int panels, group;    /* panels of b; panels of a task */
	const float *a;
	size_t lda;
	bool transpose_a, accumulate;
	const char *b; /* panels */
	LlmFormat format;
	size_t panel_bytes;
	const LlmStep *steps; /* fused steps, applied once a block is complete */
	int n_steps;
	float *out;
	float *sums; /* NULL, or (group,rows,LLM_PANEL) per worker */
} Product;

size_t
llm_packed_floats(int64_t K, int64_t N)
{
	return (size_t) ((N + LLM_PANEL - 1) / LLM_PANEL * LLM_PANEL * K);
}

static int
columns(const Product *p, int panel)
{
	int left = p->N - panel * LLM_PANEL;

	return left < LLM_PANEL ? left : LLM_PANEL;
}

/* A panel's rows from k (a multiple of LLM_BLOCK) on. */
static const void *
block_at(const Product *p, int panel, int k)
{
	return p->b + panel * p->panel_bytes + llm_format_bytes(p->format, k, LLM_PANEL);
}

/* Applies the fused steps to rows of a panel that are complete and still in the cache. */
static void
take_steps(const Product *p, int row, int m, int panel, int n)
{
	size_t column = (size_t) panel * LLM_PANEL;

	if (p->n_steps > 0)
		llm_kernels->steps(
			p->steps, p->n_steps, row, column, m, n, p->out + (size_t) row * p->N + column, p->N);
}

static void
one_row(const Product *p, int first, int last, int worker)
{
	int step = p->format == LLM_FLOAT32 ? 2 : 1;

	for (int panel = first; panel < last && !llm_pool_stopping(worker); panel += step)
	{
		int side_by_side = last - panel < step ? 1 : step;
		float sums[2 * LLM_PANEL];
		int n = (side_by_side - 1) * LLM_PANEL + columns(p, panel + side_by_side - 1);

		for (int k = 0; k < p->K && (k % FEW_ROWS || k == 0 || !llm_pool_stopping(worker)); k += LLM_BLOCK)
		{
			int kc = p->K - k < LLM_BLOCK ? p->K - k : LLM_BLOCK;
			const void *b = block_at(p, panel, k);

			if (p->format == LLM_FLOAT32)
				llm_kernels->matvec_block(
					kc, p->a + k, b, p->panel_bytes / sizeof(float), side_by_side, sums, k == 0);
			else
				llm_kernels->matvec[p->format](kc, p->a + k, b, sums, k == 0);
		}
		memcpy(p->out + (size_t) panel * LLM_PANEL, sums, n * sizeof(float));
	}
	take_steps(p, 0, 1, first, (last - 1 - first) * LLM_PANEL + columns(p, last - 1));
}

/* The block as floats, widened into scratch if the format is compact. */
static const float *
floats_at(const Product *p, int panel, int k, int kc, float *scratch)
{
	const void *block = block_at(p, panel, k);

	if (p->format == LLM_FLOAT32)
		return block;
	llm_kernels->widen[p->format](kc, block, scratch);
	return scratch;
}

/* The block to be multiplied after this one. */
static const float *
next_block(const Product *p, int first, int last, int panel, int k)
{
	if (panel + 1 < last)
		return block_at(p, panel + 1, k);
	return block_at(p, first, p->K - k > LLM_BLOCK ? k + LLM_BLOCK : 0);
}

/*
 * If there is more than one block to add, sums are kept contiguous until they are complete: rows of the
 * product can be so far apart that they evict each other from the cache.
 */
static void
product_task(void *context, int task, int worker)
{
	const Product *p = context;
	/* consecutive tasks share their panels, which are then read from memory once */
	int row = task % p->row_blocks * p->rows, first = task / p->row_blocks * p->group;
	int last = first + p->group < p->panels ? first + p->group : p->panels;
	int m = p->M - row < p->rows ? p->M - row : p->rows;
	float rows[MAX_ROWS * LLM_BLOCK], wide[LLM_BLOCK * LLM_PANEL];

	if (p->M == 1 && !p->transpose_a && !p->accumulate)
	{
		one_row(p, first, last, worker);
		return;
	}
	for (int k = 0; k < p->K && !llm_pool_stopping(worker); k += LLM_BLOCK)
	{
		int kc = p->K - k < LLM_BLOCK ? p->K - k : LLM_BLOCK;

		if (p->transpose_a)
			llm_kernels->pack_columns(m, kc, p->a + k * p->lda + row, p->lda, rows);
		else
			llm_kernels->pack_rows(m, kc, p->a + row * p->lda + k, p->lda, rows);
		for (int panel = first; panel < last && !llm_pool_stopping(worker); panel++)
		{
			int n = columns(p, panel);
			float *out = p->out + (size_t) row * p->N + (size_t) panel * LLM_PANEL, *to = out;
			size_t ldo = p->N;

			if (p->sums)
			{
				to = p->sums + ((size_t) worker * p->group + panel - first) * p->rows * LLM_PANEL;
				ldo = LLM_PANEL;
				if (k == 0 && p->accumulate)
					llm_copy_columns(m, n, out, p->N, to, ldo);
			}
			llm_kernels->matmul_block_next(m, kc, rows, floats_at(p, panel, k, kc, wide),
				next_block(p, first, last, panel, k), to, ldo, n, k == 0 && !p->accumulate);
			if (k + kc < p->K)
				continue;
			if (p->sums)
				llm_copy_columns(m, n, to, ldo, out, p->N);
			take_steps(p, row, m, panel, n);
		}
	}
}

/*
 * Splits the product into tasks: enough of them that no thread waits for another, each with enough panels
 * that packing its rows is cheap.
 */
static void
partition(Product *p)
{
	int wanted = llm_pool_threads() * 4, tile = llm_kernels->tile_rows;
	int64_t group;

	p->panels = llm_ceil_div(p->N, LLM_PANEL);
	p->panel_bytes = llm_format_bytes(p->format, p->K, LLM_PANEL);
	p->row_blocks = llm_ceil_div(p->M, MAX_ROWS);
	while (p->M / (p->row_blocks + 1) >= MIN_ROWS &&
		   (int64_t) p->panels * p->row_blocks / wanted < MAX_PANELS / 2)
		p->row_blocks++;
	p->rows = llm_ceil_div(llm_ceil_div(p->M, p->row_blocks), tile) * tile; /* no tile is split */
	p->row_blocks = llm_ceil_div(p->M, p->rows);
	group = (int64_t) p->panels * p->row_blocks / wanted;
	while (p->M == 1 && group < MAX_PANELS && (size_t) group * p->panel_bytes < MIN_BYTES)
		group++;
	p->group = group < 2 ? 2 : group > MAX_PANELS ? MAX_PANELS : (int) group & ~1;
}

static LlmCode
multiply(Product *p, const LlmAllocator *memory, LlmError *err)
{
	size_t bytes = 0;
	LlmCode code;

	if (p->M == 0 || p->N == 0)
		return LLM_OK;
	if (p->K == 0)
	{
		code = p->accumulate ? LLM_OK : llm_fill((size_t) p->M * p->N, 0, p->out, err);
		for (int row = 0; code == LLM_OK && p->n_steps > 0 && row < p->M; row++)
		{
			llm_kernels->steps(p->steps, p->n_steps, row, 0, 1, p->N, p->out + (size_t) row * p->N, p->N);
			code = llm_poll(err);
		}
		return code;
	}
	partition(p);
	if (p->M > 1 && p->K > LLM_BLOCK)
	{
		bytes = (size_t) llm_pool_threads() * p->group * p->rows * LLM_PANEL * sizeof(float);
		p->sums = memory->alloc(memory->context, bytes);
		if (p->sums == NULL)
			return llm_fail(err, LLM_NO_MEMORY, "matmul: no memory for %zu kB of sums", bytes >> 10);
	}
	code = llm_parallel(p->row_blocks * llm_ceil_div(p->panels, p->group), product_task, p, err);
	if (p->sums)
		memory->release(memory->context, p->sums, bytes);
	return code;
}

LlmCode
llm_matmul_packed(int M, int N, int K, const float *a, size_t lda, const float *panels, float *out,
	const LlmAllocator *memory, LlmError *err)
{
	return llm_matmul_compact(LLM_FLOAT32, M, N, K, a, lda, panels, out, memory, err);
}

LlmCode
llm_matmul_compact(LlmFormat format, int M, int N, int K, const float *a, size_t lda, const void *panels,
	float *out, const LlmAllocator *memory, LlmError *err)
{
	return llm_matmul_steps(format, M, N, K, a, lda, panels, 0, NULL, out, memory, err);
}

LlmCode
llm_matmul_steps(LlmFormat format, int M, int N, int K, const float *a, size_t lda, const void *panels,
	int n_steps, const LlmStep *steps, float *out, const LlmAllocator *memory, LlmError *err)
{
	Product p = {.M = M,
		.N = N,
		.K = K,
		.a = a,
		.lda = lda,
		.b = panels,
		.format = format,
		.steps = steps,
		.n_steps = n_steps,
		.out = out};

	return multiply(&p, memory, err);
}

LlmCode
llm_matmul_columns(int M, int N, int K, const float *a, size_t lda, const float *panels, float *out,
	const LlmAllocator *memory, LlmError *err)
{
	Product p = {.M = M,
		.N = N,
		.K = K,
		.a = a,
		.lda = lda,
		.b = (const char *) panels,
		.out = out,
		.transpose_a = true,
		.accumulate = true};

	return multiply(&p, memory, err);
}

typedef struct Packing
{
	int K, N;
	const float *b;
	bool transposed;
	float *panels;
} Packing;

static void
pack_task(void *context, int panel, int worker)
{
	const Packing *p = context;
	int n = p->N - panel * LLM_PANEL < LLM_PANEL ? p->N - panel * LLM_PANEL : LLM_PANEL;
	float *out = p->panels + (size_t) panel * p->K * LLM_PANEL;

	for (int k = 0; k < p->K && !llm_pool_stopping(worker); k += FEW_ROWS)
	{
		int rows = p->K - k < FEW_ROWS ? p->K - k : FEW_ROWS;

		if (p->transposed)
			llm_kernels->pack_panel_transposed(
				rows, n, p->b + (size_t) panel * LLM_PANEL * p->K + k, p->K, out + (size_t) k * LLM_PANEL);
		else
			llm_kernels->pack_panel(rows, n, p->b + (size_t) k * p->N + (size_t) panel * LLM_PANEL, p->N,
				out + (size_t) k * LLM_PANEL);
	}
}

LlmCode
llm_pack(int K, int N, const float *b, bool transposed, float *panels, LlmError *err)
{
	Packing p = {K, N, b, transposed, panels};

	return llm_parallel(llm_ceil_div(N, LLM_PANEL), pack_task, &p, err);
}

LlmCode
llm_matmul(int M, int N, int K, const float *a, const float *b, bool transpose_b, float *out,
	const LlmAllocator *memory, LlmError *err)
{
	size_t size = llm_packed_floats(K, N) * sizeof(float);
	float *panels;
	LlmCode code;

	if (size == 0)
		return llm_matmul_packed(M, N, K, a, K, NULL, out, memory, err);
	panels = memory->alloc(memory->context, size);
	if (panels == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "matmul: no memory for %zu MB of packed columns", size >> 20);
	code = llm_pack(K, N, b, transpose_b, panels, err);
	if (code == LLM_OK)
		code = llm_matmul_packed(M, N, K, a, K, panels, out, memory, err);
	memory->release(memory->context, panels, size);
	return code;
}
