/*
 * The matmul rule: each output element is summed over k ascending in blocks of LLM_BLOCK anchored at k = 0;
 * inside a block one fused-multiply-add chain from +0; block sums are added in order. Vectors run across the
 * output columns, so neither vector width nor tile height nor threads change an element's order of additions.
 */
#ifndef LLM_MATMUL_H
#define LLM_MATMUL_H

#include "kernels/kernels.h"
#include "kernels/simd.h"

/*
 * Rows per register tile (LLM_MR) and columns per pass: accumulators fill the register file (28 of 32, 12 of
 * 16).
 */
#if LLM_W == 16
#define LLM_MR 14
#define LLM_PASS 32
#elif LLM_W == 8
#define LLM_MR 6
#define LLM_PASS 16
#else
#define LLM_MR 4
#define LLM_PASS 32
#endif
#define LLM_PV (LLM_PASS / LLM_W)
#define LLM_MAX_PV (LLM_PANEL / LLM_W)

/* Writes or adds the sums of a block: of m rows and pv vectors. */
INLINE void
tile_end(int m, int pv, vf acc[LLM_MR][LLM_MAX_PV], float *out, size_t ldo, bool first)
{
#pragma GCC unroll 16
	for (int i = 0; i < m; i++)
		for (int j = 0; j < pv; j++)
		{
			float *o = out + i * ldo + j * LLM_W;

			v_store(o, first ? acc[i][j] : (vf) (v_load(o) + acc[i][j]));
		}
}

/*
 * out (m,LLM_PASS) = [first] or += a (m,kc) @ b (kc,LLM_PASS); a is packed [kc][m], b rows LLM_PANEL apart.
 * Prefetches one cache line of each row of `ahead`, a block like b.
 */
INLINE void
tile(int m, int kc, const float *a, const float *b, const float *ahead, float *out, size_t ldo, bool first)
{
	vf acc[LLM_MR][LLM_MAX_PV];

	for (int i = 0; i < m; i++)
		for (int j = 0; j < LLM_PV; j++)
		{
			if (j * LLM_W % LLM_LINE == 0) /* prefetches a cache line while the chains run */
				__builtin_prefetch(out + i * ldo + j * LLM_W, 1);
			acc[i][j] = v_set(0);
		}
	for (int k = 0; k < kc; k++)
	{
		vf x[LLM_PV];

		for (int j = 0; j < LLM_PV; j++)
			x[j] = v_load(b + (size_t) k * LLM_PANEL + j * LLM_W);
		__builtin_prefetch(ahead + (size_t) k * LLM_PANEL, 0, 2);
#pragma GCC unroll 16
		for (int i = 0; i < m; i++)
		{
			vf r = v_set(a[(size_t) k * m + i]);

			for (int j = 0; j < LLM_PV; j++)
				acc[i][j] = v_fma(r, x[j], acc[i][j]);
		}
	}
	tile_end(m, LLM_PV, acc, out, ldo, first);
}

/* One function per tile height, so that each keeps its accumulators in registers: TILE is a height's case. */
#if LLM_MR > 6
#define TILES                                                                                                \
	TILE(1)                                                                                                  \
	TILE(2)                                                                                                  \
	TILE(3)                                                                                                  \
	TILE(4)                                                                                                  \
	TILE(5)                                                                                                  \
	TILE(6)                                                                                                  \
	TILE(7)                                                                                                  \
	TILE(8)                                                                                                  \
	TILE(9)                                                                                                  \
	TILE(10)                                                                                                 \
	TILE(11)                                                                                                 \
	TILE(12)                                                                                                 \
	TILE(13)                                                                                                 \
	TILE(14)
#elif LLM_MR > 4
#define TILES TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#else
#define TILES TILE(1) TILE(2) TILE(3) TILE(4)
#endif
#define TILE(m)                                                                                              \
	case m:                                                                                                  \
		tile(m, kc, a, b, ahead, out, ldo, first);                                                           \
		break;

static void
tile_rows(
	int m, int kc, const float *a, const float *b, const float *ahead, float *out, size_t ldo, bool first)
{
	switch (m)
	{
		TILES
	}
}

