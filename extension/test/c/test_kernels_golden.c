/*
 * One permanent hash per kernel: the bits must not change with the compiler, its options or the processor
 * (this test runs on arm64, too). A new constant means new bits for every saved result: change it
 * deliberately. With an argument the hashes are printed in the form of the table below.
 */
#include "levels.h"

#include "engine/broadcast.h"
#include "engine/sql_layers.h"
#include "engine/convolution.h"
#include "engine/parallel.h"
#include "engine/ops/direct.h"
#include "engine/rotary.h"
#include "engine/sample.h"
#include "kernels/random.h"

#define N 20000

static float x[N], y[N], out[N];
static LlmError err;

static void
hash_unary(uint64_t *hash, int f)
{
	CHECK_OK(llm_unary((LlmUnary) f, N, x, out, &err), err);
	hash_floats(hash, N, out);
}

static void
hash_binary(uint64_t *hash, int op)
{
	CHECK_OK(llm_binary((LlmBinary) op, N / 40, 40, x, true, true, y, false, true, out, &err), err);
	hash_floats(hash, N, out);
}

static void
hash_sums(uint64_t *hash, int unused)
{
	for (size_t n = 1; n < N; n += 1 + n / 3)
	{
		float sums[] = {(float) llm_kernels->sum(n, y), (float) llm_kernels->sum_squares(n, y, 0.125f)};

		hash_floats(hash, 2, sums);
	}
	llm_kernels->sum_rows(300, 60, y, 61, out);
	hash_floats(hash, 60, out);
}

static void
hash_softmax(uint64_t *hash, int unused)
{
	for (size_t n = 1; n < N; n += 1 + n / 3)
	{
		llm_kernels->softmax(n, n % 50, 4, y, out);
		hash_floats(hash, n, out);
	}
}

static void
hash_cross_entropy(uint64_t *hash, int unused)
{
	for (size_t n = 1; n < N; n += 1 + n / 3)
	{
		out[0] = llm_kernels->cross_entropy(n, y, n / 2);
		hash_floats(hash, 1, out);
	}
}

static void
hash_layernorm(uint64_t *hash, int unused)
{
	for (int C = 1; C < 1000; C += 1 + C / 2)
	{
		CHECK_OK(llm_layernorm(5, C, y, y + 5000, y + 6000, 1e-5f, out, &err), err);
		hash_floats(hash, 5 * C, out);
	}
}

static void
hash_rmsnorm(uint64_t *hash, int unused)
{
	CHECK_OK(llm_rmsnorm(N / 250, 250, x, y, 1e-5f, out, &err), err);
	hash_floats(hash, N, out);
}

static void
hash_rope(uint64_t *hash, int interleaved)
{
	static const int32_t positions[] = {0, 1, 77, 8191, 131071, -3};
	LlmRotary r = {.NH = 3,
		.HS = 22,
		.dims = 14,
		.interleaved = interleaved,
		.theta = 500000,
		.scaling = {32, 1, 4, interleaved ? 0 : 8192}};
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);

	CHECK_OK(llm_rotary(&r, 100, positions, 6, interleaved, y, out, &memory, &err), err);
	hash_floats(hash, 100 * 66, out);
}

static void
hash_conv2d(uint64_t *hash, int unused)
{
	LlmConvHow how = {.stride = 2, .groups = 1, .pad = {1, 1, 0, 2}};
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmConv c;

	CHECK_OK(llm_conv_shape(4, (int[]){2, 15, 9, 11}, 4, (int[]){7, 15, 3, 3}, 1, (int[]){7}, &how, &c, &err),
		err);
	CHECK_OK(llm_conv(&c, y, y + 3000, y + 4000, out, &memory, &err), err);
	hash_floats(hash, 2 * 7 * c.OH * c.OW, out);
	CHECK_OK(llm_conv_dx(&c, y + 3000, y, out, &memory, &err), err);
	hash_floats(hash, 2 * 15 * 9 * 11, out);
	memset(out, 0, 7 * 15 * 9 * sizeof(float));
	CHECK_OK(llm_conv_dw(&c, y, y + 3000, out, &memory, &err), err);
	hash_floats(hash, 7 * 15 * 9, out);
}

