/*
 * One vector type for every instruction set, so that a kernel is written once. The file that includes this
 * sets LLM_W, the floats per vector: 16 (AVX-512), 8 (AVX2 + FMA) or 1 (any CPU). Each operation is IEEE
 * exact per lane, hence the same bits whatever LLM_W is. v_fma is the only fused operation.
 */
/* clang-format off */
#ifndef LLM_SIMD_H
#define LLM_SIMD_H

#include <math.h>
#include <string.h>

#include "common/base.h"

#if LLM_W == 1

typedef float vf;
typedef uint32_t vi;
typedef bool vm; /* one truth value per lane */

static inline vf v_set(float x) { return x; }
static inline vf v_load(const float *p) { return *p; }
static inline void v_store(float *p, vf x) { *p = x; }
static inline vf v_load_n(const float *p, int n) { return *p; }
static inline void v_store_n(float *p, vf x, int n) { *p = x; }
static inline vf v_keep(vf x, int n) { return x; } /* lanes below n, the others 0 */
static inline vf v_fma(vf a, vf b, vf c) { return fmaf(a, b, c); }
static inline vf v_sqrt(vf x) { return sqrtf(x); }
static inline vf v_max(vf a, vf b) { return a > b ? a : b; }
static inline vm v_lt(vf a, vf b) { return a < b; }
static inline vm v_isnan(vf a) { return a != a; }
static inline vf v_select(vm m, vf a, vf b) { return m ? a : b; }
static inline bool v_any(vm m) { return m; }
static inline vi v_bits(vf x) { vi i; memcpy(&i, &x, 4); return i; }
static inline vf v_float(vi i) { vf x; memcpy(&x, &i, 4); return x; }
static inline vi v_iset(uint32_t i) { return i; }
static inline void v_transpose(vf *x) { (void) x; }
static inline vf v_load_int8(const int8_t *p) { return *p; }

#else

#include <immintrin.h>

typedef uint32_t vi __attribute__((vector_size(LLM_W * 4), may_alias));

#if LLM_W == 16
typedef __m512 vf;
typedef __mmask16 vm;

static inline vf v_set(float x) { return _mm512_set1_ps(x); }
static inline vf v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
static inline vf v_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps((1u << n) - 1, p); }
static inline void v_store_n(float *p, vf x, int n) { _mm512_mask_storeu_ps(p, (1u << n) - 1, x); }
static inline vf v_keep(vf x, int n) { return _mm512_maskz_mov_ps((1u << n) - 1, x); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf v_sqrt(vf x) { return _mm512_sqrt_ps(x); }
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vm v_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline vm v_isnan(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
static inline vf v_select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }
static inline bool v_any(vm m) { return m != 0; }
static inline vf v_load_int8(const int8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) p))); }

/* Swaps the blocks of s lanes off the diagonal between x[i] and x[i + s]. */
static inline __attribute__((always_inline)) void
v_exchange(vf *x, const int s)
{
	const __m512i j = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	const __mmask16 off = _mm512_test_epi32_mask(j, _mm512_set1_epi32(s));
	const __m512i low = _mm512_mask_add_epi32(j, off, j, _mm512_set1_epi32(16 - s));
	const __m512i high = _mm512_mask_add_epi32(_mm512_add_epi32(j, _mm512_set1_epi32(s)), off, j, _mm512_set1_epi32(16));

#pragma GCC unroll 16
	for (int i = 0; i < 16; i++)
		if ((i & s) == 0)
		{
			vf a = x[i], b = x[i + s];

			x[i] = _mm512_permutex2var_ps(a, low, b);
			x[i + s] = _mm512_permutex2var_ps(a, high, b);
		}
}

/* x[i] lane j becomes x[j] lane i */
static inline __attribute__((always_inline)) void
v_transpose(vf *x)
{
	v_exchange(x, 8);
	v_exchange(x, 4);
	v_exchange(x, 2);
	v_exchange(x, 1);
}
#else
typedef __m256 vf;
typedef __m256 vm;

static inline __m256i
v_first(int n)
{
	return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vf v_set(float x) { return _mm256_set1_ps(x); }
static inline vf v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
static inline vf v_load_n(const float *p, int n) { return _mm256_maskload_ps(p, v_first(n)); }
static inline void v_store_n(float *p, vf x, int n) { _mm256_maskstore_ps(p, v_first(n), x); }
static inline vf v_keep(vf x, int n) { return _mm256_and_ps(x, (__m256) v_first(n)); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf v_sqrt(vf x) { return _mm256_sqrt_ps(x); }
static inline vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vm v_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline vm v_isnan(vf a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
static inline vf v_select(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, m); }
static inline bool v_any(vm m) { return _mm256_movemask_ps(m) != 0; }
static inline vf v_load_int8(const int8_t *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) p))); }

/* x[i] lane j becomes x[j] lane i: swaps the blocks of 4, 2 and 1 lanes off the diagonal */
static inline __attribute__((always_inline)) void
v_transpose(vf *x)
{
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++)
	{
		vf a = x[i], b = x[i + 4];

		x[i] = _mm256_permute2f128_ps(a, b, 0x20);
		x[i + 4] = _mm256_permute2f128_ps(a, b, 0x31);
	}
#pragma GCC unroll 8
	for (int i = 0; i < 8; i++)
		if ((i & 2) == 0)
		{
			vf a = x[i], b = x[i + 2];

			x[i] = _mm256_shuffle_ps(a, b, _MM_SHUFFLE(1, 0, 1, 0));
			x[i + 2] = _mm256_shuffle_ps(a, b, _MM_SHUFFLE(3, 2, 3, 2));
		}
#pragma GCC unroll 8
	for (int i = 0; i < 8; i += 2)
	{
		vf a = x[i], b = x[i + 1];

		x[i] = _mm256_blend_ps(a, _mm256_moveldup_ps(b), 0xaa);
		x[i + 1] = _mm256_blend_ps(_mm256_movehdup_ps(a), b, 0xaa);
	}
}
#endif

static inline vi v_bits(vf x) { return (vi) x; }
static inline vf v_float(vi i) { return (vf) i; }
static inline vi v_iset(uint32_t i) { return i - (vi){0}; }

#endif

/* Vectors that hold the sixteen partial sums of a reduction. */
#define LLM_NV (LLM_LANES / LLM_W)

#define V_NAN v_float(v_iset(0x7fc00000u))
#define V_INF v_float(v_iset(0x7f800000u))

#define INLINE static inline __attribute__((always_inline))

#endif
