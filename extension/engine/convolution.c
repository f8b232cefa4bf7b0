/*
 * The forward pass of a convolution and the gradient with respect to the image: the same product of a matrix
 * and gathered patches. A task computes all rows of LLM_PANEL pixels; it gathers each block of the patches
 * once and multiplies it by every row while it is in the first-level cache, as matmul_backward.c does.
 */
#include "engine/convolution.h"

#include <string.h>

#include "engine/broadcast_backward.h"
#include "engine/parallel.h"
#include "engine/partition.h"
#include "engine/patches.h"
#include "engine/pool.h"

/* Multiplications of a task: panels of small products share one. */
#define TASK_PRODUCTS 262144
/* Columns packed as rows at a time: a multiple of every register tile's height, few enough for the cache. */
#define COLUMNS 168

/*
 * For each group: out (M,pixels) = a (M,K) @ patches (K,pixels), where patch element (k,pixel) is
 * x[taps[k] + the pixel's place in `from`].
 */
typedef struct Product
{
	int groups, M, K;
	int64_t pixels; /* of all images */
	const float *a; /* (groups,M,K), or (groups,K,M) if by_columns */
	bool by_columns;
	const float *x;
	size_t x_group; /* the distance between two groups */
	const size_t *taps;
	LlmPixels from, to;
	float *out;
	size_t out_row;    /* the distance between two rows of out, and M times that between two groups */
	const float *bias; /* (groups,M), or NULL */

	int rows, row_blocks;      /* rows of a task; number of such row blocks */
	int panels, group, pieces; /* panels of pixels; panels of a task; tasks along the pixels */
	float *packed;             /* a as matmul_block reads it: for each block of rows its blocks of k */
	float *sums;               /* (rows,LLM_PANEL) per worker */
} Product;

/* The rows of a task within a group: *m of them from the first. */
static int
rows_of(const Product *p, int block, int *m)
{
	int row = block * p->rows;

	*m = (int) llm_min(p->M - row, p->rows);
	return row;
}

static void
pack_task(void *context, int task, int worker)
{
	const Product *p = context;
	int m, row = rows_of(p, task % p->row_blocks, &m);
	size_t group = (size_t) (task / p->row_blocks) * p->M * p->K;
	float *to = p->packed + group + (size_t) row * p->K;

	for (int k = 0; k < p->K && !llm_pool_stopping(worker); k += LLM_BLOCK)
	{
		int kc = (int) llm_min(p->K - k, LLM_BLOCK);

		for (int i = 0; i < m && p->by_columns; i += COLUMNS)
			llm_kernels->pack_columns((int) llm_min(m - i, COLUMNS), kc,
				p->a + group + (size_t) k * p->M + row + i, p->M, to + (size_t) k * m + (size_t) i * kc);
		if (!p->by_columns)
			llm_kernels->pack_rows(m, kc, p->a + group + (size_t) row * p->K + k, p->K, to + (size_t) k * m);
	}
}

/* Writes n sums of a row to their places. */
static void
write_row(const float *sums, const float *bias, int n, const size_t *places, float *out)
{
	float row[LLM_PANEL];

	if (bias)
	{
		llm_kernels->binary(LLM_ADD, n, sums, 1, bias, 0, row);
		sums = row;
	}
	if (places[n - 1] - places[0] == (size_t) n - 1)
		llm_copy_columns(1, n, sums, 0, out + places[0], 0);
	else
		for (int j = 0; j < n; j++)
			out[places[j]] = sums[j];
}

/* One panel of pixels times m rows of a group. */
static void
multiply_panel(const Product *p, int group, int row, int m, int panel, float *sums, int worker)
{
	int64_t pixel = (int64_t) panel * LLM_PANEL;
	int n = (int) llm_min(p->pixels - pixel, LLM_PANEL);
	size_t places[LLM_PANEL], first = (size_t) group * p->M + row;

	llm_pixel_places(&p->from, pixel, n, places);
	for (int k = 0; k < p->K && (k == 0 || !llm_pool_stopping(worker)); k += LLM_BLOCK)
	{
		int kc = (int) llm_min(p->K - k, LLM_BLOCK);

		llm_kernels->matmul_gathered(m, kc, p->packed + first * p->K + (size_t) k * m,
			p->x + group * p->x_group, p->taps + k, places, n, sums, LLM_PANEL, k == 0);
	}
	llm_pixel_places(&p->to, pixel, n, places);
	for (int i = 0; i < m; i++)
		write_row(sums + i * LLM_PANEL, p->bias ? p->bias + first + i : NULL, n, places,
			p->out + (first + i) * p->out_row);
}