/* Rows of 32, 16 and 8 pixels are read in place on some instruction sets, and not on others. */
static void
hash_conv2d_rows(uint64_t *hash, int unused)
{
	LlmConvHow how = {.stride = 1, .groups = 1, .pad = {1, 1, 1, 1}};
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmConv c;

	for (int width = 8; width <= 32; width *= 2)
	{
		CHECK_OK(llm_conv_shape(
					 4, (int[]){2, 16, 6, width}, 4, (int[]){11, 16, 3, 3}, 1, (int[]){11}, &how, &c, &err),
			err);
		CHECK_OK(llm_conv(&c, y, y + 7000, y + 9000, out, &memory, &err), err);
		hash_floats(hash, 2 * 11 * 6 * width, out);
		CHECK_OK(llm_conv_dx(&c, y + 7000, y, out, &memory, &err), err);
		hash_floats(hash, 2 * 16 * 6 * width, out);
		memset(out, 0, 11 * 16 * 9 * sizeof(float));
		CHECK_OK(llm_conv_dw(&c, y, y + 7000, out, &memory, &err), err);
		hash_floats(hash, 11 * 16 * 9, out);
	}
}

static void
hash_groupnorm(uint64_t *hash, int unused)
{
	int dims[3] = {2, 6, 410};
	float sums[12] = {0};
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);

	CHECK_OK(llm_groupnorm(3, dims, 2, y, y + 5, y + 50, 1e-5f, out, &err), err);
	hash_floats(hash, 2 * 6 * 410, out);
	CHECK_OK(
		llm_groupnorm_backward(3, dims, 2, y, y + 5, 1e-5f, y + 7, out, sums, sums + 6, &memory, &err), err);
	hash_floats(hash, 2 * 6 * 410, out);
	hash_floats(hash, 12, sums);
}

static void
hash_log_softmax(uint64_t *hash, int unused)
{
	CHECK_OK(llm_log_softmax(4, N / 4, y, out, &err), err);
	hash_floats(hash, N, out);
}

static void
hash_clamp(uint64_t *hash, int unused)
{
	CHECK_OK(llm_clamp(N, -0.5f, 0.25f, x, out, &err), err);
	hash_floats(hash, N, out);
}

static void
hash_where(uint64_t *hash, int unused)
{
	const int dims[] = {N / 40, 40};
	const LlmOperand in[3] = {{2, dims, x}, {1, dims + 1, y}, {2, dims, y}};

	CHECK_OK(llm_broadcast_select(in, out, &err), err);
	hash_floats(hash, N, out);
}

static void
hash_cumsum(uint64_t *hash, int unused)
{
	CHECK_OK(llm_cumsum(4, N / 4, y, out, &err), err);
	hash_floats(hash, N, out);
}

static void
hash_matmul(uint64_t *hash, int unused)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);

	for (int M = 1; M < 40; M += M)
	{
		CHECK_OK(llm_matmul(M, 45, 300, y, y + 4000, false, out, &memory, &err), err);
		hash_floats(hash, M * 45, out);
	}
}

static void
hash_attention(uint64_t *hash, int unused)
{
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmAttention a = llm_self_attention(1, 140, 2, 20, true);
	LlmQkv in = llm_qkv_of(&a, y);
	LlmKvCache cache;

	a.scale = 0.5f;
	CHECK_OK(llm_kv_create(&cache, 1, 2, 20, 140, &memory, &err), err);
	CHECK_OK(llm_attention(&a, &in, &cache, out, NULL, NULL, &memory, &err), err);
	llm_kv_free(&cache, &memory);
	hash_floats(hash, 140 * 40, out);
}

static void
hash_random(uint64_t *hash, int unused)
{
	LlmStream stream = llm_stream(1, "h.0.mlp.c_fc.weight", 2, 3);

	llm_normal(&stream, 0, N, 0.02f, out);
	hash_floats(hash, N, out);
	CHECK_OK(llm_dropout(&stream, 0.1f, true, N, y, out, &err), err);
	hash_floats(hash, N, out);
}

static void
hash_sample(uint64_t *hash, int unused)
{
	LlmSampling how = {.temperature = 0.7, .topk = 50, .topp = 0.9};
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);

	for (int i = 0; i < 300; i++)
	{
		int32_t id;
		float number;

		CHECK_OK(llm_sample(&how, 5000, y + i, i / 300.0, &memory, &id, &err), err);
		number = (float) id;
		hash_floats(hash, 1, &number);
	}
}

