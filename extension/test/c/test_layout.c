/* Permutations, slices and reductions compared with plain loops over every element. */
#include "test.h"

#include <math.h>

#include "engine/layout.h"
#include "engine/reduce.h"
#include "kernels/kernels.h"

static int64_t
product(int ndim, const int *dims)
{
	int64_t n = 1;

	for (int i = 0; i < ndim; i++)
		n *= dims[i];
	return n;
}

static float *
random_floats(uint64_t *state, int64_t n)
{
	float *x = malloc(n * sizeof(float) + 1);

	for (int64_t i = 0; i < n; i++)
		x[i] = test_uniform(state);
	return x;
}

static void
permute_case(uint64_t *state, int ndim, const int *dims)
{
	int axes[LLM_MAX_DIMS], order[LLM_MAX_DIMS], out_dims[LLM_MAX_DIMS];
	int64_t n = product(ndim, dims);
	float *x = random_floats(state, n), *out = malloc(n * sizeof(float) + 1);
	LlmError err;

	for (int i = 0; i < ndim; i++)
		axes[i] = i;
	for (int i = ndim - 1; i > 0; i--)
	{
		int j = test_random(state) % (i + 1), t = axes[i];

		axes[i] = axes[j];
		axes[j] = t;
	}
	CHECK_OK(llm_permute_shape(ndim, dims, ndim, axes, order, out_dims, &err), err);
	CHECK_OK(llm_permute(ndim, dims, order, x, out, &err), err);
	for (int64_t i = 0; i < n; i++)
	{
		int64_t rest = i, index[LLM_MAX_DIMS], at = 0;

		for (int d = ndim - 1; d >= 0; d--)
		{
			index[order[d]] = rest % out_dims[d];
			rest /= out_dims[d];
		}
		for (int d = 0; d < ndim; d++)
			at = at * dims[d] + index[d];
		CHECK(out[i] == x[at]);
	}
	free(x);
	free(out);
}

static void
slice_case(uint64_t *state, int ndim, const int *dims)
{
	int starts[LLM_MAX_DIMS], stops[LLM_MAX_DIMS], out_dims[LLM_MAX_DIMS],
		n = test_random(state) % (ndim + 1);
	float *x = random_floats(state, product(ndim, dims)), *out;
	LlmError err;

	for (int i = 0; i < n; i++)
	{
		starts[i] = test_random(state) % (dims[i] + 1);
		stops[i] = starts[i] + test_random(state) % (dims[i] - starts[i] + 1);
		if (starts[i] < dims[i] && test_random(state) % 4 == 0)
			starts[i] -= dims[i];
	}
	CHECK_OK(llm_slice_shape(ndim, dims, n, starts, stops, NULL, out_dims, &err), err);
	out = malloc(product(ndim, out_dims) * sizeof(float) + 1);
	CHECK_OK(llm_slice(ndim, dims, n, starts, stops, NULL, x, out, &err), err);
	for (int64_t i = 0; i < product(ndim, out_dims); i++)
	{
		int64_t rest = i, at = 0, stride = 1;

		for (int d = ndim - 1; d >= 0; d--)
		{
			at += (rest % out_dims[d] + (d < n ? starts[d] : 0)) * stride;
			stride *= dims[d];
			rest /= out_dims[d];
		}
		CHECK(out[i] == x[at]);
	}
	free(x);
	free(out);
}

