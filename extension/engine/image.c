/*
 * See image.h.
 */
#include "engine/image.h"

#include "engine/partition.h"
#include "engine/convolution.h"
#include "engine/pool.h"
#include "engine/rows.h"

bool
llm_dim_divide(const LlmGraph *graph, const LlmDim *dim, int n, LlmDim *out)
{
	int64_t value = llm_dim_value(dim, &graph->sizes);

	if (value >= 0)
		*out = (LlmDim){.times = value / n};
	else
	{
		*out = *dim;
		out->times /= n;
	}
	return (value >= 0 ? value : dim->times) % n == 0;
}

bool
llm_dim_multiply(const LlmGraph *graph, const LlmDim *dim, int n, LlmDim *out)
{
	int64_t value = llm_dim_value(dim, &graph->sizes);

	*out = value >= 0 ? (LlmDim){.times = value} : *dim;
	return !__builtin_mul_overflow(out->times, n, &out->times) && out->times <= INT32_MAX;
}

bool
llm_dim_window(const LlmGraph *graph, const LlmDim *dim, int64_t k, int64_t padding, int stride, LlmDim *out)
{
	int64_t value = llm_dim_value(dim, &graph->sizes);

	if (value < 0) /* one place for every `stride` elements */
		return padding < k && padding >= k - stride && llm_dim_divide(graph, dim, stride, out);
	*out = (LlmDim){.times = llm_conv_length(value, k, padding, stride)};
	return out->times >= 0 && out->times <= INT32_MAX;
}

typedef struct Moving
{
	const LlmScaling *s;
	float scale;
	const float *from;
	float *to;
} Moving;

/* One row of a large image. */
static void
repeat_row(void *context, size_t row, int worker)
{
	const Moving *m = context;
	const LlmScaling *s = m->s;
	size_t plane = row / s->H, y = row % s->H / s->factor;
	const float *from = m->from + (plane * s->h + y) * s->w;
	float *to = m->to + row * s->W;
	int x = 0;

	if (y >= (size_t) s->h)
	{
		llm_row_zero(worker, s->W, to);
		return;
	}
	for (; x < s->w && (x % LLM_CHUNK || !llm_pool_stopping(worker)); x++)
		for (int j = 0; j < s->factor; j++)
			*to++ = m->scale * from[x];
	llm_row_zero(worker, s->W - x * s->factor, m->to + row * s->W + x * s->factor);
}

/* One row of a small image. */
static void
sum_row(void *context, size_t row, int worker)
{
	const Moving *m = context;
	const LlmScaling *s = m->s;
	size_t plane = row / s->h, y = row % s->h;
	const float *from = m->from + (plane * s->H + y * s->factor) * s->W;
	float *to = m->to + row * s->w;

	for (int x = 0; x < s->w && (x % LLM_CHUNK || !llm_pool_stopping(worker)); x++)
	{
		float sum = 0;

		for (int i = 0; i < s->factor; i++)
			for (int j = 0; j < s->factor; j++)
				sum += from[(size_t) i * s->W + (size_t) x * s->factor + j];
		to[x] = m->scale * sum;
	}
}

LlmCode
llm_repeat_pixels(const LlmScaling *s, float scale, const float *small, float *large, LlmError *err)
{
	Moving m = {s, scale, small, large};

	return s->W == 0 ? LLM_OK : llm_each_row(s->planes * s->H, s->W, repeat_row, &m, err);
}

LlmCode
llm_sum_windows(const LlmScaling *s, float scale, const float *large, float *small, LlmError *err)
{
	Moving m = {s, scale, large, small};

	return s->w == 0 ? LLM_OK : llm_each_row(s->planes * s->h, (size_t) s->factor * s->W, sum_row, &m, err);
}
