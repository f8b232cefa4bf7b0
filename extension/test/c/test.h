/*
 * Shared by all server-less tests: checks that report where they failed, and an allocator that counts, so
 * that a leak or an untested failure path is detected. A test is one program: main() calls its cases and
 * returns 0.
 */
#ifndef LLM_TEST_H
#define LLM_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base.h"

#define CHECK(condition)                                                                                     \
	do                                                                                                       \
	{                                                                                                        \
		if (!(condition))                                                                                    \
		{                                                                                                    \
			fprintf(stderr, "FAIL %s:%d: %s\n", __FILE__, __LINE__, #condition);                             \
			exit(1);                                                                                         \
		}                                                                                                    \
	} while (0)

/* The call must succeed; otherwise its error is printed. */
#define CHECK_OK(call, error)                                                                                \
	do                                                                                                       \
	{                                                                                                        \
		if ((call) != LLM_OK)                                                                                \
		{                                                                                                    \
			fprintf(stderr, "FAIL %s:%d: %s: %s\n", __FILE__, __LINE__, #call, (error).message);             \
			exit(1);                                                                                         \
		}                                                                                                    \
	} while (0)

/* The call must fail with this code, and its message must contain this text. */
#define CHECK_FAILS(call, expected, text, error)                                                             \
	do                                                                                                       \
	{                                                                                                        \
		memset(&(error), 0, sizeof(error));                                                                  \
		LlmCode got_ = (call);                                                                               \
		if (got_ != (expected) || (error).code != (expected) || strstr((error).message, text) == NULL)       \
		{                                                                                                    \
			fprintf(stderr, "FAIL %s:%d: %s gave %d \"%s\", expected %d with \"%s\"\n", __FILE__, __LINE__,  \
				#call, (int) got_, (error).message, (int) (expected), text);                                 \
			exit(1);                                                                                         \
		}                                                                                                    \
	} while (0)

/* Counts the memory in use; fails every allocation after fail_after further ones (negative: never fails). */
typedef struct TestMemory
{
	size_t held;
	size_t peak;
	long fail_after;
} TestMemory;

static inline void *
test_memory_alloc(void *context, size_t size)
{
	TestMemory *memory = context;
	void *block;

	if (memory->fail_after == 0)
		return NULL;
	if (memory->fail_after > 0)
		memory->fail_after--;
	block = aligned_alloc(64, (size + 63) / 64 * 64 + (size == 0 ? 64 : 0));
	if (block == NULL)
		return NULL;
	memory->held += size;
	if (memory->held > memory->peak)
		memory->peak = memory->held;
	return block;
}

static inline void
test_memory_release(void *context, void *block, size_t size)
{
	((TestMemory *) context)->held -= size;
	free(block);
}

static inline LlmAllocator
test_allocator(TestMemory *memory)
{
	*memory = (TestMemory){.fail_after = -1};
	return (LlmAllocator){test_memory_alloc, test_memory_release, memory};
}

/* A small random generator for test data: the same values on every machine. */
static inline uint64_t
test_random(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15u;
	uint64_t z = *state;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static inline float
test_uniform(uint64_t *state) /* in (-1, 1) */
{
	return (float) ((int64_t) (test_random(state) >> 40) - (1 << 23)) / (float) (1 << 23);
}

#endif