static void
product_task(void *context, int task, int worker)
{
	const Product *p = context;
	int piece = task % p->pieces, blocks = task / p->pieces;
	int m, row = rows_of(p, blocks % p->row_blocks, &m),
		   last = (int) llm_min((piece + 1L) * p->group, p->panels);
	float *sums = p->sums + (size_t) worker * p->rows * LLM_PANEL;

	if (p->K == 0)
		memset(sums, 0, (size_t) m * LLM_PANEL * sizeof(float));
	for (int panel = piece * p->group; panel < last && !llm_pool_stopping(worker); panel++)
		multiply_panel(p, blocks / p->row_blocks, row, m, panel, sums, worker);
}

/* Splits the product into tasks: enough that no thread waits for another, none too small to be worth a claim.
 */
static LlmCode
partition(Product *p, LlmError *err)
{
	int64_t panels = (p->pixels + LLM_PANEL - 1) / LLM_PANEL, work = (int64_t) p->M * (p->K + 1) * LLM_PANEL;

	if (panels * p->groups > INT32_MAX / LLM_CONV_ROWS)
		return llm_fail(err, LLM_LIMIT, "conv2d: %lld pixels are too many at once", (long long) p->pixels);
	p->row_blocks = llm_conv_row_blocks(p->M, panels * p->groups);
	p->rows =
		llm_ceil_div(llm_ceil_div(p->M, p->row_blocks), llm_kernels->tile_rows) * llm_kernels->tile_rows;
	p->row_blocks = llm_ceil_div(p->M, p->rows);
	p->panels = (int) panels;
	p->group = (int) (TASK_PRODUCTS / work + 1);
	p->pieces = llm_ceil_div(p->panels, p->group);
	return LLM_OK;
}

static LlmCode
multiply(Product *p, const LlmAllocator *memory, LlmError *err)
{
	size_t packed = (size_t) p->groups * p->M * p->K, sums, bytes;
	LlmCode code;

	if (p->pixels == 0 || p->M == 0)
		return LLM_OK;
	code = partition(p, err);
	if (code != LLM_OK)
		return code;
	sums = (size_t) llm_pool_threads() * p->rows * LLM_PANEL;
	bytes = (packed + sums) * sizeof(float);
	p->packed = memory->alloc(memory->context, bytes);
	if (p->packed == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "conv2d: no memory for %zu kB of packed weights", bytes >> 10);
	p->sums = p->packed + packed;
	code = llm_parallel(p->groups * p->row_blocks, pack_task, p, err);
	if (code == LLM_OK)
		code = llm_parallel(p->groups * p->row_blocks * p->pieces, product_task, p, err);
	memory->release(memory->context, p->packed, bytes);
	return code;
}

/* ---- forward ---- */

LlmCode
llm_conv(const LlmConv *c, const float *x, const float *weight, const float *bias, float *out,
	const LlmAllocator *memory, LlmError *err)
{
	int groups = c->how.groups;
	size_t pixels = (size_t) c->OH * c->OW;
	Product p = {.groups = groups,
		.M = c->OC / groups,
		.K = c->C / groups * c->KH * c->KW,
		.pixels = c->B * pixels,
		.a = weight,
		.bias = bias,
		.out = out,
		.out_row = pixels,
		.to = {c->OH, c->OW, 0, c->OC * pixels, c->OW, 1}};
	LlmPatches patches;
	LlmCode code;

	if (p.pixels == 0 || c->OC == 0)
		return LLM_OK;
	code = llm_patches_open(&patches, c, x, memory, err);
	p.x = patches.planes.x;
	p.x_group = patches.group;
	p.taps = patches.taps;
	p.from = patches.pixels;
	if (code == LLM_OK)
		code = multiply(&p, memory, err);
	llm_patches_close(&patches, memory);
	return code;
}

/* ---- dx ---- */

/*
 * The pixels of one phase, every stride-th row and column of the padded image from (i,j) on, are multiplied
 * by every stride-th row and column of the weight only: dx = sum over (output channel, row, column) of weight
 * * dy.
 */
typedef struct Gradient
{
	const LlmConv *c;
	const float *weight;
	LlmPlanes dy;    /* one plane with zeros around it */
	int above, left; /* of these zeros */
	float *turned;   /* the weight's elements of a phase (OC,rows,columns,C/groups) */
	size_t *taps;
	float *dx;
} Gradient;

typedef struct Phase
{
	const Gradient *g;
	int row, column;   /* of the image: the phase's first pixel */
	int i, j;          /* of the weight: the first element that it reads */
	int height, width; /* pixels */
	int rows, columns; /* of the weight, as far as the phase reads them */
} Phase;

/* The weights of one output channel, with the input channels last. */
static void
turn_task(void *context, int o, int worker)
{
	const Phase *f = context;
	const LlmConv *c = f->g->c;
	int within = c->C / c->how.groups, s = c->how.stride;
	size_t each = (size_t) c->KH * c->KW;
	const float *weight = f->g->weight + o * within * each;
	float *to = f->g->turned + (size_t) o * f->rows * f->columns * within;

	(void) worker;
	for (int i = 0; i < f->rows; i++)
		for (int j = 0; j < f->columns; j++, to += within)
		{
			const float *w = weight + (f->i + (size_t) i * s) * c->KW + f->j + (size_t) j * s;

			for (int channel = 0; channel < within; channel++)
				to[channel] = w[channel * each];
		}
}