static const struct
{
	const char *name;
	void (*make)(uint64_t *hash, int which);
	int which;
	uint64_t hash;
} kernels[] = {
	{"exp", hash_unary, LLM_EXP, 0x830391c2f5afec9a},
	{"log", hash_unary, LLM_LOG, 0x2c06c44be22d6de1},
	{"tanh", hash_unary, LLM_TANH, 0xa7c21533b26c5f6b},
	{"sqrt", hash_unary, LLM_SQRT, 0x466e25adb346bac7},
	{"relu", hash_unary, LLM_RELU, 0x52198a841b38b9b2},
	{"erf", hash_unary, LLM_ERF, 0xd331057a215ca37c},
	{"gelu_tanh", hash_unary, LLM_GELU_TANH, 0xfed99c907591e825},
	{"gelu_erf", hash_unary, LLM_GELU_ERF, 0x9884ded955143599},
	{"sigmoid", hash_unary, LLM_SIGMOID, 0x8ea984759725a365},
	{"silu", hash_unary, LLM_SILU, 0x2eea0df95e1a14a5},
	{"sin", hash_unary, LLM_SIN, 0xbbf07b69e9507163},
	{"cos", hash_unary, LLM_COS, 0x6e314c7afa9ebdd8},
	{"add", hash_binary, LLM_ADD, 0x86d69118043f6efe},
	{"div", hash_binary, LLM_DIV, 0x1f6b4ed2a370c95b},
	{"max", hash_binary, LLM_MAX, 0xce1bac4266c3770c},
	{"sums", hash_sums, 0, 0x38b7baf04bc86e31},
	{"softmax", hash_softmax, 0, 0x1bbcd51430316cc3},
	{"cross_entropy", hash_cross_entropy, 0, 0x93d424a25917ff3f},
	{"layernorm", hash_layernorm, 0, 0x4a1bf7ce1ddad13a},
	{"rmsnorm", hash_rmsnorm, 0, 0x24c7ca459b720da5},
	{"rope", hash_rope, 0, 0x2ac91b606b1715bc},
	{"rope_back", hash_rope, 1, 0xd5cafa4405fe5265},
	{"log_softmax", hash_log_softmax, 0, 0xcccf367e695847b3},
	{"conv2d", hash_conv2d, 0, 0x8e03ed6d2488e88e},
	{"conv2d_rows", hash_conv2d_rows, 0, 0x2b0b1834a2d4058d},
	{"groupnorm", hash_groupnorm, 0, 0x6f5bdfd8a709e1af},
	{"greater", hash_binary, LLM_GREATER, 0x955519ca10f20da5},
	{"abs", hash_unary, LLM_ABS, 0x50ced69827060ab9},
	{"clamp", hash_clamp, 0, 0x118fbcf530b0ec1e},
	{"where", hash_where, 0, 0x5ebc42ebdf045825},
	{"cumsum", hash_cumsum, 0, 0x79bd5bfce2260b20},
	{"matmul", hash_matmul, 0, 0xecfb06ce9aa951b5},
	{"attention", hash_attention, 0, 0x9d12b0907419e37b},
	{"random", hash_random, 0, 0xea010a6ac3fd3773},
	{"sample", hash_sample, 0, 0xa53ee0e62de98315},
};

int
main(int argc, char **argv)
{
	uint64_t state = 3;

	for (int i = 0; i < N; i++)
	{
		uint32_t bits = (uint32_t) test_random(&state);

		y[i] = test_uniform(&state) * 3;
		x[i] = y[i];
		if (bits % 4 == 0) /* values of every size, infinities, NaN, denormals */
			memcpy(&x[i], &bits, 4);
		else if (bits % 64 == 1)
			x[i] = 0x1p-149f * (float) (bits >> 8);
	}
	EACH_LEVEL(isa, threads)
	for (size_t i = 0; i < sizeof(kernels) / sizeof(*kernels); i++)
	{
		uint64_t hash = 14695981039346656037u;

		kernels[i].make(&hash, kernels[i].which);
		if (argc > 1)
			printf("%-14s 0x%016llx %s %d\n", kernels[i].name, (unsigned long long) hash, llm_kernels->name,
				threads);
		else if (hash != kernels[i].hash)
		{
			fprintf(stderr, "FAIL %s (%s, %d threads): hash 0x%016llx, kept is 0x%016llx\n", kernels[i].name,
				llm_kernels->name, threads, (unsigned long long) hash, (unsigned long long) kernels[i].hash);
			return 1;
		}
	}
	return 0;
}
