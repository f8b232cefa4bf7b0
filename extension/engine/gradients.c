/*
 * See gradients.h: row-wise gradients over the thread pool.
 */
#include "engine/gradients.h"

#include <math.h>
#include <string.h>

#include "engine/partition.h"
#include "engine/pool.h"
#include "engine/rows.h"

/*
 * COLUMNS: columns per task of a sum over rows. ROWS: rows between two polls of the stop function, whole
 * blocks.
 */
#define COLUMNS 64
#define ROWS (8 * LLM_BLOCK)

typedef struct Work
{
	size_t m, n;
	LlmUnary f;
	float scalar;
	const float *x, *y, *dy, *gamma;
	const int32_t *ids;
	const LlmAdamW *h;
	float *dx, *a, *b, *stats, *zero;
} Work;

static LlmCode
each_column_block(Work *w, LlmTask task, LlmError *err)
{
	return llm_parallel((int) ((w->n + COLUMNS - 1) / COLUMNS), task, w, err);
}

/* ---- rows ---- */

static void
sum_rows_task(void *context, int task, int worker)
{
	Work *w = context;
	size_t from = (size_t) task * COLUMNS, n = w->n - from < COLUMNS ? w->n - from : COLUMNS;
	float partial[COLUMNS];

	for (size_t i = 0; i < w->m && !(i % ROWS == 0 && llm_pool_stopping(worker)); i += LLM_BLOCK)
	{
		size_t rows = w->m - i < LLM_BLOCK ? w->m - i : LLM_BLOCK;

		llm_kernels->sum_rows(rows, n, w->dy + i * w->n + from, w->n, partial);
		llm_kernels->binary(LLM_ADD, n, w->a + from, 1, partial, 1, w->a + from);
	}
}

LlmCode
llm_sum_rows_into(size_t m, size_t n, const float *dy, float *db, LlmError *err)
{
	Work w = {.m = m, .n = n, .dy = dy, .a = db};

	return each_column_block(&w, sum_rows_task, err);
}

static void
unary_task(void *context, int task, int worker)
{
	Work *w = context;
	size_t at = (size_t) task * LLM_TASK, n = w->n - at < LLM_TASK ? w->n - at : LLM_TASK;

	(void) worker;
	llm_kernels->unary_backward(w->f, n, w->x + at, w->y + at, w->dy + at, w->dx + at);
}

LlmCode
llm_unary_backward(
	LlmUnary f, size_t n, const float *x, const float *y, const float *dy, float *dx, LlmError *err)
{
	Work w = {.n = n, .f = f, .x = x, .y = y, .dy = dy, .dx = dx};

	return llm_parallel((int) ((n + LLM_TASK - 1) / LLM_TASK), unary_task, &w, err);
}

static void
softmax_task(void *context, size_t row, int worker)
{
	Work *w = context;

	llm_row_softmax_backward(
		worker, w->n, 0, w->scalar, w->y + row * w->n, w->dy + row * w->n, w->dx + row * w->n);
}

LlmCode
llm_softmax_backward(
	size_t rows, size_t n, float scale, const float *y, const float *dy, float *dx, LlmError *err)
{
	Work w = {.m = rows, .n = n, .scalar = scale, .y = y, .dy = dy, .dx = dx};

	return n == 0 ? LLM_OK : llm_each_row(rows, w.n, softmax_task, &w, err);
}

static void
layernorm_task(void *context, size_t row, int worker)
{
	Work *w = context;

	llm_row_layernorm_backward(worker, w->n, w->x + row * w->n, w->gamma, w->scalar, w->dy + row * w->n,
		w->dx + row * w->n, w->stats + 2 * row);
}

static void
layernorm_params_task(void *context, int task, int worker)
{
	Work *w = context;
	int from = task * COLUMNS, to = from + COLUMNS < (int) w->n ? from + COLUMNS : (int) w->n;

	for (size_t i = 0; i < w->m && !llm_pool_stopping(worker); i += ROWS)
		llm_kernels->layernorm_backward_params(llm_min(ROWS, w->m - i), (int) w->n, from, to, w->x + i * w->n,
			w->stats + 2 * i, w->dy + i * w->n, w->a, w->b);
}

