/*
 * Broadcasting compared with a plain loop over every element, on random shapes; and the errors that name
 * both shapes.
 */
#include "test.h"

#include <math.h>

#include "engine/broadcast.h"

/* The element of x (own_ndim, own) that is broadcast to index at of the common shape. */
static float
element(int ndim, const int *dims, int64_t at, int own_ndim, const int *own, const float *x)
{
	int64_t offset = 0, stride = 1;

	for (int i = 0; i < ndim; i++)
	{
		int64_t index = at % dims[ndim - 1 - i];

		at /= dims[ndim - 1 - i];
		if (i >= own_ndim)
			continue;
		offset += own[own_ndim - 1 - i] == 1 ? 0 : index * stride;
		stride *= own[own_ndim - 1 - i];
	}
	return x[offset];
}

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

/* Two compatible shapes: a common one with axes dropped from the front or set to 1. */
static int
operand_shape(uint64_t *state, int ndim, const int *dims, int *own)
{
	int skip = test_random(state) % (ndim + 1);

	for (int i = skip; i < ndim; i++)
		own[i - skip] = test_random(state) % 3 ? dims[i] : 1;
	return ndim - skip;
}

static void
binary_case(uint64_t *state, int ndim, const int *dims)
{
	int a_dims[LLM_MAX_DIMS], b_dims[LLM_MAX_DIMS], out_dims[LLM_MAX_DIMS], out_ndim;
	int a_ndim = operand_shape(state, ndim, dims, a_dims), b_ndim = operand_shape(state, ndim, dims, b_dims);
	float *a = random_floats(state, product(a_ndim, a_dims)),
		  *b = random_floats(state, product(b_ndim, b_dims));
	LlmError err;
	float *out;

	CHECK_OK(llm_broadcast_shape("sub", "-", a_ndim, a_dims, b_ndim, b_dims, &out_ndim, out_dims, &err), err);
	out = malloc(product(out_ndim, out_dims) * sizeof(float) + 1);
	CHECK_OK(llm_broadcast_binary(LLM_SUB, a_ndim, a_dims, a, b_ndim, b_dims, b, out, &err), err);
	for (int64_t i = 0; i < product(out_ndim, out_dims); i++)
		CHECK(out[i] == element(out_ndim, out_dims, i, a_ndim, a_dims, a) -
							element(out_ndim, out_dims, i, b_ndim, b_dims, b));
	free(a);
	free(b);
	free(out);
}

static void
matmul_case(uint64_t *state, int ndim, const int *dims, int M, int K, int N)
{
	int a_dims[LLM_MAX_DIMS], b_dims[LLM_MAX_DIMS], out_dims[LLM_MAX_DIMS], out_ndim;
	int a_batch = operand_shape(state, ndim, dims, a_dims),
		b_batch = operand_shape(state, ndim, dims, b_dims);
	int64_t a_size = product(a_batch, a_dims) * M * K, b_size = product(b_batch, b_dims) * K * N, size;
	float *a = random_floats(state, a_size), *b = random_floats(state, b_size), *out;
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmError err;

	a_dims[a_batch] = M, a_dims[a_batch + 1] = K, b_dims[b_batch] = K, b_dims[b_batch + 1] = N;
	CHECK_OK(
		llm_matmul_shape("matmul", a_batch + 2, a_dims, b_batch + 2, b_dims, &out_ndim, out_dims, &err), err);
	CHECK(out_dims[out_ndim - 2] == M && out_dims[out_ndim - 1] == N);
	size = product(out_ndim, out_dims);
	out = malloc(size * sizeof(float) + 1);
	CHECK_OK(llm_broadcast_matmul(a_batch + 2, a_dims, a, b_batch + 2, b_dims, b, out, &memory, &err), err);
	CHECK(counted.held == 0);
	for (int64_t i = 0; i < size; i++)
	{
		int64_t batch = i / N / M, row = i / N % M, column = i % N;
		double sum = 0;

		for (int k = 0; k < K; k++)
		{
			/* finds the first element of each matrix of the batch by the same rule */
			int64_t a_at = 0, b_at = 0, a_stride = 1, b_stride = 1, rest = batch;

			for (int d = 0; d < out_ndim - 2; d++)
			{
				int64_t index = rest % out_dims[out_ndim - 3 - d];

				rest /= out_dims[out_ndim - 3 - d];
				if (d < a_batch)
				{
					a_at += a_dims[a_batch - 1 - d] == 1 ? 0 : index * a_stride;
					a_stride *= a_dims[a_batch - 1 - d];
				}
				if (d < b_batch)
				{
					b_at += b_dims[b_batch - 1 - d] == 1 ? 0 : index * b_stride;
					b_stride *= b_dims[b_batch - 1 - d];
				}
			}
			sum += (double) a[(a_at * M + row) * K + k] * b[(b_at * K + k) * N + column];
		}
		CHECK(fabs(out[i] - sum) <= 1e-6 * (K + 1));
	}
	free(a);
	free(b);
	free(out);
}

