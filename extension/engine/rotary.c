/*
 * See rotary.h. The angles' sines and cosines come from the kernels, and powers from IEEE-exact operations
 * in float64, so that every machine computes the same bits.
 */
#include "engine/rotary.h"

#include <math.h>
#include <string.h>

#include "engine/pool.h"
#include "engine/rows.h"

/* ---- frequencies ---- */

/* ln x for x > 0: x = m 2^e, ln m = 2 artanh((m - 1) / (m + 1)) by its series */
static double
natural_log(double x)
{
	int e;
	double m = frexp(x, &e), s, sum = 0;

	if (m < 0x1.6a09e667f3bcdp-1) /* sqrt(1/2) */
	{
		m *= 2;
		e--;
	}
	s = (m - 1) / (m + 1);
	for (int k = 23; k > 0; k -= 2)
		sum = sum * s * s + 1.0 / k;
	return 2 * s * sum + e * 0x1.62e42fefa39efp-1;
}

/* e^x: x = k ln 2 + r, e^r by its series */
static double
natural_exp(double x)
{
	double k = floor(x * 0x1.71547652b82fep+0 + 0.5), r = x - k * 0x1.62e42fefa39efp-1, sum = 1;

	for (int i = 15; i > 0; i--)
		sum = 1 + sum * r / i;
	return ldexp(sum, (int) k);
}

/* Wavelengths that exceed the original context are divided by factor, short ones are kept. */
static float
llama3_frequency(const LlmRotaryScaling *s, float f)
{
	float context = (float) s->original_max_position_embeddings, factor = (float) s->factor;
	float wavelength = 1 / f * 0x1.921fb6p+2f, smooth; /* 2 pi / f */

	if (wavelength < (float) (s->original_max_position_embeddings / s->high_freq_factor))
		return f;
	if (wavelength > (float) (s->original_max_position_embeddings / s->low_freq_factor))
		return f / factor;
	smooth = (1 / wavelength * context - (float) s->low_freq_factor) /
			 (float) (s->high_freq_factor - s->low_freq_factor);
	return (1 - smooth) * f / factor + smooth * f;
}

/*
 * The frequency of each of the dims/2 pairs. Each step is rounded to float32 as transformers does, because
 * models were trained with these very angles.
 */
static void
frequencies_of(const LlmRotary *r, float *frequencies)
{
	double log_theta = natural_log((float) r->theta);

	for (int i = 0; i < r->dims / 2; i++)
	{
		float exponent = (float) (2 * i) / (float) r->dims;
		float f = 1 / (float) natural_exp(exponent * log_theta);

		frequencies[i] = r->scaling.original_max_position_embeddings > 0 ? llama3_frequency(&r->scaling, f)
																		 : f / (float) r->scaling.factor;
	}
}

/* ---- rows ---- */

typedef struct Work
{
	const LlmRotary *r;
	const int32_t *positions;
	size_t n_positions;
	bool backwards;
	const float *x;
	float *out;
	float *frequencies; /* (dims/2), then the scratch of each worker */
	size_t scratch;     /* floats of a worker */
} Work;

/* A worker's memory: sines and cosines of a position, signed and for each channel; products of a head. */
typedef struct Turn
{
	float *angle, *half;     /* (dims/2) */
	float *cosine, *sine;    /* (dims) */
	float *partner, *direct; /* (dims) */
} Turn;

static Turn
scratch_of(const Work *w, int worker)
{
	size_t dims = w->r->dims, pairs = dims / 2;
	float *at = w->frequencies + pairs + worker * w->scratch;

	return (Turn){at, at + pairs, at + 2 * pairs, at + 2 * pairs + dims, at + 2 * pairs + 2 * dims,
		at + 2 * pairs + 3 * dims};
}

/* The two channels of a pair */
static int
first_of(const LlmRotary *r, int pair)
{
	return r->interleaved ? 2 * pair : pair;
}

static int
second_of(const LlmRotary *r, int pair)
{
	return r->interleaved ? 2 * pair + 1 : pair + r->dims / 2;
}

static void
angles_of(const Work *w, int32_t position, const Turn *t)
{
	int pairs = w->r->dims / 2;
	float at = (float) position, sign = w->backwards ? -1 : 1;

	llm_kernels->binary(LLM_MUL, pairs, w->frequencies, 1, &at, 0, t->angle);
	llm_kernels->unary(LLM_COS, pairs, t->angle, t->half);
	for (int i = 0; i < pairs; i++)
		t->cosine[first_of(w->r, i)] = t->cosine[second_of(w->r, i)] = t->half[i];
	llm_kernels->unary(LLM_SIN, pairs, t->angle, t->half);
	for (int i = 0; i < pairs; i++)
	{
		t->sine[first_of(w->r, i)] = -sign * t->half[i];
		t->sine[second_of(w->r, i)] = sign * t->half[i];
	}
}

/* out = x cos + partner sin, where the partner of a pair's first channel is the second, with a minus sign. */
static void
turn_head(const LlmRotary *r, const Turn *t, const float *x, float *out)
{
	for (int i = 0; i < r->dims / 2; i++)
	{
		t->partner[first_of(r, i)] = x[second_of(r, i)];
		t->partner[second_of(r, i)] = x[first_of(r, i)];
	}
	llm_kernels->binary(LLM_MUL, r->dims, t->partner, 1, t->sine, 1, t->partner);
	llm_kernels->binary(LLM_MUL, r->dims, x, 1, t->cosine, 1, t->direct);
	llm_kernels->binary(LLM_ADD, r->dims, t->direct, 1, t->partner, 1, out);
	if (out != x)
		memcpy(out + r->dims, x + r->dims, (r->HS - r->dims) * sizeof(float));
}

static void
turn_task(void *context, size_t row, int worker)
{
	const Work *w = context;
	const LlmRotary *r = w->r;
	size_t at = row * r->NH * r->HS;
	Turn t = scratch_of(w, worker);

	angles_of(w, w->positions[row % w->n_positions], &t);
	for (int h = 0; h < r->NH && !llm_pool_stopping(worker); h++, at += r->HS)
		turn_head(r, &t, w->x + at, w->out + at);
}

LlmCode
llm_rotary(const LlmRotary *r, size_t rows, const int32_t *positions, size_t n_positions, bool backwards,
	const float *x, float *out, const LlmAllocator *memory, LlmError *err)
{
	size_t pairs = r->dims / 2, scratch = 5 * (size_t) r->dims;
	size_t bytes = (pairs + scratch * llm_pool_threads()) * sizeof(float);
	Work w = {r, positions, n_positions, backwards, x, out, NULL, scratch};
	LlmCode code;

	if (rows == 0 || r->NH == 0 || r->HS == 0)
		return LLM_OK;
	w.frequencies = memory->alloc(memory->context, bytes);
	if (w.frequencies == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "rope: no memory for the angles of %d channels", r->dims);
	frequencies_of(r, w.frequencies);
	code = llm_each_row(rows, (size_t) r->NH * r->HS, turn_task, &w, err);
	memory->release(memory->context, w.frequencies, bytes);
	return code;
}