LlmCode
llm_layernorm_params(size_t rows, int C, const float *x, const float *stats, const float *dy, float *dgamma,
	float *dbeta, LlmError *err)
{
	Work w = {.m = rows, .n = C, .x = x, .stats = (float *) stats, .dy = dy, .a = dgamma, .b = dbeta};

	return each_column_block(&w, layernorm_params_task, err);
}

LlmCode
llm_layernorm_backward(size_t rows, int C, const float *x, const float *gamma, float eps, const float *dy,
	float *dx, float *dgamma, float *dbeta, const LlmAllocator *memory, LlmError *err)
{
	Work w = {.m = rows, .n = C, .x = x, .gamma = gamma, .scalar = eps, .dy = dy, .dx = dx};
	size_t bytes = rows * 2 * sizeof(float);
	LlmCode code;

	if (rows == 0 || C == 0)
		return LLM_OK;
	w.stats = memory->alloc(memory->context, bytes);
	if (w.stats == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "layernorm: no memory for the statistics of %zu rows", rows);
	code = llm_each_row(rows, w.n, layernorm_task, &w, err);
	if (code == LLM_OK)
		code = llm_layernorm_params(rows, C, x, w.stats, dy, dgamma, dbeta, err);
	memory->release(memory->context, w.stats, bytes);
	return code;
}

static void
cross_entropy_task(void *context, size_t row, int worker)
{
	Work *w = context;

	if (w->ids[row] < 0)
		llm_row_zero(worker, w->n, w->dx + row * w->n);
	else
		llm_row_cross_entropy_backward(
			worker, w->n, w->x + row * w->n, w->ids[row], w->scalar, w->dx + row * w->n);
}

LlmCode
llm_cross_entropy_scale(size_t rows, const int32_t *targets, float dloss, float *scale, LlmError *err)
{
	size_t count;
	LlmCode code = llm_count_targets(rows, targets, &count, err);

	*scale = count ? (float) ((double) dloss / count) : 0;
	return code;
}

LlmCode
llm_cross_entropy_backward(size_t rows, int V, const float *logits, const int32_t *targets, float dloss,
	float *dlogits, LlmError *err)
{
	Work w = {.m = rows, .n = V, .x = logits, .ids = targets, .dx = dlogits};

	if (llm_cross_entropy_scale(rows, targets, dloss, &w.scalar, err) != LLM_OK)
		return err->code;
	return llm_each_row(rows, w.n, cross_entropy_task, &w, err);
}

static void
embedding_task(void *context, int task, int worker)
{
	Work *w = context;
	size_t from = (size_t) task * COLUMNS, n = w->n - from < COLUMNS ? w->n - from : COLUMNS;

	for (size_t i = 0; i < w->m && !(i % ROWS == 0 && llm_pool_stopping(worker)); i++)
	{
		float *row = w->a + (size_t) w->ids[i] * w->n + from;

		llm_kernels->binary(LLM_ADD, n, row, 1, w->dy + i * w->n + from, 1, row);
	}
}

LlmCode
llm_embedding_backward(size_t rows, int C, const int32_t *ids, const float *dy, float *dtable, LlmError *err)
{
	Work w = {.m = rows, .n = C, .ids = ids, .dy = dy, .a = dtable};

	return each_column_block(&w, embedding_task, err);
}

static void
embedding_panels_task(void *context, int task, int worker)
{
	Work *w = context;
	size_t from = (size_t) task * COLUMNS, to = from + COLUMNS < w->n ? from + COLUMNS : w->n;

	for (size_t i = 0; i < w->m && !(i % ROWS == 0 && llm_pool_stopping(worker)); i++)
	{
		float *column = w->a + (size_t) (w->ids[i] / LLM_PANEL) * w->n * LLM_PANEL + w->ids[i] % LLM_PANEL;

		for (size_t c = from; c < to; c++)
			column[c * LLM_PANEL] += w->dy[i * w->n + c];
	}
}

