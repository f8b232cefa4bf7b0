/*
 * The gradient of a convolution with respect to its weight, in the weight's own layout: dweight (OC,k) += dy
 * (OC,pixels) @ patches^T (pixels,k), over the pixels of all images in blocks of LLM_BLOCK.
 */
#include "engine/convolution.h"

#include <string.h>

#include "engine/partition.h"
#include "engine/patches.h"
#include "engine/pool.h"

/* Elements of dy that are packed at once, which stay in the third-level cache; rows that a task packs. */
#define MAX_FLOATS (2 << 20)
#define ROWS 168

typedef struct Gradient
{
	const LlmConv *c;
	int M, K, panels;  /* of each group: rows, columns and panels of columns of dweight */
	int64_t pixels;    /* of all images */
	int64_t from, end; /* pixels that are packed now: whole blocks, or the rest */
	const float *dy;
	LlmPatches patches;
	int rows, row_blocks; /* rows of a task; number of such row blocks */
	float *packed;        /* for each block of pixels, group and block of rows: dy as matmul_block reads it */
	float *sums;          /* (rows,LLM_PANEL) per worker */
	float *dw;
} Gradient;

/* dy of m output channels from o on and n pixels, packed; pixels of several images are first put side by
 * side. */
static void
pack_dy(const Gradient *g, int o, int m, int64_t pixel, int n, float *out)
{
	size_t each = (size_t) g->c->OH * g->c->OW, image = pixel / each, at = pixel % each;
	const float *dy = g->dy + (image * g->c->OC + o) * each;
	float joined[ROWS * LLM_BLOCK];

	if (at + n <= each)
	{
		llm_kernels->pack_rows(m, n, dy + at, each, out);
		return;
	}
	for (int i = 0; i < m; i++)
	{
		const float *row = dy + i * each;
		size_t from = at, length;

		for (int j = 0; j < n; j += length, from = 0, row += g->c->OC * each)
		{
			length = llm_min(each - from, n - j);
			memcpy(joined + i * n + j, row + from, length * sizeof(float));
		}
	}
	llm_kernels->pack_rows(m, n, joined, n, out);
}

static void
pack_task(void *context, int task, int worker)
{
	const Gradient *g = context;
	int64_t pixel = g->from + (int64_t) (task / (g->c->how.groups * g->row_blocks)) * LLM_BLOCK;
	int n = (int) llm_min(g->end - pixel, LLM_BLOCK), group = task / g->row_blocks % g->c->how.groups;
	int row = task % g->row_blocks * g->rows, m = (int) llm_min(g->M - row, g->rows);
	float *to = g->packed + (pixel - g->from) * g->c->OC + ((size_t) group * g->M + row) * n;

	(void) worker;
	pack_dy(g, group * g->M + row, m, pixel, n, to);
}

/* panel (n,LLM_PANEL): of n pixels, the patch elements of `columns` taps. */
static void
gather(const Gradient *g, int group, int64_t pixel, int n, const size_t *taps, int columns, float *panel)
{
	const LlmPatches *p = &g->patches;
	size_t places[LLM_PANEL];
	float turned[LLM_PANEL * LLM_PANEL];

	for (int i = 0; i < n; i += LLM_PANEL)
	{
		int few = (int) llm_min(n - i, LLM_PANEL);

		llm_pixel_places(&p->pixels, pixel + i, few, places);
		llm_kernels->pack_gathered(columns, few, p->planes.x + group * p->group, taps, places, turned);
		llm_kernels->pack_panel_transposed(few, columns, turned, LLM_PANEL, panel + i * LLM_PANEL);
	}
}

/* Adds the packed pixels to one panel of a block of rows; the sums are contiguous until they are complete. */
static void
panel_task(void *context, int task, int worker)
{
	const Gradient *g = context;
	int panel = task % g->panels, row = task / g->panels % g->row_blocks * g->rows;
	int group = task / g->panels / g->row_blocks, m = (int) llm_min(g->M - row, g->rows);
	int k = panel * LLM_PANEL, columns = (int) llm_min(g->K - k, LLM_PANEL);
	float block[LLM_BLOCK * LLM_PANEL], *sums = g->sums + (size_t) worker * g->rows * LLM_PANEL;
	size_t first = (size_t) group * g->M + row;

	llm_copy_columns(m, columns, g->dw + first * g->K + k, g->K, sums, LLM_PANEL);
	for (int64_t pixel = g->from; pixel < g->end && !llm_pool_stopping(worker); pixel += LLM_BLOCK)
	{
		int n = (int) llm_min(g->end - pixel, LLM_BLOCK);

		gather(g, group, pixel, n, g->patches.taps + k, columns, block);
		llm_kernels->matmul_block(m, n, g->packed + (pixel - g->from) * g->c->OC + first * n, block, sums,
			LLM_PANEL, columns, false);
	}
	llm_copy_columns(m, columns, sums, LLM_PANEL, g->dw + first * g->K + k, g->K);
}

/* Block by block of pixels, as many at once as the packed part of dy may hold. */
static LlmCode
accumulate(Gradient *g, const LlmAllocator *memory, LlmError *err)
{
	int groups = g->c->how.groups, tile = llm_kernels->tile_rows;
	int64_t blocks = (g->pixels + LLM_BLOCK - 1) / LLM_BLOCK;
	int64_t at_once = llm_min(blocks, MAX_FLOATS / ((int64_t) g->c->OC * LLM_BLOCK) + 1);
	size_t packed = at_once * LLM_BLOCK * g->c->OC, bytes;
	LlmCode code = LLM_OK;

	g->panels = llm_ceil_div(g->K, LLM_PANEL);
	g->row_blocks = llm_conv_row_blocks(g->M, (int64_t) g->panels * groups);
	g->row_blocks = g->row_blocks < llm_ceil_div(g->M, ROWS) ? llm_ceil_div(g->M, ROWS) : g->row_blocks;
	g->rows = (int) llm_min(llm_ceil_div(llm_ceil_div(g->M, g->row_blocks), tile) * tile, ROWS);
	g->row_blocks = llm_ceil_div(g->M, g->rows);
	bytes = (packed + (size_t) llm_pool_threads() * g->rows * LLM_PANEL) * sizeof(float);
	g->packed = memory->alloc(memory->context, bytes);
	if (g->packed == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "conv2d: no memory for %zu MB of packed gradients", bytes >> 20);
	g->sums = g->packed + packed;
	for (g->from = 0; g->from < g->pixels && code == LLM_OK; g->from = g->end)
	{
		g->end = llm_min(g->from + at_once * LLM_BLOCK, g->pixels);
		blocks = (g->end - g->from + LLM_BLOCK - 1) / LLM_BLOCK;
		code = llm_parallel((int) blocks * groups * g->row_blocks, pack_task, g, err);
		if (code == LLM_OK)
			code = llm_parallel(groups * g->row_blocks * g->panels, panel_task, g, err);
	}
	memory->release(memory->context, g->packed, bytes);
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
