/*
 * Attention as a layer compared with plain loops in double, the values of dropout, comparisons; every
 * allocation may fail.
 */
#include "test.h"

#include <math.h>

#include "engine/compare.h"
#include "engine/sql_layers.h"
#include "engine/parallel.h"

static float *
random_floats(uint64_t *state, int64_t n)
{
	float *x = malloc(n * sizeof(float) + 1);

	for (int64_t i = 0; i < n; i++)
		x[i] = test_uniform(state);
	return x;
}

/* y (rows,N) = x (rows,K) @ w (K,N) + b (N), in double */
static void
linear(int rows, int K, int N, const double *x, const float *w, const float *b, double *y)
{
	for (int i = 0; i < rows; i++)
		for (int j = 0; j < N; j++)
		{
			y[i * N + j] = b[j];
			for (int k = 0; k < K; k++)
				y[i * N + j] += x[i * K + k] * w[k * N + j];
		}
}

/* out (T,C): one sequence, by the formula. */
static void
reference(int T, int C, int NH, bool causal, const float *x, const LlmAttentionWeights *w, double *out)
{
	int HS = C / NH;
	double *wide = malloc(T * C * sizeof(double)), *qkv = malloc(T * 3 * C * sizeof(double));
	double *heads = calloc(T * C, sizeof(double)), *p = malloc(T * sizeof(double));

	for (int i = 0; i < T * C; i++)
		wide[i] = x[i];
	linear(T, C, 3 * C, wide, w->w_qkv, w->b_qkv, qkv);
	for (int h = 0; h < NH; h++)
		for (int t = 0; t < T; t++)
		{
			double sum = 0;
			int keys = causal ? t + 1 : T;

			for (int s = 0; s < keys; s++)
			{
				double score = 0;

				for (int c = h * HS; c < (h + 1) * HS; c++)
					score += qkv[t * 3 * C + c] * qkv[s * 3 * C + C + c];
				p[s] = exp(score / sqrt(HS));
				sum += p[s];
			}
			for (int s = 0; s < keys; s++)
				for (int c = h * HS; c < (h + 1) * HS; c++)
					heads[t * C + c] += p[s] / sum * qkv[s * 3 * C + 2 * C + c];
		}
	linear(T, C, C, heads, w->w_o, w->b_o, out);
	free(wide);
	free(qkv);
	free(heads);
	free(p);
}

/* The intermediate results of the layer are those of its operations, and requesting them changes nothing. */
static void
check_trace(
	int B, int T, int NH, int HS, bool causal, const float *x, const LlmAttentionWeights *w, const float *out)
{
	size_t C = (size_t) NH * HS, n = (size_t) B * T;
	float *room = calloc(n * (11 * C + 2 * NH * T) + 1, sizeof(float)), *again = room + 10 * n * C;
	LlmAttentionTrace trace = {room, room + 3 * n * C, room + 6 * n * C, room + 11 * n * C,
		room + 11 * n * C + n * NH * T, room + 7 * n * C};
	float *sum = room + 8 * n * C; /* (n,C), in scratch that no intermediate result uses */
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmError err;

	CHECK_OK(llm_attention_layer_traced(B, T, C, NH, causal, x, w, &trace, again, &memory, &err), err);
	CHECK(memcmp(again, out, n * C * sizeof(float)) == 0);
	for (size_t i = 0; i < 3 * n * C; i++)
		CHECK(trace.qkv[i] == trace.qkv_matmul[i] + w->b_qkv[i % (3 * C)]);
	for (size_t i = 0; i < n * C; i++)
		CHECK(out[i] == trace.proj_matmul[i] + w->b_o[i % C]);
	if (n > 0)
		CHECK_OK(llm_matmul((int) n, C, C, trace.heads, w->w_o, false, sum, &memory, &err), err);
	CHECK(memcmp(sum, trace.proj_matmul, n * C * sizeof(float)) == 0);
	for (size_t row = 0; row < n * NH; row++)
	{
		double all = 0;

		for (int k = 0; k < T; k++)
		{
			all += trace.probs[row * T + k];
			CHECK(isfinite(trace.scores[row * T + k]) == (!causal || k <= (int) (row % T)));
		}
		CHECK(fabs(all - 1) < 1e-6);
	}
	free(room);
}

static void
attention_case(uint64_t *state, int B, int T, int NH, int HS, bool causal)
{
	int C = NH * HS;
	float *x = random_floats(state, B * T * C), *w_qkv = random_floats(state, 3 * C * C);
	float *b_qkv = random_floats(state, 3 * C), *w_o = random_floats(state, C * C),
		  *b_o = random_floats(state, C);
	float *out = malloc(B * T * C * sizeof(float) + 1);
	double *expected = malloc(T * C * sizeof(double) + 1);
	LlmAttentionWeights weights = {w_qkv, b_qkv, w_o, b_o};
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmError err;

	CHECK_OK(llm_attention_layer(B, T, C, NH, causal, x, &weights, out, &memory, &err), err);
	CHECK(counted.held == 0);
	for (int b = 0; b < B; b++)
	{
		reference(T, C, NH, causal, x + b * T * C, &weights, expected);
		for (int i = 0; i < T * C; i++)
			CHECK(fabs(out[b * T * C + i] - expected[i]) <= 1e-5 * C);
	}
	check_trace(B, T, NH, HS, causal, x, &weights, out);
	for (int fail = 0; B * T > 0; fail++)
	{
		LlmCode code;

		memory = test_allocator(&counted);
		counted.fail_after = fail;
		code = llm_attention_layer(B, T, C, NH, causal, x, &weights, out, &memory, &err);
		CHECK(counted.held == 0);
		if (code == LLM_OK)
			break;
		CHECK(code == LLM_NO_MEMORY);
	}
	free(x);
	free(w_qkv);
	free(b_qkv);
	free(w_o);
	free(b_o);
	free(out);
	free(expected);
}

