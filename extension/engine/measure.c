#include "engine/measure.h"

#include <time.h>

#include "engine/ops.h"
#include "engine/pool.h"
#include "kernels/random.h"

/* Larger than any last-level cache, so that the reads come from memory. */
#define READ_FLOATS ((size_t) 64 << 20)
#define ROUNDS 2000000

typedef struct Burst
{
	int threads;
	const float *data;
	_Atomic double operations; /* of one task; every task does as many */
	_Atomic float sum;
} Burst;

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void
fma_task(void *context, int task, int worker)
{
	Burst *b = context;
	float sink = 1e-3f;

	(void) worker;
	b->operations = llm_kernels->burst_fma(ROUNDS, &sink);
}

static void
read_task(void *context, int task, int worker)
{
	Burst *b = context;
	size_t part = READ_FLOATS / 64;

	(void) worker;
	b->sum = llm_kernels->burst_read(part, b->data + task * part);
}

LlmCode
llm_measure_peak(int repeats, const LlmAllocator *memory, double *flops, double *bytes, LlmError *err)
{
	Burst b = {.threads = llm_pool_threads()};
	float *data = memory->alloc(memory->context, READ_FLOATS * sizeof(float));
	LlmCode code = LLM_OK;

	if (data == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory for the %zu MB that are read", READ_FLOATS * 4 >> 20);
	for (size_t i = 0; i < READ_FLOATS; i++)
		data[i] = 1;
	b.data = data;
	*flops = *bytes = 0;
	for (int r = 0; code == LLM_OK && r < repeats; r++)
	{
		double start = now(), seconds;

		code = llm_parallel(b.threads, fma_task, &b, err);
		seconds = now() - start;
		if (b.operations * b.threads / seconds > *flops)
			*flops = b.operations * b.threads / seconds;
		start = now();
		if (code == LLM_OK)
			code = llm_parallel(64, read_task, &b, err);
		seconds = now() - start;
		if (READ_FLOATS * sizeof(float) / seconds > *bytes)
			*bytes = READ_FLOATS * sizeof(float) / seconds;
	}
	memory->release(memory->context, data, READ_FLOATS * sizeof(float));
	return code;
}

LlmCode
llm_measure_matmul(
	int M, int K, int N, int repeats, const LlmAllocator *memory, double *seconds, LlmError *err)
{
	size_t a_floats = (size_t) M * K, b_floats = llm_packed_floats(K, N), out_floats = (size_t) M * N;
	size_t bytes = (a_floats + b_floats + out_floats) * sizeof(float);
	float *a = memory->alloc(memory->context, bytes), *panels, *out;
	LlmStream stream = llm_stream(0, "measure", 0, 0);
	LlmCode code = LLM_OK;

	if (a == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory for matrices of %zu MB", bytes >> 20);
	panels = a + a_floats;
	out = panels + b_floats;
	for (size_t i = 0; i < a_floats + b_floats; i++) /* plain numbers, no denormals */
		a[i] = (float) llm_uniform(&stream, i % 65536) - 0.5f;
	*seconds = 1e30;
	for (int r = 0; code == LLM_OK && r < repeats; r++)
	{
		double start = now();

		code = llm_matmul_packed(M, N, K, a, K, panels, out, err);
		if (now() - start < *seconds)
			*seconds = now() - start;
	}
	memory->release(memory->context, a, bytes);
	return code;
}
