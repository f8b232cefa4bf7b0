/*
 * The kernels: arithmetic only. They never allocate, log, raise or start threads; the caller checks shapes,
 * passes scratch and splits the work. Each obeys the rules for the same bits (../kernels/README.md), so that
 * every instruction set gives the result of the plain reference in ../test/c/reference.h.
 *
 * Letters: B batch, T time, C channels, V vocabulary, L layers, NH heads, HS head size, OC output channels.
 * Row-major float32 everywhere; pointers need 4-byte alignment only.
 */
#ifndef LLM_KERNELS_H
#define LLM_KERNELS_H

#include "common/base.h"

/* Columns per packed panel (BLIS: NR): one width for all instruction sets, since packed copies are shared. */
#define LLM_PANEL 32
/* Length of one fused-multiply-add chain, the block of k (BLIS: KC); block sums are added in order. */
#define LLM_BLOCK 128
/* Floats per cache line, for prefetching. */
#define LLM_LINE 16
/* LLM_LANES: partial sums of a reduction. LLM_CHUNK: the longest array that one float32 reduction sums. */
#define LLM_LANES 16
#define LLM_CHUNK 4096

typedef enum LlmIsa
{
	LLM_ISA_SCALAR,
	LLM_ISA_AVX2,
	LLM_ISA_AVX512,
	LLM_ISA_COUNT
} LlmIsa;

/* How a packed matrix stores its elements (engine/quantized.h). */
typedef enum LlmFormat
{
	LLM_FLOAT32,
	LLM_BF16,
	LLM_INT8,
	LLM_FORMAT_COUNT
} LlmFormat;

typedef enum LlmUnary
{
	LLM_NEG,
	LLM_EXP,
	LLM_LOG,
	LLM_TANH,
	LLM_SQRT,
	LLM_RELU,
	LLM_ERF,
	LLM_GELU_TANH,
	LLM_GELU_ERF,
	LLM_ABS,
	LLM_SIGMOID,
	LLM_SILU,
	LLM_SIN,
	LLM_COS
} LlmUnary;

typedef enum LlmBinary
{
	LLM_ADD,
	LLM_SUB,
	LLM_MUL,
	LLM_DIV,
	LLM_MAX,
	LLM_GREATER /* 1 where x > y, else 0 */
} LlmBinary;

typedef enum LlmStepKind
{
	LLM_STEP_UNARY,
	LLM_STEP_BINARY,
	LLM_STEP_CANONICALIZE
} LlmStepKind;

/*
 * A fused step, applied to each element x of a product before it is written: f(x), or x op an element of
 * another array (or that op x), or every NaN replaced by the canonical one.
 */
typedef struct LlmStep
{
	LlmStepKind kind;
	LlmUnary f;
	LlmBinary op;
	bool other_first;
	const float *other;
	size_t row_stride; /* distance in `other` between rows; 0: one row for all */
	int column_stride; /* distance between columns: 0 or 1 */
} LlmStep;

/* The scalars of one AdamW step, each computed in float64 and rounded once. */
typedef struct LlmAdamW
{
	float beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
	float keep;       /* 1 - lr * weight_decay */
	float rate;       /* lr / (1 - beta1^step) */
	float root;       /* sqrt(1 - beta2^step) */
	float grad_scale; /* combines clipping and averaging */
} LlmAdamW;

