/*
 * Runs a case on every instruction set of this machine with one to three threads, and compares bits. Buffers
 * are aligned to four bytes only, the alignment that the kernels require.
 */
#ifndef LEVELS_H
#define LEVELS_H

#include "engine/pool.h"
#include "reference.h"
#include "test.h"

#define EACH_ISA(isa)                                                                                        \
	for (int isa = LLM_ISA_SCALAR; isa < LLM_ISA_COUNT; isa++)                                               \
		if (llm_set_isa((LlmIsa) isa))
#define EACH_LEVEL(isa, threads)                                                                             \
	EACH_ISA(isa)                                                                                            \
	for (int threads = 1; threads <= 3 && (llm_pool_configure(threads, NULL), true); threads++)

/*
 * Memory for n floats, one float past an aligned address; a read beyond them is a read beyond the
 * allocation.
 */
static inline float *
odd_floats(size_t n)
{
	return (float *) calloc(n + 1, sizeof(float)) + 1;
}

static inline void
odd_free(const float *x)
{
	free((float *) x - 1);
}

static inline float *
odd_random(uint64_t *state, size_t n)
{
	float *x = odd_floats(n);

	for (size_t i = 0; i < n; i++)
		x[i] = test_uniform(state);
	return x;
}

/*
 * The same for results: the sanitizer does not check masked stores, so guard words behind the end must
 * survive.
 */
#define GUARD 16
#define GUARD_BYTE 0xa5

static inline float *
odd_output(size_t n)
{
	float *x = odd_floats(n + GUARD);

	memset(x, GUARD_BYTE, (n + GUARD) * sizeof(float));
	return x;
}

static inline uint32_t
bits_of(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, 4);
	return x != x ? 0x7fc00000u : bits;
}

/* Checks equal bits (a NaN is a NaN) and that nothing was written behind the end; frees got. */
static inline void
check_bits(const char *what, size_t n, const float *expected, float *got)
{
	for (size_t i = 0; i < n; i++)
		if (bits_of(expected[i]) != bits_of(got[i]))
		{
			fprintf(stderr, "FAIL %s (%s, %d threads): element %zu of %zu is %a, the reference says %a\n",
				what, llm_kernels->name, llm_pool_threads(), i, n, got[i], expected[i]);
			exit(1);
		}
	for (size_t i = 0; i < GUARD * sizeof(float); i++)
		if (((unsigned char *) (got + n))[i] != GUARD_BYTE)
		{
			fprintf(stderr, "FAIL %s (%s): wrote byte %zu behind its %zu elements\n", what, llm_kernels->name,
				i, n);
			exit(1);
		}
	odd_free(got);
}

/* FNV-1a of the bits, to be compared with a constant: the same on every machine and with every compiler. */
static inline void
hash_floats(uint64_t *hash, size_t n, const float *x)
{
	for (size_t i = 0; i < n; i++)
		*hash = (*hash ^ bits_of(x[i])) * 1099511628211u;
}

#endif