LlmCode
llm_embedding_backward_panels(
	size_t rows, int C, const int32_t *ids, const float *dy, float *panels, LlmError *err)
{
	Work w = {.m = rows, .n = C, .ids = ids, .dy = dy, .a = panels};

	return each_column_block(&w, embedding_panels_task, err);
}

/* ---- optimizer ---- */

static void
adamw_task(void *context, int task, int worker)
{
	Work *w = context;
	size_t at = (size_t) task * LLM_TASK, n = w->n - at < LLM_TASK ? w->n - at : LLM_TASK;

	(void) worker;
	llm_kernels->adamw(n, w->dx + at, w->dy + at, w->a + at, w->b + at, w->h);
	if (w->zero) /* zeroes the gradient while it is in the cache */
		memset(w->zero + at, 0, n * sizeof(float));
}

LlmCode
llm_adamw(size_t n, float *weight, const float *g, float *m, float *v, const LlmAdamW *h, LlmError *err)
{
	Work w = {.n = n, .dx = weight, .dy = g, .a = m, .b = v, .h = h};

	return llm_parallel((int) ((n + LLM_TASK - 1) / LLM_TASK), adamw_task, &w, err);
}

LlmCode
llm_adamw_and_zero(size_t n, float *weight, float *g, float *m, float *v, const LlmAdamW *h, LlmError *err)
{
	Work w = {.n = n, .dx = weight, .dy = g, .a = m, .b = v, .h = h, .zero = g};

	return llm_parallel((int) ((n + LLM_TASK - 1) / LLM_TASK), adamw_task, &w, err);
}

/* beta^step by squaring: multiplications only, hence the same result on every machine */
static double
power(double base, int64_t exponent)
{
	double result = 1;

	for (; exponent > 0; exponent >>= 1, base *= base)
		if (exponent & 1)
			result *= base;
	return result;
}

LlmAdamW
llm_adamw_scalars(
	double lr, double beta1, double beta2, double eps, double weight_decay, int64_t step, double grad_scale)
{
	return (LlmAdamW){.beta1 = (float) beta1,
		.one_minus_beta1 = (float) (1 - beta1),
		.beta2 = (float) beta2,
		.one_minus_beta2 = (float) (1 - beta2),
		.eps = (float) eps,
		.keep = (float) (1 - lr * weight_decay),
		.rate = (float) (lr / (1 - power(beta1, step))),
		.root = (float) sqrt(1 - power(beta2, step)),
		.grad_scale = (float) grad_scale};
}

/* cos(pi x), x in [0,1], by the Taylor series around the nearer end or the middle: no libm */
static double
cos_pi(double x)
{
	double a, z, c = 0;

	if (x > 0.5)
		return -cos_pi(1 - x);
	if (x > 0.25) /* cos(pi x) = sin(pi (1/2 - x)) */
	{
		a = (0.5 - x) * 3.14159265358979324;
		z = a * a;
		for (int k = 17; k >= 3; k -= 2)
			c = (c + 1) * (-z / (k * (k - 1)));
		return (c + 1) * a;
	}
	a = x * 3.14159265358979324;
	z = a * a;
	for (int k = 16; k >= 2; k -= 2)
		c = (c + 1) * (-z / (k * (k - 1)));
	return c + 1;
}

double
llm_lr_schedule(int64_t step, int64_t warmup, int64_t total, double lr_max, double lr_min)
{
	if (step < warmup)
		return lr_max * (double) step / (double) warmup;
	if (step >= total)
		return total - warmup > 1 ? lr_min : lr_max; /* one step after the warm-up has nothing to decay to */
	return lr_min +
		   (lr_max - lr_min) * 0.5 * (1 + cos_pi((double) (step - warmup) / (double) (total - warmup)));
}