typedef struct LlmKernels
{
	const char *name;

	/* Rows of one register tile (BLIS: MR). */
	int tile_rows;
	/* rows (m,kc) of a, row stride lda, in the order matmul_block reads: tiles of tile_rows rows, each
	 * [kc][rows]. */
	void (*pack_rows)(int m, int kc, const float *a, size_t lda, float *out);
	/*
	 * One block (kc <= LLM_BLOCK) of the matmul rule for one panel: out (m,n) = (first) or += the block's
	 * sums. rows: as packed by pack_rows (a single row needs no packing); n <= LLM_PANEL columns are
	 * written.
	 */
	void (*matmul_block)(
		int m, int kc, const float *rows, const float *panel, float *out, size_t ldo, int n, bool first);
	/* The same, and prefetches the block at `next`. */
	void (*matmul_block_next)(int m, int kc, const float *rows, const float *panel, const float *next,
		float *out, size_t ldo, int n, bool first);
	/* The causal edge, for one tile: row i uses the first kc - (tile_rows - 1 - i) elements along k. */
	void (*matmul_triangle)(
		int kc, const float *rows, const float *panel, float *out, size_t ldo, int n, bool first);
	/* As matmul_block, for one row and adjacent panels, panel_stride floats apart; out (panels*LLM_PANEL). */
	void (*matvec_block)(int kc, const float *row, const float *panel, size_t panel_stride, int panels,
		float *out, bool first);

	/* panel (k,LLM_PANEL) from b (k,n): rows ldb apart; missing columns (n < LLM_PANEL) are zero. */
	void (*pack_panel)(int k, int n, const float *b, size_t ldb, float *panel);
	/* the same from the transposed matrix: bt (n,k), rows ldb apart. */
	void (*pack_panel_transposed)(int k, int n, const float *bt, size_t ldb, float *panel);
	/*
	 * matmul_block for a panel whose element (k,j) is x[taps[k] + columns[j]], n ascending columns: read in
	 * place where vectors of columns are side by side in x.
	 */
	void (*matmul_gathered)(int m, int kc, const float *rows, const float *x, const size_t *taps,
		const size_t *columns, int n, float *out, size_t ldo, bool first);
	/*
	 * matmul_block for rows whose element (i,k) is x[taps[i] + places[k]], read in place. Whole panels are
	 * written: LLM_PANEL columns for each row of out, of which those from n on may be anything.
	 */
	void (*matmul_taps)(int m, int kc, const float *x, const size_t *taps, const size_t *places,
		const float *panel, float *out, size_t ldo, int n, bool first);

	/* out[i] = f(x[i]); out may be x */
	void (*unary)(LlmUnary f, size_t n, const float *x, float *out);
	/* out[i] = a[i * as] op b[i * bs], strides as, bs 0 (one value for all) or 1; out may be a or b */
	void (*binary)(LlmBinary op, size_t n, const float *a, int as, const float *b, int bs, float *out);

	/* out[i] = c[i * cs] is not 0 ? a[i * as] : b[i * bs]; strides as in binary; out may be any of them */
	void (*select)(
		size_t n, const float *c, int cs, const float *a, int as, const float *b, int bs, float *out);
	/* out[i] = x[i], but not less than low and not more than high; NaN is kept; out may be x */
	void (*clamp)(size_t n, float low, float high, const float *x, float *out);
	/* dx = dy where low <= x <= high, else 0; dx may be dy */
	void (*clamp_backward)(size_t n, float low, float high, const float *x, const float *dy, float *dx);

	/*
	 * Applies the steps to a block of m rows and n columns that begins at `row` and `column` of the product,
	 * which also locates the elements of `other`. out's rows are ldo apart.
	 */
	void (*steps)(
		const LlmStep *step, int count, size_t row, size_t column, int m, int n, float *out, size_t ldo);

	/* Sum of x, of x*x, of (x-shift)^2: sixteen partial sums, a fixed tree, chunks of 4096 added in float64.
	 */
	double (*sum)(size_t n, const float *x);
	double (*sum_squares)(size_t n, const float *x, float shift);
	/* Sum over rows: out (n) = sum of m rows of x, blocks of 128 rows, added in order. x rows ldx apart. */
	void (*sum_rows)(size_t m, size_t n, const float *x, size_t ldx, float *out);
	/* Largest element and its lowest index; NaN wins (its first index). n > 0. */
	float (*max)(size_t n, const float *x, size_t *index);

	/* out = softmax(x * scale) over n > 0 elements; first = absolute index of x[0] (partial sums are anchored
	 * at 0). */
	void (*softmax)(size_t n, size_t first, float scale, const float *x, float *out);
	/* -log softmax(logits)[target] = log(sum(exp(logits - max))) - (logits[target] - max); V > 0 */
	float (*cross_entropy)(size_t V, const float *logits, size_t target);
	/* out (C) = (x - mean) / sqrt(var + eps) * gamma + beta */
	void (*layernorm)(int C, const float *x, const float *gamma, const float *beta, float eps, float *out);
	/* Its last step, on a piece of a row: out = (x - mean) * rstd * gamma + beta */
	void (*normalize)(
		size_t n, float mean, float rstd, const float *x, const float *gamma, const float *beta, float *out);

	/* The same as pack_rows, for the transpose of a (kc,m), row stride lda. */
	void (*pack_columns)(int m, int kc, const float *a, size_t lda, float *out);

	/* dx = dy * f'(x), y = f(x); dx may be dy */
	void (*unary_backward)(LlmUnary f, size_t n, const float *x, const float *y, const float *dy, float *dx);
	/* sum(x * y); first as in softmax */
	double (*dot)(size_t n, size_t first, const float *x, const float *y);
	/* dx = y * (dy - sum(y * dy)) * scale; first as in softmax */
	void (*softmax_backward)(size_t n, size_t first, float scale, const float *y, const float *dy, float *dx);
	/* dlogits = (softmax(logits) - one at target) * scale */
	void (*cross_entropy_backward)(size_t V, const float *logits, size_t target, float scale, float *dlogits);
	/* dx of one row; stats gets its mean and 1/sqrt(var + eps) */
	void (*layernorm_backward)(
		int C, const float *x, const float *gamma, float eps, const float *dy, float *dx, float stats[2]);
	/*
	 * Its two steps, on a piece of a row that begins a chunk: with m = (x - mean) * rstd and d = dy * gamma,
	 * sums += sum(d), sum(d * m); then dx = (d - a - m * b) * rstd with their means a and b.
	 */
	void (*layernorm_sums)(size_t n, float mean, float rstd, const float *x, const float *gamma,
		const float *dy, double sums[2]);
	void (*layernorm_dx)(size_t n, float mean, float rstd, float a, float b, const float *x,
		const float *gamma, const float *dy, float *dx);
	/* dgamma and dbeta += the sums over m rows, columns from <= j < to; x, dy (m,C), stats (m,2) */
	void (*layernorm_backward_params)(size_t m, int C, int from, int to, const float *x, const float *stats,
		const float *dy, float *dgamma, float *dbeta);
	/* One step over n elements; updates w, m and v. */
	void (*adamw)(size_t n, float *w, const float *g, float *m, float *v, const LlmAdamW *h);

	/* Peak measurements (peak.h): burst_fma returns the operations done, burst_read reads memory. */
	double (*burst_fma)(size_t rounds, float *sink);
	float (*burst_read)(size_t n, const float *x);

	/* every NaN becomes 0x7fc00000 */
	void (*canonicalize)(size_t n, float *x);

	/* Indexed by format, NULL for float32. out (kc,LLM_PANEL) = the values of a compact block as floats. */
	void (*widen[LLM_FORMAT_COUNT])(int kc, const void *block, float *out);
	/* matvec_block over a compact block of one panel. */
	void (*matvec[LLM_FORMAT_COUNT])(int kc, const float *row, const void *block, float *out, bool first);
} LlmKernels;

extern const LlmKernels llm_kernels_scalar;
#if defined(__x86_64__)
extern const LlmKernels llm_kernels_avx2;
extern const LlmKernels llm_kernels_avx512;
#endif

/* The best level this CPU and operating system can run, and the table of a level (NULL: cannot run here). */
extern LlmIsa llm_isa_best(void);
extern const LlmKernels *llm_kernels_for(LlmIsa isa);
/* The table in use: llm_isa_best() until llm_set_isa. It changes between statements only. */
extern const LlmKernels *llm_kernels;
extern bool llm_set_isa(LlmIsa isa);

#endif