/* The reduced elements, copied to contiguous memory, must give the same bits with the same kernel. */
static void
reduce_case(uint64_t *state, int64_t outer, int64_t n, int64_t inner)
{
	float *x = random_floats(state, outer * n * inner), *out = malloc(outer * inner * sizeof(float) + 1);
	float *run = malloc(n * sizeof(float) + 1);
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmError err;

	if (outer * n * inner > 3)
		x[test_random(state) % (outer * n * inner)] = NAN;
	for (int kind = LLM_REDUCE_SUM; kind <= LLM_REDUCE_ARGMAX; kind++)
	{
		if (n == 0 && kind >= LLM_REDUCE_MAX)
			continue;
		CHECK_OK(llm_reduce(kind, outer, n, inner, x, out, &memory, &err), err);
		for (int64_t i = 0; i < outer * inner; i++)
		{
			size_t index = 0;
			float expected = 0, mean;

			for (int64_t j = 0; j < n; j++)
				run[j] = x[(i / inner * n + j) * inner + i % inner] * (kind == LLM_REDUCE_MIN ? -1 : 1);
			mean = (float) (llm_kernels->sum(n, run) / (double) n);
			if (kind == LLM_REDUCE_SUM)
				expected = (float) llm_kernels->sum(n, run);
			else if (kind == LLM_REDUCE_MEAN)
				expected = mean;
			else if (kind == LLM_REDUCE_VAR)
				expected = (float) (llm_kernels->sum_squares(n, run, mean) / (double) n);
			else if (kind == LLM_REDUCE_NORM)
				expected = (float) sqrt(llm_kernels->sum_squares(n, run, 0));
			else
				expected = llm_kernels->max(n, run, &index);
			if (kind == LLM_REDUCE_MIN)
				expected = -expected;
			if (kind == LLM_REDUCE_ARGMAX)
				expected = index;
			CHECK(isnan(expected) ? isnan(out[i]) : out[i] == expected);
		}
	}
	CHECK(counted.held == 0);
	free(x);
	free(out);
	free(run);
}

static void
errors(void)
{
	LlmError err;
	int out[LLM_MAX_DIMS] = {2, -1}, order[LLM_MAX_DIMS], starts[1] = {-5}, stops[1] = {2};
	float x;
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);

	CHECK_OK(llm_reshape_shape(2, (int[]){3, 4}, 2, out, &err), err);
	CHECK(out[1] == 6);
	CHECK_FAILS(
		llm_reshape_shape(2, (int[]){3, 4}, 2, (int[]){5, -1}, &err), LLM_SHAPE, "(3,4) with 12", err);
	CHECK_FAILS(llm_reshape_shape(1, (int[]){4}, 2, (int[]){-1, -1}, &err), LLM_INVALID, "no shape", err);
	CHECK_FAILS(llm_reshape_shape(1, (int[]){0}, 2, (int[]){0, -1}, &err), LLM_SHAPE, "(0,-1)", err);
	CHECK_FAILS(
		llm_permute_shape(2, (int[]){3, 4}, 2, (int[]){0, -2}, order, out, &err), LLM_SHAPE, "twice", err);
	CHECK_FAILS(
		llm_permute_shape(2, (int[]){3, 4}, 1, (int[]){0}, order, out, &err), LLM_SHAPE, "1 are listed", err);
	CHECK_FAILS(llm_slice_shape(1, (int[]){4}, 1, starts, stops, NULL, out, &err), LLM_SHAPE, "-5 to 2", err);
	CHECK_FAILS(llm_reduce(LLM_REDUCE_MAX, 1, 0, 1, NULL, &x, &memory, &err), LLM_SHAPE, "no elements", err);
}

int
main(void)
{
	uint64_t state = 3;

	for (int round = 0; round < 500; round++)
	{
		int dims[LLM_MAX_DIMS], ndim = test_random(&state) % 6;

		for (int i = 0; i < ndim; i++)
			dims[i] = test_random(&state) % (round % 5 ? 5 : 10);
		permute_case(&state, ndim, dims);
		slice_case(&state, ndim, dims);
		reduce_case(&state, test_random(&state) % 4, test_random(&state) % 70, test_random(&state) % 40);
	}
	permute_case(&state, 2, (int[]){70, 5000});
	permute_case(&state, 3, (int[]){40, 33, 65});
	reduce_case(&state, 2, 9000, 3);
	reduce_case(&state, 1, 80000, 1);
	reduce_case(&state, 1, 70000, 17);
	reduce_case(&state, 2, 66000, 2);
	errors();
	return 0;
}