/*
 * Stores the first n lanes; the others too if `room`, because what follows is written later: AMD's processors
 * before Zen 4 take many times as long for a masked store.
 */
INLINE void
store_first(float *to, vf x, int n, bool room)
{
	if (room)
		v_store(to, x);
	else
		v_store_n(to, x, n);
}

/*
 * out [kc][rows] = a (rows,kc) transposed, rows <= LLM_MR, by square groups of vectors; written column after
 * column. Prefetches the next tile: its rows are too far apart for the hardware prefetcher.
 */
INLINE void
pack_tile(int rows, int kc, const float *a, size_t lda, float *out)
{
	for (int k = 0; k < kc; k += LLM_W)
	{
		int n = kc - k < LLM_W ? kc - k : LLM_W;

		for (int i0 = 0; i0 < rows; i0 += LLM_W)
		{
			int m = rows - i0 < LLM_W ? rows - i0 : LLM_W;
			vf x[LLM_W];

#pragma GCC unroll 16
			for (int i = 0; i < LLM_W; i++)
			{
				if (i < m)
					__builtin_prefetch(a + (i0 + i + LLM_MR) * lda + k);
				x[i] = i < m ? v_load_n(a + (i0 + i) * lda + k, n) : v_set(0);
			}
			v_transpose(x);
#pragma GCC unroll 16
			for (int j = 0; j < LLM_W; j++)
				if (j < n)
					store_first(out + (size_t) (k + j) * rows + i0, x[j], m,
						(kc - 1 - k - j) * rows >= LLM_W && rows <= LLM_W);
		}
	}
}

static void
pack_rows(int m, int kc, const float *a, size_t lda, float *out)
{
	for (; m >= LLM_MR; m -= LLM_MR, a += LLM_MR * lda, out += (size_t) LLM_MR * kc)
		pack_tile(LLM_MR, kc, a, lda, out);
	if (m > 0)
		pack_tile(m, kc, a, lda, out);
}

/* Reads a row by row, so that it is one stream however far apart its rows are. */
static void
pack_columns(int m, int kc, const float *a, size_t lda, float *out)
{
	for (int k = 0; k < kc; k++, a += lda)
	{
		int i = 0;

		for (; i + LLM_MR <= m; i += LLM_MR)
			for (int j = 0; j < LLM_MR; j += LLM_W)
			{
				int n = LLM_MR - j < LLM_W ? LLM_MR - j : LLM_W;

				store_first(out + (size_t) i * kc + k * LLM_MR + j, v_load_n(a + i + j, n), n,
					(kc - 1 - k) * LLM_MR >= LLM_W);
			}
		for (int j = i; j < m; j += LLM_W)
		{
			int n = m - j < LLM_W ? m - j : LLM_W;

			v_store_n(out + (size_t) i * kc + k * (m - i) + j - i, v_load_n(a + j, n), n);
		}
	}
}

/*
 * The first tiles prefetch the block at `next`, a line of each of its rows, so that it is cached when it is
 * multiplied.
 */
static void
matmul_block_next(int m, int kc, const float *rows, const float *panel, const float *next, float *out,
	size_t ldo, int n, bool first)
{
	float edge[LLM_MR * LLM_PASS];

	for (int i0 = 0; i0 < m; i0 += LLM_MR)
	{
		int r = m - i0 < LLM_MR ? m - i0 : LLM_MR;

		for (int j0 = 0; j0 < n; j0 += LLM_PASS)
		{
			float *o = out + i0 * ldo + j0;
			int c = n - j0, line = LLM_PASS == LLM_PANEL ? i0 / LLM_MR * LLM_LINE : j0 + i0 * LLM_PANEL;
			const float *ahead = line < LLM_PANEL ? next + line : panel + j0;

			if (c >= LLM_PASS)
			{
				tile_rows(r, kc, rows, panel + j0, ahead, o, ldo, first);
				continue;
			}
			if (!first)
				for (int i = 0; i < r; i++)
					memcpy(edge + i * LLM_PASS, o + i * ldo, c * sizeof(float));
			tile_rows(r, kc, rows, panel + j0, ahead, edge, LLM_PASS, first);
			for (int i = 0; i < r; i++)
				memcpy(o + i * ldo, edge + i * LLM_PASS, c * sizeof(float));
		}
		rows += (size_t) r * kc;
	}
}