static void
phase_taps(const Phase *f)
{
	const Gradient *g = f->g;
	const LlmConvHow *how = &g->c->how;
	int row = (f->row + how->pad[0]) / how->stride + g->above;
	int column = (f->column + how->pad[2]) / how->stride + g->left;
	size_t *to = g->taps;

	for (int o = 0; o < g->c->OC / how->groups; o++)
		for (int i = 0; i < f->rows; i++)
			for (int j = 0; j < f->columns; j++)
				*to++ = o * g->dy.channel + (size_t) (row - i) * g->dy.columns + column - j;
}

static LlmCode
phase_dx(Phase *f, const LlmAllocator *memory, LlmError *err)
{
	const Gradient *g = f->g;
	const LlmConv *c = g->c;
	int groups = c->how.groups, s = c->how.stride;
	Product p = {.groups = groups,
		.M = c->C / groups,
		.K = c->OC / groups * f->rows * f->columns,
		.pixels = (int64_t) c->B * f->height * f->width,
		.a = g->turned,
		.by_columns = true,
		.x = g->dy.x,
		.x_group = c->OC / groups * g->dy.channel,
		.taps = g->taps,
		.from = {f->height, f->width, 0, g->dy.image, g->dy.columns, 1},
		.to = {f->height, f->width, (size_t) f->row * c->W + f->column, (size_t) c->C * c->H * c->W,
			(size_t) s * c->W, s},
		.out = g->dx,
		.out_row = (size_t) c->H * c->W};
	LlmCode code;

	phase_taps(f);
	code = llm_parallel(c->OC, turn_task, f, err);
	return code == LLM_OK ? multiply(&p, memory, err) : code;
}

static LlmCode
all_phases(const Gradient *g, const LlmAllocator *memory, LlmError *err)
{
	const LlmConv *c = g->c;
	int s = c->how.stride;
	LlmCode code = LLM_OK;

	for (int row = 0; row < s && row < c->H && code == LLM_OK; row++)
		for (int column = 0; column < s && column < c->W && code == LLM_OK; column++)
		{
			Phase f = {.g = g, .row = row, .column = column};

			f.i = (row + c->how.pad[0]) % s;
			f.j = (column + c->how.pad[2]) % s;
			f.height = (c->H - 1 - row) / s + 1;
			f.width = (c->W - 1 - column) / s + 1;
			f.rows = f.i < c->KH ? (c->KH - 1 - f.i) / s + 1 : 0;
			f.columns = f.j < c->KW ? (c->KW - 1 - f.j) / s + 1 : 0;
			code = phase_dx(&f, memory, err);
		}
	return code;
}

LlmCode
llm_conv_dx(const LlmConv *c, const float *weight, const float *dy, float *dx, const LlmAllocator *memory,
	LlmError *err)
{
	int s = c->how.stride;
	size_t taps = (size_t) c->OC / c->how.groups * c->KH * c->KW;
	size_t bytes = taps * (sizeof(size_t) + c->C * sizeof(float)) + sizeof(size_t);
	Gradient g = {.c = c, .weight = weight, .above = (c->KH - 1) / s, .left = (c->KW - 1) / s, .dx = dx};
	int64_t rows, columns;
	LlmCode code;

	if (c->B == 0 || c->C == 0 || c->H == 0 || c->W == 0)
		return LLM_OK;
	rows = llm_conv_length((int64_t) c->H + c->how.pad[0], 1, 0, s);
	columns = llm_conv_length((int64_t) c->W + c->how.pad[2], 1, 0, s);
	rows = g.above + (rows > c->OH ? rows : c->OH);
	columns = g.left + (columns > c->OW ? columns : c->OW);
	if (rows > INT32_MAX || columns > INT32_MAX)
		return llm_fail(err, LLM_LIMIT, "conv2d: the padded images are too large");
	g.taps = memory->alloc(memory->context, bytes);
	if (g.taps == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "conv2d: no memory for %zu kB of weights", bytes >> 10);
	g.turned = (float *) (g.taps + taps);
	code = llm_planes_open(
		&g.dy, 1, (int) rows, (int) columns, g.above, g.left, c->B, c->OC, c->OH, c->OW, dy, memory, err);
	if (code == LLM_OK)
		code = all_phases(&g, memory, err);
	llm_planes_close(&g.dy, memory);
	memory->release(memory->context, g.taps, bytes);
	return code;
}

LlmCode
llm_conv_db(const LlmConv *c, const float *dy, float *dbias, LlmError *err)
{
	return llm_broadcast_sum_into(
		4, (int[]){c->B, c->OC, c->OH, c->OW}, dy, 3, (int[]){c->OC, 1, 1}, dbias, err);
}
