/*
 * The gradient of a convolution with respect to its weight, computed transposed: dweight^T (k,OC) += patches
 * (k,pixels) @ dy^T (pixels,OC), over the pixels of all images in blocks of LLM_BLOCK. dy is packed once and
 * the patches are read in place.
 */
#include "engine/convolution.h"

#include <string.h>

#include "engine/partition.h"
#include "engine/patches.h"
#include "engine/pool.h"

/* Elements of dy that are packed at once, which stay in the third-level cache. */
#define MAX_FLOATS (2 << 20)

typedef struct Gradient
{
	const LlmConv *c;
	int M, K, panels;  /* of each group: output channels, in so many panels; taps */
	int64_t pixels;    /* of all images */
	int64_t from, end; /* pixels that are packed now: whole blocks, or the rest */
	const float *dy;
	LlmPatches patches;
	int taps, tap_blocks; /* taps of a task; number of such blocks */
	size_t *places;       /* of the packed pixels */
	float *packed;        /* for each block of pixels and panel of each group: dy (pixels,LLM_PANEL) */
	float *sums;          /* (taps,LLM_PANEL) per worker */
	float *dw;
} Gradient;

/* dy of `columns` output channels from o on and n pixels; pixels of several images are first put side by
 * side. */
static void
pack_dy(const Gradient *g, int o, int columns, int64_t pixel, int n, float *panel)
{
	size_t each = (size_t) g->c->OH * g->c->OW, image = pixel / each, at = pixel % each;
	const float *dy = g->dy + (image * g->c->OC + o) * each;
	float joined[LLM_PANEL * LLM_BLOCK];

	if (at + n <= each)
	{
		llm_kernels->pack_panel_transposed(n, columns, dy + at, each, panel);
		return;
	}
	for (int i = 0; i < columns; i++)
	{
		const float *row = dy + i * each;
		size_t from = at, length;

		for (int j = 0; j < n; j += length, from = 0, row += g->c->OC * each)
		{
			length = llm_min(each - from, n - j);
			memcpy(joined + i * n + j, row + from, length * sizeof(float));
		}
	}
	llm_kernels->pack_panel_transposed(n, columns, joined, n, panel);
}

/* A panel's place among those of a block of pixels, which begins at `pixel`. */
static float *
panel_of(const Gradient *g, int64_t pixel, int n, int group, int panel)
{
	size_t all = (size_t) g->c->how.groups * g->panels;

	return g->packed + ((pixel - g->from) * all + ((size_t) group * g->panels + panel) * n) * LLM_PANEL;
}

/* One block of pixels: its places, and dy of all output channels. */
static void
pack_task(void *context, int task, int worker)
{
	const Gradient *g = context;
	int64_t pixel = g->from + (int64_t) task * LLM_BLOCK;
	int n = (int) llm_min(g->end - pixel, LLM_BLOCK);

	llm_pixel_places(&g->patches.pixels, pixel, n, g->places + (pixel - g->from));
	for (int group = 0; group < g->c->how.groups; group++)
		for (int panel = 0; panel < g->panels && !llm_pool_stopping(worker); panel++)
		{
			int o = panel * LLM_PANEL;

			pack_dy(g, group * g->M + o, (int) llm_min(g->M - o, LLM_PANEL), pixel, n,
				panel_of(g, pixel, n, group, panel));
		}
}

