/*
 * Long rows, which are passed to the kernels in pieces: the bits are those of the kernel over the whole row,
 * wherever the row begins in a longer one, on every instruction set; and a stop at any poll ends them.
 */
#include "levels.h"

#include <math.h>

#include "engine/rows.h"

#define PIECE (16 * LLM_CHUNK)

typedef struct Row
{
	size_t n, first;
	const float *x, *y, *gamma;
	float *out, stats[2];
	size_t index;
	double sum, squares;
	float loss;
} Row;

enum
{
	SUMS,
	SOFTMAX,
	CROSS_ENTROPY,
	LAYERNORM,
	SOFTMAX_BACKWARD,
	CROSS_ENTROPY_BACKWARD,
	LAYERNORM_BACKWARD,
	ZERO,
	KINDS
};

static void
in_pieces(void *context, int kind, int worker)
{
	Row *r = context;
	size_t target = r->n - 3;

	if (kind == SUMS)
	{
		r->sum = llm_row_sum(worker, r->n, r->x);
		r->squares = llm_row_sum_squares(worker, r->n, r->x, 0.25f);
		llm_row_max(worker, r->n, r->x, &r->index);
	}
	else if (kind == SOFTMAX)
		llm_row_softmax(worker, r->n, r->first, 0.7f, r->x, r->out);
	else if (kind == CROSS_ENTROPY)
		r->loss = llm_row_cross_entropy(worker, r->n, r->x, target);
	else if (kind == LAYERNORM)
		llm_row_layernorm(worker, r->n, r->x, r->gamma, r->y, 1e-5f, r->out);
	else if (kind == SOFTMAX_BACKWARD)
		llm_row_softmax_backward(worker, r->n, r->first, 0.7f, r->x, r->y, r->out);
	else if (kind == CROSS_ENTROPY_BACKWARD)
		llm_row_cross_entropy_backward(worker, r->n, r->x, target, 0.3f, r->out);
	else if (kind == LAYERNORM_BACKWARD)
		llm_row_layernorm_backward(worker, r->n, r->x, r->gamma, 1e-5f, r->y, r->out, r->stats);
	else
		llm_row_zero(worker, r->n, r->out);
}

static void
whole(Row *r, int kind)
{
	size_t target = r->n - 3;

	if (kind == SUMS)
	{
		r->sum = llm_kernels->sum(r->n, r->x);
		r->squares = llm_kernels->sum_squares(r->n, r->x, 0.25f);
		llm_kernels->max(r->n, r->x, &r->index);
	}
	else if (kind == SOFTMAX)
		llm_kernels->softmax(r->n, r->first, 0.7f, r->x, r->out);
	else if (kind == CROSS_ENTROPY)
		r->loss = llm_kernels->cross_entropy(r->n, r->x, target);
	else if (kind == LAYERNORM)
		llm_kernels->layernorm((int) r->n, r->x, r->gamma, r->y, 1e-5f, r->out);
	else if (kind == SOFTMAX_BACKWARD)
		llm_kernels->softmax_backward(r->n, r->first, 0.7f, r->x, r->y, r->out);
	else if (kind == CROSS_ENTROPY_BACKWARD)
		llm_kernels->cross_entropy_backward(r->n, r->x, target, 0.3f, r->out);
	else if (kind == LAYERNORM_BACKWARD)
		llm_kernels->layernorm_backward((int) r->n, r->x, r->gamma, 1e-5f, r->y, r->out, r->stats);
	else
		memset(r->out, 0, r->n * sizeof(float));
}

/* All results of one kind as bits; all NaNs are equal. */
static void
same(const Row *a, Row *b, int kind)
{
	CHECK((a->sum != a->sum && b->sum != b->sum) || memcmp(&a->sum, &b->sum, sizeof(double)) == 0);
	CHECK((a->squares != a->squares && b->squares != b->squares) ||
		  memcmp(&a->squares, &b->squares, sizeof(double)) == 0);
	CHECK(a->index == b->index && bits_of(a->loss) == bits_of(b->loss));
	CHECK(bits_of(a->stats[0]) == bits_of(b->stats[0]) && bits_of(a->stats[1]) == bits_of(b->stats[1]));
	if (kind != SUMS && kind != CROSS_ENTROPY)
		check_bits("a row in pieces", a->n, a->out, b->out);
	else
		odd_free(b->out);
}

/* ---- stopping ---- */

static int polls_left;

static bool
stop_at_poll(void)
{
	return polls_left-- <= 0;
}

typedef struct Stopped
{
	Row *row;
	int kind;
} Stopped;

static void
one_kind(void *context, int task, int worker)
{
	Stopped *s = context;

	in_pieces(s->row, s->kind, worker);
}

static void
stops(const Row *want, int kind)
{
	LlmCode code;
	int polls = 0;

	do
	{
		Row r = *want;
		LlmError err;

		r.out = odd_output(r.n);
		llm_pool_configure(1, stop_at_poll);
		polls_left = polls++;
		code = llm_parallel(1, one_kind, &(Stopped){&r, kind}, &err);
		CHECK(code == (polls_left < 0 ? LLM_CANCELED : LLM_OK));
		llm_pool_configure(1, NULL);
		odd_free(r.out);
	} while (code != LLM_OK);
	CHECK((size_t) polls > want->n / PIECE);
}

/* Values that must not be lost at the edge of a vector, a chunk or a piece. */
static void
disturb(int how, size_t n, float *x)
{
	static const float values[] = {0, INFINITY, -INFINITY, NAN, -0.0f, 100};

	if (how > 0)
		x[how % 2 ? n - 2 : n / 3] = values[how];
	if (how == 4)
		for (size_t i = 0; i < n; i++)
			x[i] = i % 2 ? 0 : -0.0f;
}

int
main(void)
{
	static const size_t lengths[] = {5, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 4111};
	static const size_t firsts[] = {0, 1, 16, LLM_CHUNK - 5, LLM_CHUNK, PIECE - 1, 3 * PIECE + 77};
	uint64_t state = 1;

	for (int i = 0; i < 6 * 7; i++)
		for (int how = 0; how < (i < 12 ? 6 : 1); how++)
		{
			size_t n = lengths[i % 6];
			float *x = odd_random(&state, n), *y = odd_random(&state, n), *gamma = odd_random(&state, n);
			Row r = {.n = n, .first = firsts[i / 6], .x = x, .y = y, .gamma = gamma};

			disturb(how, n, x);
			EACH_ISA(isa)
			for (int kind = 0; kind < KINDS; kind++)
			{
				Row want = r, got = r;
				LlmError err;

				want.out = odd_floats(n);
				got.out = odd_output(n);
				whole(&want, kind);
				llm_pool_configure(1, NULL);
				CHECK_OK(llm_parallel(1, one_kind, &(Stopped){&got, kind}, &err), err);
				same(&want, &got, kind);
				if (how == 0 && n > 2 * PIECE)
					stops(&want, kind);
				odd_free(want.out);
			}
			odd_free(x);
			odd_free(y);
			odd_free(gamma);
		}
	return 0;
}
