/*
 * Elementwise kernels over one contiguous array, over rows, and over a block of a product's rows.
 */
#ifndef LLM_ELEMENTWISE_H
#define LLM_ELEMENTWISE_H

#include "kernels/kernels.h"
#include "kernels/vmath.h"

#define EACH(n, body)                                                                                        \
	do                                                                                                       \
	{                                                                                                        \
		size_t i_ = 0;                                                                                       \
		for (; i_ + LLM_W <= (n); i_ += LLM_W)                                                               \
		{                                                                                                    \
			vf a = v_load(x + i_);                                                                           \
			v_store(out + i_, body);                                                                         \
		}                                                                                                    \
		if (i_ < (n))                                                                                        \
		{                                                                                                    \
			int r_ = (int) ((n) -i_);                                                                        \
			vf a = v_load_n(x + i_, r_);                                                                     \
			v_store_n(out + i_, body, r_);                                                                   \
		}                                                                                                    \
	} while (0)

/* The same for m rows of n floats, ldx and ldo apart. */
#define EACH_ROW(body)                                                                                       \
	for (size_t row_ = 0; row_ < m; row_++, x += ldx, out += ldo)                                            \
	EACH(n, body)

static void
unary_rows(LlmUnary f, size_t m, size_t n, const float *x, size_t ldx, float *out, size_t ldo)
{
	switch (f)
	{
		case LLM_NEG:
			EACH_ROW(-a);
			break;
		case LLM_EXP:
			EACH_ROW(v_exp(a));
			break;
		case LLM_LOG:
			EACH_ROW(v_log(a));
			break;
		case LLM_TANH:
			EACH_ROW(v_tanh(a));
			break;
		case LLM_SQRT:
			EACH_ROW(v_sqrt(a));
			break;
		case LLM_RELU:
			EACH_ROW(v_select(v_lt(a, v_set(0.0f)), v_set(0.0f), a)); /* NaN is kept */
			break;
		case LLM_ERF:
			EACH_ROW(v_erf(a));
			break;
		case LLM_GELU_TANH:
			EACH_ROW(v_gelu_tanh(a));
			break;
		case LLM_GELU_ERF:
			EACH_ROW(v_gelu_erf(a));
			break;
		case LLM_ABS:
			EACH_ROW(v_abs(a));
			break;
		case LLM_SIGMOID:
			EACH_ROW(v_set(1.0f) / (v_set(1.0f) + v_exp(-a)));
			break;
		case LLM_SILU: /* x sigmoid(x) (Elfwing et al., 2017) */
			EACH_ROW(a / (v_set(1.0f) + v_exp(-a)));
			break;
		case LLM_SIN:
			EACH_ROW(v_sine(a, 0));
			break;
		case LLM_COS:
			EACH_ROW(v_sine(a, 1));
			break;
	}
}

static void
unary(LlmUnary f, size_t n, const float *x, float *out)
{
	unary_rows(f, 1, n, x, 0, out, 0);
}

static void
canonical_nan(size_t n, float *out)
{
	const float *x = out;

	EACH(n, v_select(v_isnan(a), V_NAN, a));
}

#define PAIRS(body)                                                                                          \
	for (size_t row_ = 0; row_ < m; row_++, x += ldx, y += ldy, out += ldo)                                  \
	{                                                                                                        \
		vf a = v_set(n ? *x : 0), b = v_set(n ? *y : 0);                                                     \
		size_t i_ = 0;                                                                                       \
		for (; i_ + LLM_W <= n; i_ += LLM_W)                                                                 \
		{                                                                                                    \
			if (xs)                                                                                          \
				a = v_load(x + i_);                                                                          \
			if (ys)                                                                                          \
				b = v_load(y + i_);                                                                          \
			v_store(out + i_, body);                                                                         \
		}                                                                                                    \
		if (i_ < n)                                                                                          \
		{                                                                                                    \
			int r_ = (int) (n - i_);                                                                         \
			if (xs)                                                                                          \
				a = v_load_n(x + i_, r_);                                                                    \
			if (ys)                                                                                          \
				b = v_load_n(y + i_, r_);                                                                    \
			v_store_n(out + i_, body, r_);                                                                   \
		}                                                                                                    \
	}

/* binary for m rows of n floats, ldx, ldy and ldo apart */
static void
binary_rows(LlmBinary op, size_t m, size_t n, const float *x, int xs, size_t ldx, const float *y, int ys,
	size_t ldy, float *out, size_t ldo)
{
	switch (op)
	{
		case LLM_ADD:
			PAIRS(a + b);
			break;
		case LLM_SUB:
			PAIRS(a - b);
			break;
		case LLM_MUL:
			PAIRS(a * b);
			break;
		case LLM_DIV:
			PAIRS(a / b);
			break;
		case LLM_MAX:
			PAIRS(v_select(v_isnan(a), a, v_select(v_isnan(b), b, v_max(a, b))));
			break;
		case LLM_GREATER:
			PAIRS(v_select(v_lt(b, a), v_set(1.0f), v_set(0.0f)));
			break;
	}
}

static void
binary(LlmBinary op, size_t n, const float *x, int xs, const float *y, int ys, float *out)
{
	binary_rows(op, 1, n, x, xs, 0, y, ys, 0, out, 0);
}

/* Adds a bias or the residual stream over a whole panel: the most frequent step. */
static void
add_panel(const LlmStep *s, const float *y, int m, float *out, size_t ldo)
{
	for (int i = 0; i < m; i++, out += ldo, y += s->row_stride)
		for (int j = 0; j < LLM_PANEL; j += LLM_W)
		{
			vf a = v_load(out + j), b = v_load(y + j);

			v_store(out + j, s->other_first ? (vf) (b + a) : (vf) (a + b));
		}
}

static void
binary_step(const LlmStep *s, size_t row, size_t column, int m, int n, float *out, size_t ldo)
{
	const float *y = s->other + row * s->row_stride + column * s->column_stride;
	int ys = s->column_stride;

	if (s->op == LLM_ADD && ys == 1 && n == LLM_PANEL)
		add_panel(s, y, m, out, ldo);
	else if (s->other_first)
		binary_rows(s->op, m, n, y, ys, s->row_stride, out, 1, ldo, out, ldo);
	else
		binary_rows(s->op, m, n, out, 1, ldo, y, ys, s->row_stride, out, ldo);
}

static void
steps(const LlmStep *step, int count, size_t row, size_t column, int m, int n, float *out, size_t ldo)
{
	for (; count > 0; count--, step++)
		switch (step->kind)
		{
			case LLM_STEP_UNARY:
				unary_rows(step->f, m, n, out, ldo, out, ldo);
				break;
			case LLM_STEP_BINARY:
				binary_step(step, row, column, m, n, out, ldo);
				break;
			case LLM_STEP_CANONICALIZE:
				for (int i = 0; i < m; i++)
					canonical_nan(n, out + i * ldo);
		}
}

#endif
