/*
 * See patches.h.
 */
#include "engine/patches.h"

#include <string.h>

#include "engine/broadcast.h"
#include "engine/partition.h"
#include "engine/pool.h"

/* Rows of an image that are copied between two polls. */
#define POLL_ROWS 64

int64_t
llm_conv_length(int64_t n, int k, int64_t padding, int stride)
{
	return n + padding < k ? -1 : (n + padding - k) / stride + 1;
}

static LlmCode
refuse(int x_ndim, const int *x, int w_ndim, const int *w, const char *why, LlmError *err)
{
	return llm_fail(err, LLM_SHAPE, "conv2d: image %s and weight %s: %s", llm_shape_text(x_ndim, x).s,
		llm_shape_text(w_ndim, w).s, why);
}

/* Is the number of elements that one element is the sum of an int? */
static bool
fits_int(int channels, const int *w)
{
	int n;

	return !__builtin_mul_overflow(channels, w[2], &n) && !__builtin_mul_overflow(n, w[3], &n);
}

LlmCode
llm_conv_shape(int x_ndim, const int *x, int w_ndim, const int *w, int b_ndim, const int *b,
	const LlmConvHow *how, LlmConv *c, LlmError *err)
{
	int64_t OH, OW;

	if (x_ndim != 4 || w_ndim != 4)
	{
		refuse(x_ndim, x, w_ndim, w, "both must have four dimensions", err);
		return llm_hint(err, "An image is (B,C,H,W), a weight (OC,C/groups,KH,KW).");
	}
	if (how->groups < 1 || x[1] % how->groups != 0 || w[0] % how->groups != 0)
		return llm_fail(
			err, LLM_SHAPE, "conv2d: %d groups do not divide %d channels into %d", how->groups, x[1], w[0]);
	if (w[1] != x[1] / how->groups)
	{
		refuse(x_ndim, x, w_ndim, w, "the channels differ", err);
		return llm_hint(err, "The weight's second dimension must be C/groups = %d.", x[1] / how->groups);
	}
	if (b && (b_ndim != 1 || b[0] != w[0]))
		return llm_fail(err, LLM_SHAPE, "conv2d: bias has shape %s, the weight %s requires (%d)",
			llm_shape_text(b_ndim, b).s, llm_shape_text(w_ndim, w).s, w[0]);
	OH = w[2] < 1 ? -1 : llm_conv_length(x[2], w[2], (int64_t) how->pad[0] + how->pad[1], how->stride);
	OW = w[3] < 1 ? -1 : llm_conv_length(x[3], w[3], (int64_t) how->pad[2] + how->pad[3], how->stride);
	if (OH < 0 || OW < 0)
	{
		refuse(x_ndim, x, w_ndim, w, "the weight must fit into the padded image", err);
		return llm_hint(err, "Use more padding or a smaller weight.");
	}
	if (OH > INT32_MAX || OW > INT32_MAX || !fits_int(x[1], w) || !fits_int(w[0], w))
		return refuse(x_ndim, x, w_ndim, w, "they are too large", err);
	*c = (LlmConv){x[0], x[1], x[2], x[3], w[0], w[2], w[3], (int) OH, (int) OW, *how};
	return LLM_OK;
}

void
llm_pixel_places(const LlmPixels *p, int64_t from, int n, size_t *places)
{
	int64_t pixels = (int64_t) p->height * p->width;
	size_t image = from / pixels, row = from % pixels / p->width, column = from % p->width;

	for (int i = 0; i < n; i++)
	{
		places[i] = p->first + image * p->image + row * p->row + column * p->column;
		if (++column < p->width)
			continue;
		column = 0;
		if (++row < p->height)
			continue;
		row = 0;
		image++;
	}
}

/* ---- planes ---- */

typedef struct Splitting
{
	const LlmPlanes *planes;
	int H, W, above, left;
	const float *x;
} Splitting;

/* Copies row `from` of an image, every stride-th element from padded column `phase` on. */
static void
split_row(const Splitting *s, int phase, const float *from, float *to)
{
	int stride = s->planes->stride, column = phase - s->left, j = 0;

	for (; j < s->planes->columns && column < 0; j++, column += stride)
		to[j] = 0;
	if (stride == 1 && column < s->W && j < s->planes->columns)
	{
		int n = (int) llm_min(s->W - column, s->planes->columns - j);

		memcpy(to + j, from + column, n * sizeof(float));
		j += n;
		column += n;
	}
	for (; j < s->planes->columns && column < s->W; j++, column += stride)
		to[j] = from[column];
	if (j < s->planes->columns)
		memset(to + j, 0, (s->planes->columns - j) * sizeof(float));
}