static void
dropout(void)
{
	enum
	{
		N = 100001
	};
	LlmStream stream = llm_stream(5, "dropout", 0, 0);
	float *x = malloc(N * sizeof(float)), *out = malloc(N * sizeof(float));
	LlmError err;
	int kept = 0;

	for (int i = 0; i < N; i++)
		x[i] = 3;
	CHECK_OK(llm_dropout(&stream, 0.25f, true, N, x, out, &err), err);
	for (int i = 0; i < N; i++)
	{
		CHECK(out[i] == 0 || out[i] == 4);
		kept += out[i] != 0;
	}
	CHECK(fabs(kept - 0.75 * N) < 600);
	CHECK_OK(llm_dropout(&stream, 1, true, N, x, out, &err), err);
	CHECK(out[0] == 0 && out[N - 1] == 0);
	CHECK_OK(llm_dropout(&stream, 1, false, N, x, out, &err), err);
	CHECK(out[0] == 3 && out[N - 1] == 3);
	CHECK_FAILS(llm_dropout(&stream, 1.1f, false, N, x, out, &err), LLM_INVALID, "1.1", err);
	CHECK_FAILS(llm_dropout(&stream, NAN, true, N, x, out, &err), LLM_INVALID, "between 0 and 1", err);
	free(x);
	free(out);
}

static void
comparisons(void)
{
	static const float order[] = {-INFINITY, -2, -1e-45f, -0.0f, 0.0f, 1e-45f, 1, INFINITY, NAN};
	float a[2] = {1, 0}, b[2] = {1, 0};

	for (int i = 0; i < 9; i++)
		for (int j = 0; j < 9; j++)
		{
			a[1] = order[i];
			b[1] = order[j];
			CHECK(llm_compare_total(2, a, b) == (i > j) - (i < j));
			CHECK(llm_close(2, a, b, 0, 0) == llm_close(2, b, a, 0, 0));
			CHECK(llm_close(2, a, b, 0, 0) == (i == j || (i + j == 7 && abs(i - j) == 1)));
		}
	CHECK(llm_compare_total(0, NULL, NULL) == 0 && llm_close(0, NULL, NULL, 0, 0));
	CHECK(llm_close(1, (float[]){100}, (float[]){101}, 0.01, 0) &&
		  !llm_close(1, (float[]){100}, (float[]){102}, 0.01, 0));
}

static void
shapes(void)
{
	LlmError err;
	LlmShape x = {2, {5, 6}}, weights[4] = {{2, {6, 18}}, {1, {18}}, {2, {6, 6}}, {1, {6}}};

	CHECK_OK(llm_attention_shape(&x, weights, 3, &err), err);
	CHECK_FAILS(llm_attention_shape(&x, weights, 4, &err), LLM_INVALID, "4 heads do not divide the 6", err);
	CHECK_FAILS(
		llm_attention_shape(&(LlmShape){1, {6}}, weights, 3, &err), LLM_SHAPE, "x has shape (6)", err);
	CHECK_FAILS(
		llm_attention_shape(&(LlmShape){2, {0, INT32_MAX}}, weights, 1, &err), LLM_LIMIT, "too many", err);
	weights[2].dims[1] = 7;
	CHECK_FAILS(llm_attention_shape(&x, weights, 3, &err), LLM_SHAPE,
		"w_o has shape (6,7), x (5,6) requires (6,6)", err);
	CHECK_OK(llm_layernorm_shape(2, (int[]){5, 6}, 1, (int[]){6}, 1, (int[]){6}, &err), err);
	CHECK_FAILS(llm_layernorm_shape(2, (int[]){5, 6}, 1, (int[]){6}, 2, (int[]){1, 6}, &err), LLM_SHAPE,
		"beta has shape (1,6)", err);
	CHECK_FAILS(llm_layernorm_shape(0, NULL, 1, (int[]){6}, 1, (int[]){6}, &err), LLM_SHAPE, "scalar", err);
}

int
main(void)
{
	uint64_t state = 11;

	attention_case(&state, 1, 1, 1, 1, true);
	attention_case(&state, 2, 5, 3, 2, true);
	attention_case(&state, 2, 5, 3, 2, false);
	attention_case(&state, 1, 70, 2, 9, true);
	attention_case(&state, 0, 5, 1, 4, true);
	attention_case(&state, 3, 0, 1, 4, true);
	dropout();
	comparisons();
	shapes();
	return 0;
}