static void
errors(void)
{
	LlmError err;
	int n, out[LLM_MAX_DIMS];

	CHECK_FAILS(llm_broadcast_shape("add", "+", 2, (int[]){4, 3}, 2, (int[]){2, 3}, &n, out, &err), LLM_SHAPE,
		"add: (4,3) + (2,3): lengths 4 and 2 of axis -2 differ", err);
	CHECK_FAILS(llm_matmul_shape("matmul", 2, (int[]){4, 3}, 2, (int[]){4, 2}, &n, out, &err), LLM_SHAPE,
		"matmul: (4,3) @ (4,2): inner dimensions 3 and 4 differ", err);
	CHECK(strstr(err.hint, "(x @ w) + b") != NULL && strstr(err.hint, "transpose") == NULL);
	CHECK_FAILS(llm_matmul_shape("matmul", 1, (int[]){3}, 2, (int[]){4, 3}, &n, out, &err), LLM_SHAPE,
		"3 and 4", err);
	CHECK(strstr(err.hint, "transpose(w)") != NULL);
	CHECK_FAILS(
		llm_matmul_shape("matmul", 0, NULL, 1, (int[]){3}, &n, out, &err), LLM_SHAPE, "a scalar", err);
	CHECK_FAILS(llm_matmul_shape("matmul", 3, (int[]){2, 4, 3}, 3, (int[]){5, 3, 1}, &n, out, &err),
		LLM_SHAPE, "lengths 2 and 5 of leading axis -3", err);
	CHECK_OK(llm_matmul_shape("matmul", 1, (int[]){3}, 1, (int[]){3}, &n, out, &err), err);
	CHECK(n == 0);
	CHECK_OK(llm_matmul_shape("matmul", 1, (int[]){3}, 3, (int[]){7, 3, 2}, &n, out, &err), err);
	CHECK(n == 2 && out[0] == 7 && out[1] == 2);
	CHECK_OK(llm_axis("sum", 2, (int[]){2, 3}, -1, &n, &err), err);
	CHECK(n == 1);
	CHECK_FAILS(llm_axis("sum", 2, (int[]){2, 3}, 2, &n, &err), LLM_SHAPE, "shape (2,3) has no axis 2", err);
	CHECK_FAILS(llm_axis("sum", 0, NULL, 0, &n, &err), LLM_SHAPE, "scalar", err);
}

int
main(void)
{
	uint64_t state = 7;

	for (int round = 0; round < 300; round++)
	{
		int dims[LLM_MAX_DIMS], ndim = test_random(&state) % 5;

		for (int i = 0; i < ndim; i++)
			dims[i] = test_random(&state) % (round % 10 ? 5 : 20);
		binary_case(&state, ndim, dims);
		if (ndim < 4)
			matmul_case(&state, ndim, dims, test_random(&state) % 4, test_random(&state) % 6,
				test_random(&state) % 40);
	}
	binary_case(&state, 2, (int[]){3, 40000});
	binary_case(&state, 2, (int[]){40000, 3});
	errors();
	return 0;
}
