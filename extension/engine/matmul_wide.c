/*
 * A product of many rows: all of them are packed first, then each panel of the weight meets them all, so that
 * a weight larger than the caches comes from memory once. Few rows, or few panels for the threads, go the
 * other way (matmul.c), which needs no memory.
 */
#include "engine/compact.h"
#include "engine/ops.h"
#include "engine/pool.h"

/* Rows packed by a task: a multiple of every register tile's height (14, 6, 4, 1). */
#define ROWS 168
/* Fewer rows than this are not worth their packing; packed, the most take so many floats. */
#define LEAST_ROWS 112
#define MOST_FLOATS ((size_t) 2 << 20)

typedef struct Product
{
	int M, N, K;
	const float *a;
	size_t lda;
	LlmFormat format;
	const char *panels;
	int first, m; /* the rows packed now */
	float *rows;  /* per block of K all of them, as matmul_block reads them */
	const LlmStep *steps;
	int n_steps;
	float *out;
} Product;

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

static void
pack_task(void *context, int task, int worker)
{
	const Product *p = context;
	int pieces = parts(p->m, ROWS), k = task / pieces * LLM_BLOCK, row = task % pieces * ROWS;
	int kc = least(p->K - k, LLM_BLOCK);

	(void) worker;
	llm_kernels->pack_rows(least(p->m - row, ROWS), kc, p->a + (size_t) (p->first + row) * p->lda + k, p->lda,
		p->rows + (size_t) k * p->m + (size_t) row * kc);
}

static void
panel_task(void *context, int panel, int worker)
{
	const Product *p = context;
	size_t column = (size_t) panel * LLM_PANEL;
	int n = least(p->N - panel * LLM_PANEL, LLM_PANEL);
	const char *from = p->panels + panel * llm_format_bytes(p->format, p->K, LLM_PANEL);
	float *out = p->out + (size_t) p->first * p->N + column, wide[LLM_BLOCK * LLM_PANEL];

	for (int k = 0; k < p->K && !llm_pool_stopping(worker); k += LLM_BLOCK)
	{
		int kc = least(p->K - k, LLM_BLOCK);
		const void *block = from + llm_format_bytes(p->format, k, LLM_PANEL);

		if (p->format != LLM_FLOAT32)
			llm_kernels->widen[p->format](kc, block, wide);
		llm_kernels->matmul_block(p->m, kc, p->rows + (size_t) k * p->m,
			p->format == LLM_FLOAT32 ? block : wide, out, p->N, n, k == 0);
	}
	if (p->n_steps > 0)
		llm_kernels->steps(p->steps, p->n_steps, p->first, column, p->m, n, out, p->N);
}

/* Rows that are packed together, of about the same number each time. */
static int
rows_at_once(int M, int K)
{
	int most = (int) (MOST_FLOATS / K) / ROWS * ROWS;

	if (most < ROWS)
		most = ROWS;
	return least(M, parts(parts(M, parts(M, most)), ROWS) * ROWS);
}

LlmCode
llm_matmul_wide(LlmFormat format, int M, int N, int K, const float *a, size_t lda, const void *panels,
	int n_steps, const LlmStep *steps, float *out, const LlmAllocator *memory, LlmError *err)
{
	Product p = {.M = M,
		.N = N,
		.K = K,
		.a = a,
		.lda = lda,
		.format = format,
		.panels = panels,
		.steps = steps,
		.n_steps = n_steps,
		.out = out};
	int most;
	size_t bytes;
	LlmCode code = LLM_OK;

	if (M < LEAST_ROWS || K == 0 || parts(N, LLM_PANEL) < 4 * llm_pool_threads())
		return llm_matmul_steps(format, M, N, K, a, lda, panels, n_steps, steps, out, err);
	most = rows_at_once(M, K);
	bytes = (size_t) most * K * sizeof(float);
	p.rows = memory->alloc(memory->context, bytes);
	if (p.rows == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "matmul: no memory for %zu MB of packed rows", bytes >> 20);
	for (; code == LLM_OK && p.first < M; p.first += p.m)
	{
		p.m = least(M - p.first, most);
		code = llm_parallel(parts(K, LLM_BLOCK) * parts(p.m, ROWS), pack_task, &p, err);
		if (code == LLM_OK)
			code = llm_parallel(parts(N, LLM_PANEL), panel_task, &p, err);
	}
	memory->release(memory->context, p.rows, bytes);
	return code;
}