/* Adds the packed pixels to one panel of a block of taps; the sums are contiguous until they are complete. */
static void
panel_task(void *context, int task, int worker)
{
	const Gradient *g = context;
	int tap = task % g->tap_blocks * g->taps, panel = task / g->tap_blocks % g->panels;
	int group = task / g->tap_blocks / g->panels, m = (int) llm_min(g->K - tap, g->taps);
	int o = panel * LLM_PANEL, columns = (int) llm_min(g->M - o, LLM_PANEL);
	float *sums = g->sums + (size_t) worker * g->taps * LLM_PANEL;
	float *dw = g->dw + ((size_t) group * g->M + o) * g->K + tap;

	for (int i = 0; i < m; i++)
		for (int j = 0; j < LLM_PANEL; j++)
			sums[i * LLM_PANEL + j] = j < columns ? dw[(size_t) j * g->K + i] : 0;
	for (int64_t pixel = g->from; pixel < g->end && !llm_pool_stopping(worker); pixel += LLM_BLOCK)
	{
		int n = (int) llm_min(g->end - pixel, LLM_BLOCK);

		llm_kernels->matmul_taps(m, n, g->patches.planes.x + group * g->patches.group, g->patches.taps + tap,
			g->places + (pixel - g->from), panel_of(g, pixel, n, group, panel), sums, LLM_PANEL, columns,
			false);
	}
	for (int j = 0; j < columns; j++)
		for (int i = 0; i < m; i++)
			dw[(size_t) j * g->K + i] = sums[i * LLM_PANEL + j];
}

static LlmCode
add_pixels(Gradient *g, int64_t at_once, LlmError *err)
{
	int groups = g->c->how.groups;
	LlmCode code = LLM_OK;

	for (g->from = 0; g->from < g->pixels && code == LLM_OK; g->from = g->end)
	{
		g->end = llm_min(g->from + at_once, g->pixels);
		code = llm_parallel((int) ((g->end - g->from + LLM_BLOCK - 1) / LLM_BLOCK), pack_task, g, err);
		if (code == LLM_OK)
			code = llm_parallel(groups * g->panels * g->tap_blocks, panel_task, g, err);
	}
	return code;
}

/* Block by block of pixels, as many at once as the packed part of dy may hold. */
static LlmCode
accumulate(Gradient *g, const LlmAllocator *memory, LlmError *err)
{
	int groups = g->c->how.groups, tile = llm_kernels->tile_rows;
	int64_t blocks = (g->pixels + LLM_BLOCK - 1) / LLM_BLOCK, columns, at_once;
	size_t bytes, packed, sums;
	LlmCode code;

	g->panels = llm_ceil_div(g->M, LLM_PANEL);
	columns = (int64_t) groups * g->panels * LLM_PANEL;
	at_once = llm_min(blocks, MAX_FLOATS / (columns * LLM_BLOCK) + 1) * LLM_BLOCK;
	g->tap_blocks = llm_conv_row_blocks(g->K, (int64_t) g->panels * groups);
	g->taps = llm_ceil_div(llm_ceil_div(g->K, g->tap_blocks), tile) * tile;
	g->tap_blocks = llm_ceil_div(g->K, g->taps);
	packed = at_once * columns;
	sums = (size_t) llm_pool_threads() * g->taps * LLM_PANEL;
	bytes = at_once * sizeof(size_t) + (packed + sums) * sizeof(float);
	g->places = memory->alloc(memory->context, bytes);
	if (g->places == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "conv2d: no memory for %zu MB of packed gradients", bytes >> 20);
	g->packed = (float *) (g->places + at_once);
	g->sums = g->packed + packed;
	code = add_pixels(g, at_once, err);
	memory->release(memory->context, g->places, bytes);
	return code;
}

LlmCode
llm_conv_dw(const LlmConv *c, const float *x, const float *dy, float *dweight, const LlmAllocator *memory,
	LlmError *err)
{
	int groups = c->how.groups;
	Gradient g = {.c = c,
		.M = c->OC / groups,
		.K = c->C / groups * c->KH * c->KW,
		.pixels = (int64_t) c->B * c->OH * c->OW,
		.dy = dy,
		.dw = dweight};
	LlmCode code;

	if (g.pixels == 0 || c->OC == 0 || g.K == 0)
		return LLM_OK;
	code = llm_patches_open(&g.patches, c, x, memory, err);
	if (code == LLM_OK)
		code = accumulate(&g, memory, err);
	llm_patches_close(&g.patches, memory);
	return code;
}
