/*
 * See matmul_ladder.h. This file is compiled without automatic vectorisation: the lower rungs show the speed
 * of one multiplication at a time.
 */
#include "engine/matmul_ladder.h"

#include <math.h>
#include <string.h>

#include "engine/pool.h"

#define ALWAYS static inline __attribute__((always_inline))
/*
 * Independent sums: a fused multiply-add has a latency of four cycles, two can start in each cycle, and
 * there are sixteen registers.
 */
#define ROWS 2
#define COLUMNS 4
/* Rows that the vector rung packs at a time. */
#define PACKED_ROWS 84
/* Rows, or blocks of a sum, between two polls of the stop function. */
#define FEW 4096

typedef struct Product
{
	int M, K, N;
	const float *a, *b, *panels;
	float *out;
} Product;

static const struct
{
	const char *name, *idea;
} rungs[LLM_RUNGS] = {
	{"naive", "three loops: each element of the result walks down a whole column of b"},
	{"blocked", "eight sums in registers at once, and 128 rows of a few columns of b stay in the cache for "
				"all rows of a"},
	{"packed", "b is copied beforehand into panels in the order of reading, so memory is read in one stream"},
	{"vector", "one instruction multiplies and adds 8 or 16 columns, with rows enough to fill the registers"},
	{"threads", "every core takes rows and panels of its own"},
};

const char *
llm_rung_name(LlmRung rung)
{
	return rungs[rung].name;
}

const char *
llm_rung_idea(LlmRung rung)
{
	return rungs[rung].idea;
}

int
llm_rung_find(const char *name)
{
	for (int i = 0; i < LLM_RUNGS; i++)
		if (strcmp(rungs[i].name, name) == 0)
			return i;
	return -1;
}

/* ---- one multiplication at a time ---- */

ALWAYS void
naive(const Product *p, int worker)
{
	int64_t blocks = 0;

	for (int i = 0; i < p->M; i++)
		for (int j = 0; j < p->N; j++)
		{
			float sum = 0;

			for (int k0 = 0; k0 < p->K; k0 += LLM_BLOCK)
			{
				int end = p->K - k0 < LLM_BLOCK ? p->K : k0 + LLM_BLOCK;
				float chain = 0;

				if (blocks++ % FEW == 0 && llm_pool_stopping(worker))
					return;
				for (int k = k0; k < end; k++)
					chain = fmaf(p->a[(size_t) i * p->K + k], p->b[(size_t) k * p->N + j], chain);
				sum = k0 == 0 ? chain : sum + chain;
			}
			p->out[(size_t) i * p->N + j] = sum;
		}
}

/* A block's sums for m rows and n columns at once; rows of b are ldb apart. */
ALWAYS void
small_tile(int m, int n, int kc, const float *a, size_t lda, const float *b, size_t ldb, float *out,
	size_t ldo, bool first)
{
	float acc[ROWS][COLUMNS] = {{0}};

	for (int k = 0; k < kc; k++)
		for (int i = 0; i < m; i++)
			for (int j = 0; j < n; j++)
				acc[i][j] = fmaf(a[i * lda + k], b[k * ldb + j], acc[i][j]);
	for (int i = 0; i < m; i++)
		for (int j = 0; j < n; j++)
			out[i * ldo + j] = first ? acc[i][j] : out[i * ldo + j] + acc[i][j];
}

/* A block of k for some columns (at most COLUMNS) and all rows. */
ALWAYS void
column_tile(const Product *p, int k0, int j0, int n, const float *b, size_t ldb, int worker)
{
	int kc = p->K - k0 < LLM_BLOCK ? p->K - k0 : LLM_BLOCK, i = 0;
	const float *a = p->a + k0;
	float *out = p->out + j0;

	if (n == COLUMNS)
		for (; i + ROWS <= p->M && (i % FEW || !llm_pool_stopping(worker)); i += ROWS)
			small_tile(ROWS, COLUMNS, kc, a + (size_t) i * p->K, p->K, b, ldb, out + (size_t) i * p->N, p->N,
				k0 == 0);
	for (; i < p->M && (i % FEW || !llm_pool_stopping(worker)); i++)
		for (int j = 0; j < n; j++)
			small_tile(1, 1, kc, a + (size_t) i * p->K, p->K, b + j, ldb, out + (size_t) i * p->N + j, p->N,
				k0 == 0);
}

