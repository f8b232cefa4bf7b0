/*
 * Elementwise and row operations over the pool.
 */
#include "engine/ops.h"
#include "engine/pool.h"

/* Elements per task: enough work to be worth a claim, little enough to cancel at once. */
#define GRAIN 16384

typedef struct Unary
{
	LlmUnary f;
	size_t n;
	const float *x;
	float *out;
} Unary;

static int
grains(size_t n)
{
	return (int) ((n + GRAIN - 1) / GRAIN);
}

static void
unary_task(void *context, int task, int worker)
{
	const Unary *u = context;
	size_t at = (size_t) task * GRAIN, n = u->n - at < GRAIN ? u->n - at : GRAIN;

	(void) worker;
	llm_kernels->unary(u->f, n, u->x + at, u->out + at);
}

LlmCode
llm_unary(LlmUnary f, size_t n, const float *x, float *out, LlmError *err)
{
	Unary u = {f, n, x, out};

	return llm_parallel(grains(n), unary_task, &u, err);
}

static void
canonicalize_task(void *context, int task, int worker)
{
	const Unary *u = context;
	size_t at = (size_t) task * GRAIN;

	(void) worker;
	llm_kernels->canonicalize(u->n - at < GRAIN ? u->n - at : GRAIN, u->out + at);
}

LlmCode
llm_canonicalize(size_t n, float *x, LlmError *err)
{
	Unary u = {.n = n, .out = x};

	return llm_parallel(grains(n), canonicalize_task, &u, err);
}

typedef struct Binary
{
	LlmBinary op;
	size_t outer, inner, rows; /* rows per task */
	const float *x, *y;
	bool x_rows, x_columns, y_rows, y_columns;
	float *out;
} Binary;

static void
binary_task(void *context, int task, int worker)
{
	const Binary *b = context;
	size_t from = task * b->rows, to = from + b->rows < b->outer ? from + b->rows : b->outer;
	size_t x_width = b->x_columns ? b->inner : 1, y_width = b->y_columns ? b->inner : 1;

	(void) worker;
	for (size_t row = from; row < to; row++)
		llm_kernels->binary(b->op, b->inner, b->x + (b->x_rows ? row * x_width : 0), b->x_columns,
			b->y + (b->y_rows ? row * y_width : 0), b->y_columns, b->out + row * b->inner);
}

LlmCode
llm_binary(LlmBinary op, size_t outer, size_t inner, const float *x, bool x_rows, bool x_columns,
	const float *y, bool y_rows, bool y_columns, float *out, LlmError *err)
{
	Binary b = {op, outer, inner, 1, x, y, x_rows, x_columns, y_rows, y_columns, out};

	if (outer == 0 || inner == 0)
		return LLM_OK;
	/* one long run is cut into rows of its own */
	if (outer == 1 && inner > GRAIN && x_columns && y_columns)
	{
		size_t whole = inner / GRAIN;
		Binary cut = {op, whole, GRAIN, 1, x, y, true, true, true, true, out};
		LlmCode code = llm_parallel((int) whole, binary_task, &cut, err);

		if (code == LLM_OK && whole * GRAIN < inner)
			llm_kernels->binary(
				op, inner - whole * GRAIN, x + whole * GRAIN, 1, y + whole * GRAIN, 1, out + whole * GRAIN);
		return code;
	}
	b.rows = inner < GRAIN ? GRAIN / inner : 1;
	return llm_parallel((int) ((outer + b.rows - 1) / b.rows), binary_task, &b, err);
}

typedef struct Rows
{
	size_t rows, n, grain;
	const float *x, *gamma, *beta;
	const int32_t *targets;
	float number;
	float *out;
} Rows;

static LlmCode
each_row(Rows *r, LlmTask task, LlmError *err)
{
	r->grain = r->n < GRAIN / 4 ? GRAIN / 4 / (r->n ? r->n : 1) : 1;
	return llm_parallel((int) ((r->rows + r->grain - 1) / r->grain), task, r, err);
}

#define ROWS_OF(r, task)                                                                                     \
	size_t row = (task) * (r)->grain;                                                                        \
	row < (r)->rows &&row < ((task) + 1) * (r)->grain;                                                       \
	row++

static void
layernorm_task(void *context, int task, int worker)
{
	const Rows *r = context;

	(void) worker;
	for (ROWS_OF(r, task))
		llm_kernels->layernorm(
			(int) r->n, r->x + row * r->n, r->gamma, r->beta, r->number, r->out + row * r->n);
}

LlmCode
llm_layernorm(size_t rows, int C, const float *x, const float *gamma, const float *beta, float eps,
	float *out, LlmError *err)
{
	Rows r = {.rows = rows, .n = C, .x = x, .gamma = gamma, .beta = beta, .number = eps, .out = out};

	return each_row(&r, layernorm_task, err);
}

static void
softmax_task(void *context, int task, int worker)
{
	const Rows *r = context;

	(void) worker;
	for (ROWS_OF(r, task))
		llm_kernels->softmax(r->n, 0, r->number, r->x + row * r->n, r->out + row * r->n);
}

LlmCode
llm_softmax(size_t rows, size_t n, float scale, const float *x, float *out, LlmError *err)
{
	Rows r = {.rows = rows, .n = n, .x = x, .number = scale, .out = out};

	return n == 0 ? LLM_OK : each_row(&r, softmax_task, err);
}

static void
cross_entropy_task(void *context, int task, int worker)
{
	const Rows *r = context;

	(void) worker;
	for (ROWS_OF(r, task))
		r->out[row] =
			r->targets[row] < 0 ? 0 : llm_kernels->cross_entropy(r->n, r->x + row * r->n, r->targets[row]);
}

LlmCode
llm_cross_entropy_rows(
	size_t rows, int V, const float *logits, const int32_t *targets, float *losses, LlmError *err)
{
	Rows r = {.rows = rows, .n = V, .x = logits, .targets = targets, .out = losses};

	return each_row(&r, cross_entropy_task, err);
}

float
llm_cross_entropy_mean(size_t rows, const int32_t *targets, const float *losses)
{
	size_t count = 0;

	for (size_t i = 0; i < rows; i++)
		count += targets[i] >= 0;
	return count ? (float) (llm_kernels->sum(rows, losses) / count) : 0;
}

LlmCode
llm_cross_entropy(size_t rows, int V, const float *logits, const int32_t *targets, float *losses, float *mean,
	LlmError *err)
{
	LlmCode code = llm_cross_entropy_rows(rows, V, logits, targets, losses, err);

	*mean = llm_cross_entropy_mean(rows, targets, losses);
	return code;
}
