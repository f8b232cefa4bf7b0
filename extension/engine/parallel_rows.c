/*
 * Elementwise and row operations over the thread pool.
 */
#include <string.h>

#include "engine/partition.h"
#include "engine/parallel.h"
#include "engine/pool.h"
#include "engine/rows.h"

typedef struct Move
{
	size_t rows, per_task; /* number of rows; rows of a task */
	size_t n, pieces;      /* elements of a row; pieces of it, more than one if it is long */
	const float *from;     /* NULL: fill with `value` */
	size_t from_row, to_row;
	float value, *to;
} Move;

static void
move_task(void *context, int task, int worker)
{
	const Move *m = context;
	size_t row = task / m->pieces * m->per_task, end = llm_min(row + m->per_task, m->rows);
	size_t at = task % m->pieces * LLM_TASK_MOVED, n = llm_min(m->n - at, LLM_TASK_MOVED);

	(void) worker;
	for (; row < end; row++)
	{
		float *to = m->to + row * m->to_row + at;

		if (m->from)
			memcpy(to, m->from + row * m->from_row + at, n * sizeof(float));
		else
			for (size_t i = 0; i < n; i++)
				to[i] = m->value;
	}
}

static LlmCode
move(Move *m, LlmError *err)
{
	if (m->rows == 0 || m->n == 0)
		return LLM_OK;
	m->pieces = (m->n + LLM_TASK_MOVED - 1) / LLM_TASK_MOVED;
	m->per_task = m->n < LLM_TASK_MOVED ? LLM_TASK_MOVED / m->n : 1;
	return llm_parallel((int) ((m->rows + m->per_task - 1) / m->per_task * m->pieces), move_task, m, err);
}

LlmCode
llm_copy_rows(
	size_t rows, size_t n, const float *from, size_t from_row, float *to, size_t to_row, LlmError *err)
{
	Move m = {.rows = rows, .n = n, .from = from, .from_row = from_row, .to = to, .to_row = to_row};

	return move(&m, err);
}

LlmCode
llm_copy(size_t n, const float *from, float *to, LlmError *err)
{
	return llm_copy_rows(1, n, from, 0, to, 0, err);
}

LlmCode
llm_fill(size_t n, float value, float *to, LlmError *err)
{
	Move m = {.rows = 1, .n = n, .value = value, .to = to};

	return move(&m, err);
}

typedef struct Unary
{
	LlmUnary f;
	size_t n;
	const float *x;
	float *out;
} Unary;

static int
tasks_of(size_t n)
{
	return (int) ((n + LLM_TASK - 1) / LLM_TASK);
}

static void
unary_task(void *context, int task, int worker)
{
	const Unary *u = context;
	size_t at = (size_t) task * LLM_TASK, n = u->n - at < LLM_TASK ? u->n - at : LLM_TASK;

	(void) worker;
	llm_kernels->unary(u->f, n, u->x + at, u->out + at);
}

LlmCode
llm_unary(LlmUnary f, size_t n, const float *x, float *out, LlmError *err)
{
	Unary u = {f, n, x, out};

	return llm_parallel(tasks_of(n), unary_task, &u, err);
}

static void
canonicalize_task(void *context, int task, int worker)
{
	const Unary *u = context;
	size_t at = (size_t) task * LLM_TASK;

	(void) worker;
	llm_kernels->canonicalize(u->n - at < LLM_TASK ? u->n - at : LLM_TASK, u->out + at);
}

LlmCode
llm_canonicalize(size_t n, float *x, LlmError *err)
{
	Unary u = {.n = n, .out = x};

	return llm_parallel(tasks_of(n), canonicalize_task, &u, err);
}

typedef struct Binary
{
	LlmBinary op;
	size_t outer, inner, rows; /* rows per task */
	size_t pieces;             /* pieces of a row, more than one if it is long */
	const float *x, *y;
	bool x_rows, x_columns, y_rows, y_columns;
	float *out;
} Binary;

static void
binary_task(void *context, int task, int worker)
{
	const Binary *b = context;
	size_t from = task / b->pieces * b->rows, to = llm_min(from + b->rows, b->outer);
	size_t at = task % b->pieces * LLM_TASK, n = llm_min(b->inner - at, LLM_TASK);
	size_t x_width = b->x_columns ? b->inner : 1, y_width = b->y_columns ? b->inner : 1;
	const float *x = b->x + (b->x_columns ? at : 0), *y = b->y + (b->y_columns ? at : 0);

	(void) worker;
	for (size_t row = from; row < to; row++)
		llm_kernels->binary(b->op, n, x + (b->x_rows ? row * x_width : 0), b->x_columns,
			y + (b->y_rows ? row * y_width : 0), b->y_columns, b->out + row * b->inner + at);
}