static void
matmul_block(int m, int kc, const float *rows, const float *panel, float *out, size_t ldo, int n, bool first)
{
	matmul_block_next(m, kc, rows, panel, panel, out, ldo, n, first);
}

/*
 * A tile on the causal edge: the last row uses kc elements along k, each row above one less, kc >= LLM_MR. A
 * row is stored once its chain is complete, while the rows below continue.
 */
static void
triangle(int kc, const float *a, const float *b, float *out, size_t ldo, bool first)
{
	vf acc[LLM_MR][LLM_PV], x[LLM_PV];

	for (int i = 0; i < LLM_MR; i++)
		for (int j = 0; j < LLM_PV; j++)
			acc[i][j] = v_set(0);
	for (int k = 0; k <= kc - LLM_MR; k++, a += LLM_MR, b += LLM_PANEL)
	{
		for (int j = 0; j < LLM_PV; j++)
			x[j] = v_load(b + j * LLM_W);
#pragma GCC unroll 16
		for (int i = 0; i < LLM_MR; i++)
			for (int j = 0; j < LLM_PV; j++)
				acc[i][j] = v_fma(v_set(a[i]), x[j], acc[i][j]);
	}
#pragma GCC unroll 16
	for (int done = 0; done < LLM_MR; done++, a += LLM_MR, b += LLM_PANEL)
	{
		for (int j = 0; j < LLM_PV; j++)
		{
			float *o = out + done * ldo + j * LLM_W;

			v_store(o, first ? acc[done][j] : (vf) (v_load(o) + acc[done][j]));
			if (done + 1 < LLM_MR)
				x[j] = v_load(b + j * LLM_W);
		}
#pragma GCC unroll 16
		for (int i = done + 1; i < LLM_MR; i++)
			for (int j = 0; j < LLM_PV; j++)
				acc[i][j] = v_fma(v_set(a[i]), x[j], acc[i][j]);
	}
}

static void
matmul_triangle(int kc, const float *rows, const float *panel, float *out, size_t ldo, int n, bool first)
{
	float edge[LLM_MR * LLM_PASS];

	for (int j0 = 0; j0 < n; j0 += LLM_PASS)
	{
		int c = n - j0;

		if (c >= LLM_PASS)
		{
			triangle(kc, rows, panel + j0, out + j0, ldo, first);
			continue;
		}
		for (int i = 0; i < LLM_MR && !first; i++)
			memcpy(edge + i * LLM_PASS, out + i * ldo + j0, c * sizeof(float));
		triangle(kc, rows, panel + j0, edge, LLM_PASS, first);
		for (int i = 0; i < LLM_MR; i++)
			memcpy(out + i * ldo + j0, edge + i * LLM_PASS, c * sizeof(float));
	}
}

/*
 * One row times `panels` whole panels: the decode step, which reads the weights once as a stream. Two panels
 * at a time hide the latency of the chain.
 */
static void
matvec_block(
	int kc, const float *row, const float *panel, size_t panel_stride, int panels, float *out, bool first)
{
	for (int p = 0; p < panels; p += 2)
	{
		const float *b0 = panel + p * panel_stride, *b1 = p + 1 < panels ? b0 + panel_stride : b0;
		vf acc[2][LLM_PANEL / LLM_W];

		for (int j = 0; j < LLM_PANEL / LLM_W; j++)
			acc[0][j] = acc[1][j] = v_set(0);
		for (int k = 0; k < kc; k++)
		{
			vf r = v_set(row[k]);

			for (int j = 0; j < LLM_PANEL / LLM_W; j++)
			{
				acc[0][j] = v_fma(r, v_load(b0 + (size_t) k * LLM_PANEL + j * LLM_W), acc[0][j]);
				acc[1][j] = v_fma(r, v_load(b1 + (size_t) k * LLM_PANEL + j * LLM_W), acc[1][j]);
			}
		}
		for (int h = 0; h < 2 && p + h < panels; h++)
			for (int j = 0; j < LLM_PANEL / LLM_W; j++)
			{
				float *o = out + (size_t) (p + h) * LLM_PANEL + j * LLM_W;

				v_store(o, first ? acc[h][j] : (vf) (v_load(o) + acc[h][j]));
			}
	}
}

