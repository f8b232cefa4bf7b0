#include "engine/measure.h"

#include <time.h>

#include "engine/gradients.h"
#include "engine/pool.h"
#include "kernels/random.h"

/* Larger than any last-level cache, so that the reads come from memory. */
#define READ_FLOATS ((size_t) 64 << 20)
#define ROUNDS 2000000
/*
 * BURSTS: the rounds are split into this many bursts, with a poll for a stop between them. FILLED: elements
 * that a task fills.
 */
#define BURSTS 64
#define FILLED 65536

typedef struct Burst
{
	int threads;
	const float *data;
	_Atomic double operations; /* of one task; all tasks do the same number */
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
	double operations = 0;

	for (int i = 0; i < BURSTS && !llm_pool_stopping(worker); i++)
		operations += llm_kernels->burst_fma(ROUNDS / BURSTS, &sink);
	b->operations = operations;
}

static void
read_task(void *context, int task, int worker)
{
	Burst *b = context;
	size_t n = READ_FLOATS / 64;

	(void) worker;
	b->sum = llm_kernels->burst_read(n, b->data + task * n);
}

LlmCode
llm_measure_peak(int repeats, const LlmAllocator *memory, double *flops, double *bytes, LlmError *err)
{
	Burst b = {.threads = llm_pool_threads()};
	float *data = memory->alloc(memory->context, READ_FLOATS * sizeof(float));
	LlmCode code;

	if (data == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory for the %zu MB that are read", READ_FLOATS * 4 >> 20);
	code = llm_fill(READ_FLOATS, 1, data, err);
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

/*
 * The matrices of a product: input and output rows, and the weight or its gradient in panels, as in
 * training.
 */
typedef struct Matrices
{
	float *x, *y, *panels;
} Matrices;

static LlmCode
multiply(
	LlmProduct product, int M, int K, int N, const Matrices *m, const LlmAllocator *memory, LlmError *err)
{
	switch (product)
	{
		case LLM_PRODUCT_DX:
			return llm_matmul_dx_panels(M, N, K, m->y, m->panels, m->x, memory, err);
		case LLM_PRODUCT_DW:
			return llm_matmul_dw_panels(M, N, K, m->x, m->y, m->panels, memory, err);
		default:
			return llm_matmul_packed(M, N, K, m->x, K, m->panels, m->y, memory, err);
	}
}

/* Ordinary values, no denormals. */
typedef struct Fill
{
	size_t n;
	float *out;
} Fill;

static void
fill_task(void *context, int task, int worker)
{
	const Fill *f = context;
	LlmStream stream = llm_stream(0, "measure", 0, 0);
	size_t at = (size_t) task * FILLED;

	(void) worker;
	for (size_t i = at; i < f->n && i < at + FILLED; i++)
		f->out[i] = (float) llm_uniform(&stream, i % FILLED) - 0.5f;
}

LlmCode
llm_measure_matmul(LlmProduct product, int M, int K, int N, int repeats, const LlmAllocator *memory,
	double *seconds, LlmError *err)
{
	size_t x = (size_t) M * K, y = (size_t) M * N, panels = llm_packed_floats(K, N);
	size_t bytes = (x + y + panels) * sizeof(float);
	float *all = memory->alloc(memory->context, bytes);
	Matrices m = {all, all + x, all + x + y};
	LlmCode code;

	if (all == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory for matrices of %zu MB", bytes >> 20);
	code = llm_parallel(
		(int) ((x + y + panels + FILLED - 1) / FILLED), fill_task, &(Fill){x + y + panels, all}, err);
	*seconds = 1e30;
	for (int r = 0; code == LLM_OK && r < repeats; r++)
	{
		double start = now();

		code = multiply(product, M, K, N, &m, memory, err);
		if (now() - start < *seconds)
			*seconds = now() - start;
	}
	memory->release(memory->context, all, bytes);
	return code;
}
