/*
 * Weights stored in fewer bits and widened to float32 in the registers. The formats are exact: a product
 * with such panels gives the bits of a product with the same values in float32.
 */
#ifndef LLM_KERNELS_QUANTIZED_H
#define LLM_KERNELS_QUANTIZED_H

#include "kernels/kernels.h"
#include "kernels/simd.h"

/* A row of a panel, as vectors of LLM_W columns. */
#define ROW_VECTORS (LLM_PANEL / LLM_W)

/*
 * A word holds columns i (low half) and i + 16 (high half), so that one load and two cheap operations give
 * two vectors.
 */
INLINE void
bf16_row(const uint32_t *words, vf *x)
{
	for (int j = 0; j < ROW_VECTORS / 2; j++)
	{
		vi both = v_bits(v_load((const float *) (words + j * LLM_W)));

		x[j] = v_float(both << 16);
		x[j + ROW_VECTORS / 2] = v_float(both & v_iset(0xffff0000u));
	}
}

INLINE void
int8_row(const int8_t *bytes, const vf *scales, vf *x)
{
	for (int j = 0; j < ROW_VECTORS; j++)
		x[j] = v_load_int8(bytes + j * LLM_W) * scales[j];
}

/* One body for both formats; the format is a constant once it is inlined. */
INLINE void
compact_row(bool int8, const void *block, int k, const vf *scales, vf *x)
{
	if (int8)
		int8_row((const int8_t *) block + LLM_PANEL * sizeof(float) + (size_t) k * LLM_PANEL, scales, x);
	else
		bf16_row((const uint32_t *) block + (size_t) k * (LLM_PANEL / 2), x);
}

INLINE void
compact_scales(bool int8, const void *block, vf *scales)
{
	for (int j = 0; j < ROW_VECTORS; j++)
		scales[j] = int8 ? v_load((const float *) block + j * LLM_W) : v_set(0);
}

INLINE void
widen(bool int8, int kc, const void *block, float *out)
{
	vf scales[ROW_VECTORS], x[ROW_VECTORS];

	compact_scales(int8, block, scales);
	for (int k = 0; k < kc; k++, out += LLM_PANEL)
	{
		compact_row(int8, block, k, scales, x);
		for (int j = 0; j < ROW_VECTORS; j++)
			v_store(out + j * LLM_W, x[j]);
	}
}

static void
widen_bf16(int kc, const void *block, float *out)
{
	widen(false, kc, block, out);
}

static void
widen_int8(int kc, const void *block, float *out)
{
	widen(true, kc, block, out);
}

/* How far ahead to prefetch: a compact panel is read faster than the hardware prefetcher expects. */
#define AHEAD 8192

/* As matvec_block, for one panel: contiguous memory streams best. */
INLINE void
matvec_compact(bool int8, int kc, const float *row, const void *block, float *out, bool first)
{
	const char *next = (const char *) block + AHEAD;
	vf acc[ROW_VECTORS], scales[ROW_VECTORS], x[ROW_VECTORS];

	compact_scales(int8, block, scales);
	for (int j = 0; j < ROW_VECTORS; j++)
		acc[j] = v_set(0);
	for (int k = 0; k < kc; k++, next += LLM_PANEL * (int8 ? sizeof(int8_t) : sizeof(uint16_t)))
	{
		__builtin_prefetch(next);
		compact_row(int8, block, k, scales, x);
		for (int j = 0; j < ROW_VECTORS; j++)
			acc[j] = v_fma(v_set(row[k]), x[j], acc[j]);
	}
	for (int j = 0; j < ROW_VECTORS; j++, out += LLM_W)
		v_store(out, first ? acc[j] : (vf) (v_load(out) + acc[j]));
}

static void
matvec_bf16(int kc, const float *row, const void *block, float *out, bool first)
{
	matvec_compact(false, kc, row, block, out, first);
}

static void
matvec_int8(int kc, const float *row, const void *block, float *out, bool first)
{
	matvec_compact(true, kc, row, block, out, first);
}

#undef AHEAD
#undef ROW_VECTORS
#endif