LlmCode
llm_binary(LlmBinary op, size_t outer, size_t inner, const float *x, bool x_rows, bool x_columns,
	const float *y, bool y_rows, bool y_columns, float *out, LlmError *err)
{
	Binary b = {op, outer, inner, 1, 1, x, y, x_rows, x_columns, y_rows, y_columns, out};

	if (outer == 0 || inner == 0)
		return LLM_OK;
	b.rows = inner < LLM_TASK ? LLM_TASK / inner : 1;
	b.pieces = (inner + LLM_TASK - 1) / LLM_TASK;
	return llm_parallel((int) ((outer + b.rows - 1) / b.rows * b.pieces), binary_task, &b, err);
}

typedef struct Rows
{
	size_t n;
	const float *x, *gamma, *beta;
	const int32_t *targets;
	float scalar;
	float *out;
} Rows;

static void
layernorm_task(void *context, size_t row, int worker)
{
	const Rows *r = context;

	llm_row_layernorm(worker, r->n, r->x + row * r->n, r->gamma, r->beta, r->scalar, r->out + row * r->n);
}

LlmCode
llm_layernorm(size_t rows, int C, const float *x, const float *gamma, const float *beta, float eps,
	float *out, LlmError *err)
{
	Rows r = {.n = C, .x = x, .gamma = gamma, .beta = beta, .scalar = eps, .out = out};

	return llm_each_row(rows, r.n, layernorm_task, &r, err);
}

static void
softmax_task(void *context, size_t row, int worker)
{
	const Rows *r = context;

	llm_row_softmax(worker, r->n, 0, r->scalar, r->x + row * r->n, r->out + row * r->n);
}

LlmCode
llm_softmax(size_t rows, size_t n, float scale, const float *x, float *out, LlmError *err)
{
	Rows r = {.n = n, .x = x, .scalar = scale, .out = out};

	return n == 0 ? LLM_OK : llm_each_row(rows, r.n, softmax_task, &r, err);
}

static void
cross_entropy_task(void *context, size_t row, int worker)
{
	const Rows *r = context;

	r->out[row] =
		r->targets[row] < 0 ? 0 : llm_row_cross_entropy(worker, r->n, r->x + row * r->n, r->targets[row]);
}

LlmCode
llm_cross_entropy_rows(
	size_t rows, int V, const float *logits, const int32_t *targets, float *losses, LlmError *err)
{
	Rows r = {.n = V, .x = logits, .targets = targets, .out = losses};

	return llm_each_row(rows, r.n, cross_entropy_task, &r, err);
}

typedef struct Sum
{
	size_t n;
	const float *x;
	double total;
} Sum;

static void
sum_task(void *context, int task, int worker)
{
	Sum *s = context;

	(void) task;
	s->total = llm_row_sum(worker, s->n, s->x);
}

LlmCode
llm_sum(size_t n, const float *x, double *total, LlmError *err)
{
	Sum s = {.n = n, .x = x};
	LlmCode code = llm_parallel(1, sum_task, &s, err);

	*total = s.total;
	return code;
}

LlmCode
llm_count_targets(size_t rows, const int32_t *targets, size_t *count, LlmError *err)
{
	*count = 0;
	for (size_t at = 0; at < rows; at += LLM_POLL_ELEMENTS)
	{
		if (llm_poll(err) != LLM_OK)
			return LLM_CANCELED;
		for (size_t i = at; i < rows && i < at + LLM_POLL_ELEMENTS; i++)
			*count += targets[i] >= 0;
	}
	return LLM_OK;
}

LlmCode
llm_cross_entropy_mean(size_t rows, const int32_t *targets, const float *losses, float *mean, LlmError *err)
{
	size_t count;
	double total;
	LlmCode code = llm_count_targets(rows, targets, &count, err);

	if (code == LLM_OK && count == 0 && rows > 0)
	{
		llm_fail(err, LLM_INVALID, "none of the %zu targets counts in the loss: all are negative", rows);
		return llm_hint(err, "A target is the id of the right token; a negative one is left out.");
	}
	if (code == LLM_OK)
		code = llm_sum(rows, losses, &total, err);
	if (code == LLM_OK)
		*mean = count ? (float) (total / count) : 0;
	return code;
}

LlmCode
llm_cross_entropy(size_t rows, int V, const float *logits, const int32_t *targets, float *losses, float *mean,
	LlmError *err)
{
	LlmCode code = llm_cross_entropy_rows(rows, V, logits, targets, losses, err);

	return code == LLM_OK ? llm_cross_entropy_mean(rows, targets, losses, mean, err) : code;
}