ALWAYS void
blocked(const Product *p, int worker, bool packed)
{
	for (int k0 = 0; k0 < p->K; k0 += LLM_BLOCK)
		for (int j0 = 0; j0 < p->N && !llm_pool_stopping(worker); j0 += COLUMNS)
		{
			int n = p->N - j0 < COLUMNS ? p->N - j0 : COLUMNS, panel = j0 / LLM_PANEL;

			if (packed)
				column_tile(p, k0, j0, n,
					p->panels + ((size_t) panel * p->K + k0) * LLM_PANEL + j0 % LLM_PANEL, LLM_PANEL, worker);
			else
				column_tile(p, k0, j0, n, p->b + (size_t) k0 * p->N + j0, p->N, worker);
		}
}

/*
 * The same source compiled twice: for processors with the fused instruction, and for those on which fmaf is
 * a function call.
 */
#define LOWER_RUNGS(suffix, attribute)                                                                       \
	attribute static void naive##suffix(void *context, int task, int worker)                                 \
	{                                                                                                        \
		(void) task;                                                                                         \
		naive(context, worker);                                                                              \
	}                                                                                                        \
	attribute static void blocked##suffix(void *context, int task, int worker)                               \
	{                                                                                                        \
		(void) task;                                                                                         \
		blocked(context, worker, false);                                                                     \
	}                                                                                                        \
	attribute static void packed##suffix(void *context, int task, int worker)                                \
	{                                                                                                        \
		(void) task;                                                                                         \
		blocked(context, worker, true);                                                                      \
	}

LOWER_RUNGS(_any, )
#if defined(__x86_64__)
LOWER_RUNGS(_fma, __attribute__((target("fma"))))
#define LOWER(name) (llm_isa_best() >= LLM_ISA_AVX2 ? name##_fma : name##_any)
#else
#define LOWER(name) name##_any
#endif

/* ---- the kernels' own tiles, on one thread ---- */

static void
vector(void *context, int task, int worker)
{
	const Product *p = context;
	float rows[PACKED_ROWS * LLM_BLOCK];

	(void) task;
	for (int i = 0; i < p->M; i += PACKED_ROWS)
		for (int k = 0; k < p->K && !llm_pool_stopping(worker); k += LLM_BLOCK)
		{
			int m = p->M - i < PACKED_ROWS ? p->M - i : PACKED_ROWS;
			int kc = p->K - k < LLM_BLOCK ? p->K - k : LLM_BLOCK;

			llm_kernels->pack_rows(m, kc, p->a + (size_t) i * p->K + k, p->K, rows);
			for (int j = 0; j < p->N && !llm_pool_stopping(worker); j += LLM_PANEL)
				llm_kernels->matmul_block(m, kc, rows,
					p->panels + ((size_t) (j / LLM_PANEL) * p->K + k) * LLM_PANEL,
					p->out + (size_t) i * p->N + j, p->N, p->N - j < LLM_PANEL ? p->N - j : LLM_PANEL,
					k == 0);
		}
}

LlmCode
llm_rung_matmul(LlmRung rung, int M, int K, int N, const float *a, const float *b, const float *panels,
	float *out, const LlmAllocator *memory, LlmError *err)
{
	Product p = {M, K, N, a, b, panels, out};

	if (rung == LLM_RUNG_THREADS || M == 0 || N == 0 || K == 0)
		return llm_matmul_packed(M, N, K, a, K, panels, out, memory, err);
	return llm_parallel(1,
		rung == LLM_RUNG_NAIVE     ? LOWER(naive)
		: rung == LLM_RUNG_BLOCKED ? LOWER(blocked)
		: rung == LLM_RUNG_PACKED  ? LOWER(packed)
								   : vector,
		&p, err);
}