/* How many rows ahead of the copy to prefetch: they are too far apart for the hardware prefetcher. */
#define LLM_SOON 16

static void
pack_panel(int k, int n, const float *b, size_t ldb, float *panel)
{
	for (int i = 0; i < k; i++, b += ldb, panel += LLM_PANEL)
	{
		for (int j = 0; j < n; j += LLM_LINE)
			__builtin_prefetch(b + LLM_SOON * ldb + j);
		for (int j = 0; j < LLM_PANEL; j += LLM_W)
			if (j + LLM_W <= n)
				v_store(panel + j, v_load(b + j));
			else
				v_store(panel + j, j < n ? v_load_n(b + j, n - j) : v_set(0));
	}
}

static void
pack_panel_transposed(int k, int n, const float *bt, size_t ldb, float *panel)
{
	for (int i0 = 0; i0 < k; i0 += LLM_W)
	{
		int m = k - i0 < LLM_W ? k - i0 : LLM_W;

		for (int j0 = 0; j0 < LLM_PANEL; j0 += LLM_W)
		{
			vf x[LLM_W];

#pragma GCC unroll 16
			for (int j = 0; j < LLM_W; j++)
				x[j] = j0 + j < n ? v_load_n(bt + (j0 + j) * ldb + i0, m) : v_set(0);
			v_transpose(x);
#pragma GCC unroll 16
			for (int i = 0; i < LLM_W; i++)
				if (i < m)
					v_store(panel + (size_t) (i0 + i) * LLM_PANEL + j0, x[i]);
		}
	}
}

/*
 * panel (k,LLM_PANEL) = x[rows[i] + columns[j]]; columns ascend, and the missing ones (n < LLM_PANEL) are
 * zero. Columns that are side by side in memory are copied as a vector.
 */
static void
pack_gathered(int k, int n, const float *x, const size_t *rows, const size_t *columns, float *panel)
{
	bool adjacent[LLM_PANEL / LLM_W];

	for (int j = 0; j < LLM_PANEL; j += LLM_W)
		adjacent[j / LLM_W] = j + LLM_W <= n && columns[j + LLM_W - 1] - columns[j] == LLM_W - 1;
	for (int i = 0; i < k; i++, panel += LLM_PANEL)
		for (int j0 = 0; j0 < LLM_PANEL; j0 += LLM_W)
			if (adjacent[j0 / LLM_W])
				v_store(panel + j0, v_load(x + rows[i] + columns[j0]));
			else
				for (int j = j0; j < j0 + LLM_W; j++)
					panel[j] = j < n ? x[rows[i] + columns[j]] : 0;
}

/* ---- products with gathered elements, read in place ---- */

/* Columns that must be side by side in x to be read in place: a vector, or a pass where there are none. */
#define LLM_RUN (LLM_W == 1 ? LLM_PASS : LLM_W)

/* tile with b[k][j] = x[taps[k] + columns[j]], over pv vectors. */
INLINE void
tile_in_place(int m, int pv, int kc, const float *a, const float *x, const size_t *taps,
	const size_t *columns, float *out, size_t ldo, bool first)
{
	vf acc[LLM_MR][LLM_MAX_PV];
	const float *run[LLM_MAX_PV];

	for (int j = 0; j < pv; j++)
		run[j] = x + columns[j * LLM_W / LLM_RUN * LLM_RUN] + j * LLM_W % LLM_RUN;
	for (int i = 0; i < m; i++)
		for (int j = 0; j < pv; j++)
			acc[i][j] = v_set(0);
	for (int k = 0; k < kc; k++)
	{
		vf b[LLM_MAX_PV];

		for (int j = 0; j < pv; j++)
			b[j] = v_load(run[j] + taps[k]);
#pragma GCC unroll 16
		for (int i = 0; i < m; i++)
		{
			vf r = v_set(a[(size_t) k * m + i]);

			for (int j = 0; j < pv; j++)
				acc[i][j] = v_fma(r, b[j], acc[i][j]);
		}
	}
	tile_end(m, pv, acc, out, ldo, first);
}