/* The planes of one channel of one image. */
static void
split_task(void *context, int channel, int worker)
{
	const Splitting *s = context;
	const LlmPlanes *p = s->planes;
	const float *x = s->x + (size_t) channel * s->H * s->W;
	float *to = p->copy + channel * p->channel;

	for (int plane = 0; plane < p->stride * p->stride; plane++)
		for (int i = 0; i < p->rows && (i % POLL_ROWS || !llm_pool_stopping(worker)); i++, to += p->columns)
		{
			int64_t row = (int64_t) i * p->stride + plane / p->stride - s->above;

			if (row < 0 || row >= s->H)
				memset(to, 0, p->columns * sizeof(float));
			else
				split_row(s, plane % p->stride, x + row * s->W, to);
		}
}

/* Are the planes the images themselves, and otherwise, how many bytes do they take? false: too many. */
static bool
measure(LlmPlanes *p, int64_t channels, bool *same, int H, int W)
{
	size_t plane;

	*same = p->stride == 1 && p->rows == H && p->columns == W;
	return !__builtin_mul_overflow((size_t) p->rows * p->stride, p->stride, &plane) &&
		   !__builtin_mul_overflow(plane, (size_t) p->columns, &p->channel) &&
		   !__builtin_mul_overflow(p->channel, (size_t) channels * sizeof(float), &p->bytes) &&
		   p->bytes < SIZE_MAX / 16;
}

LlmCode
llm_planes_open(LlmPlanes *p, int stride, int rows, int columns, int above, int left, int B, int C, int H,
	int W, const float *x, const LlmAllocator *memory, LlmError *err)
{
	Splitting s = {p, H, W, above, left, x};
	int64_t channels = (int64_t) B * C;
	bool same;

	*p = (LlmPlanes){.stride = stride, .rows = rows, .columns = columns, .x = x};
	if (channels > INT32_MAX || !measure(p, channels, &same, H, W))
		return llm_fail(err, LLM_LIMIT, "conv2d: the padded images are too large");
	p->image = p->channel * C;
	if (same || p->bytes == 0)
		return LLM_OK;
	p->x = p->copy = memory->alloc(memory->context, p->bytes);
	if (p->copy == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "conv2d: no memory for %zu MB of padded images", p->bytes >> 20);
	return llm_parallel((int) channels, split_task, &s, err);
}

void
llm_planes_close(LlmPlanes *p, const LlmAllocator *memory)
{
	if (p->copy)
		memory->release(memory->context, p->copy, p->bytes);
	p->copy = NULL;
}

/* ---- patches ---- */

static LlmCode
open_planes(LlmPlanes *planes, const LlmConv *c, const float *x, const LlmAllocator *memory, LlmError *err)
{
	const int *pad = c->how.pad;
	int64_t rows = llm_conv_length((int64_t) c->H + pad[0] + pad[1], 1, 0, c->how.stride);
	int64_t columns = llm_conv_length((int64_t) c->W + pad[2] + pad[3], 1, 0, c->how.stride);

	return llm_planes_open(planes, c->how.stride, (int) llm_min(rows, INT32_MAX),
		(int) llm_min(columns, INT32_MAX), pad[0], pad[2], c->B, c->C, c->H, c->W, x, memory, err);
}

static void
find_taps(const LlmConv *c, const LlmPlanes *p, size_t *taps)
{
	size_t plane = (size_t) p->rows * p->columns;

	for (int channel = 0; channel < c->C / c->how.groups; channel++)
		for (int i = 0; i < c->KH; i++)
			for (int j = 0; j < c->KW; j++)
				*taps++ = channel * p->channel + (i % p->stride * p->stride + j % p->stride) * plane +
						  (size_t) (i / p->stride) * p->columns + j / p->stride;
}

LlmCode
llm_patches_open(
	LlmPatches *patches, const LlmConv *c, const float *x, const LlmAllocator *memory, LlmError *err)
{
	int within = c->C / c->how.groups;
	LlmPlanes *planes = &patches->planes;
	LlmCode code;

	*patches = (LlmPatches){.bytes = ((size_t) within * c->KH * c->KW + 1) * sizeof(size_t)};
	patches->taps = memory->alloc(memory->context, patches->bytes);
	if (patches->taps == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "conv2d: no memory for %zu kB of places", patches->bytes >> 10);
	code = open_planes(planes, c, x, memory, err);
	if (code != LLM_OK)
		return code;
	find_taps(c, planes, patches->taps);
	patches->group = within * planes->channel;
	patches->pixels = (LlmPixels){c->OH, c->OW, 0, planes->image, planes->columns, 1};
	return LLM_OK;
}

void
llm_patches_close(LlmPatches *patches, const LlmAllocator *memory)
{
	llm_planes_close(&patches->planes, memory);
	if (patches->taps)
		memory->release(memory->context, patches->taps, patches->bytes);
	patches->taps = NULL;
}

int
llm_conv_row_blocks(int M, int64_t others)
{
	int blocks = llm_ceil_div(M, LLM_CONV_ROWS);

	while (M / (blocks + 1) >= LLM_CONV_FEW_ROWS && others * blocks < llm_pool_threads() * 4)
		blocks++;
	return blocks;
}