/* tile with a[i][k] = x[taps[i] + places[k]]. */
INLINE void
tile_of_taps(int m, int kc, const float *x, const size_t *taps, const size_t *places, const float *b,
	float *out, size_t ldo, bool first)
{
	vf acc[LLM_MR][LLM_MAX_PV];
	const float *row[LLM_MR];

	for (int i = 0; i < m; i++)
	{
		row[i] = x + taps[i];
		for (int j = 0; j < LLM_PV; j++)
			acc[i][j] = v_set(0);
	}
	for (int k = 0; k < kc; k++)
	{
		vf y[LLM_PV];

		for (int j = 0; j < LLM_PV; j++)
			y[j] = v_load(b + (size_t) k * LLM_PANEL + j * LLM_W);
#pragma GCC unroll 16
		for (int i = 0; i < m; i++)
		{
			vf r = v_set(row[i][places[k]]);

			for (int j = 0; j < LLM_PV; j++)
				acc[i][j] = v_fma(r, y[j], acc[i][j]);
		}
	}
	tile_end(m, LLM_PV, acc, out, ldo, first);
}

/* Few rows have too few chains to hide the latency in one pass, so they take the whole panel at once. */
#undef TILE
#define TILE(m)                                                                                              \
	case m:                                                                                                  \
		for (int j = 0; j < LLM_PANEL; j += IN_PLACE_PV(m) * LLM_W)                                          \
			tile_in_place(m, IN_PLACE_PV(m), kc, a, x, taps, columns + j, out + j, ldo, first);              \
		break;
#define IN_PLACE_PV(m) ((m) *2 <= LLM_MR ? LLM_MAX_PV : LLM_PV)

static void
tile_rows_in_place(int m, int kc, const float *a, const float *x, const size_t *taps, const size_t *columns,
	float *out, size_t ldo, bool first)
{
	switch (m)
	{
		TILES
	}
}

#undef TILE
#define TILE(m)                                                                                              \
	case m:                                                                                                  \
		tile_of_taps(m, kc, x, taps, places, b, out, ldo, first);                                            \
		break;

static void
tile_rows_of_taps(int m, int kc, const float *x, const size_t *taps, const size_t *places, const float *b,
	float *out, size_t ldo, bool first)
{
	switch (m)
	{
		TILES
	}
}

/* Columns that are not side by side are gathered into a panel first. */
static void
matmul_gathered(int m, int kc, const float *rows, const float *x, const size_t *taps, const size_t *columns,
	int n, float *out, size_t ldo, bool first)
{
	bool in_place = n == LLM_PANEL;

	for (int j = 0; j < n && in_place; j += LLM_RUN)
		in_place = columns[j + LLM_RUN - 1] - columns[j] == LLM_RUN - 1;
	if (!in_place)
	{
		float block[LLM_BLOCK * LLM_PANEL];

		pack_gathered(kc, n, x, taps, columns, block);
		matmul_block(m, kc, rows, block, out, ldo, n, first);
		return;
	}
	for (int i = 0; i < m; i += LLM_MR)
		tile_rows_in_place(m - i < LLM_MR ? m - i : LLM_MR, kc, rows + (size_t) i * kc, x, taps, columns,
			out + i * ldo, ldo, first);
}

static void
matmul_taps(int m, int kc, const float *x, const size_t *taps, const size_t *places, const float *panel,
	float *out, size_t ldo, int n, bool first)
{
	for (int i = 0; i < m; i += LLM_MR)
		for (int j = 0; j < n; j += LLM_PASS)
			tile_rows_of_taps(m - i < LLM_MR ? m - i : LLM_MR, kc, x, taps + i, places, panel + j,
				out + i * ldo + j, ldo, first);
}

#endif
