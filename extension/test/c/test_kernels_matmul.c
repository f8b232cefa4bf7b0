/*
 * The matmul kernels and the product over the thread pool: the order of additions of the plain triple loop,
 * whatever the instruction set, the tile, the panel and the number of threads.
 */
#include "levels.h"

#include "engine/quantized.h"
#include "engine/parallel.h"

static int
columns(int N, int panel)
{
	return N - panel * LLM_PANEL < LLM_PANEL ? N - panel * LLM_PANEL : LLM_PANEL;
}

/*
 * Tiles and panels block by block, as the engine uses them; out's rows are ldo apart, with another tile's
 * elements between them.
 */
static void
blocks_case(int M, int N, int K, const float *a, size_t lda, const float *panels, const float *want)
{
	int count = (N + LLM_PANEL - 1) / LLM_PANEL, ldo = N + 3;
	float *rows = odd_floats((size_t) M * LLM_BLOCK), *out = odd_output((size_t) M * ldo);
	float *got = odd_output((size_t) M * N);

	for (int k = 0; k < K; k += LLM_BLOCK)
	{
		int kc = K - k < LLM_BLOCK ? K - k : LLM_BLOCK;

		llm_kernels->pack_rows(M, kc, a + k, lda, rows);
		for (int p = 0; p < count; p++)
			llm_kernels->matmul_block(M, kc, rows, panels + ((size_t) p * K + k) * LLM_PANEL,
				out + p * LLM_PANEL, ldo, columns(N, p), k == 0);
	}
	for (int m = 0; m < M; m++)
	{
		memcpy(got + (size_t) m * N, out + (size_t) m * ldo, N * sizeof(float));
		for (size_t i = N * sizeof(float); i < ldo * sizeof(float); i++)
			CHECK(((unsigned char *) (out + (size_t) m * ldo))[i] == GUARD_BYTE);
	}
	check_bits("matmul_block", (size_t) M * N, want, got);
	odd_free(out);
	odd_free(rows);
}

/* One row times whole panels: the decode step. The padded columns must be 0, as those of the panels. */
static void
one_row_case(int N, int K, const float *a, const float *panels, const float *want)
{
	int count = (N + LLM_PANEL - 1) / LLM_PANEL;
	size_t width = (size_t) count * LLM_PANEL;
	float *out = odd_output(width), *padded = calloc(width + 1, sizeof(float));

	memcpy(padded, want, N * sizeof(float));
	for (int k = 0; k < K; k += LLM_BLOCK)
		llm_kernels->matvec_block(K - k < LLM_BLOCK ? K - k : LLM_BLOCK, a + k,
			panels + (size_t) k * LLM_PANEL, (size_t) K * LLM_PANEL, count, out, k == 0);
	check_bits("matvec_block", width, padded, out);
	free(padded);
}

static void
transpose(int rows, int cols, const float *from, float *to)
{
	for (int i = 0; i < rows; i++)
		for (int j = 0; j < cols; j++)
			to[(size_t) j * rows + i] = from[(size_t) i * cols + j];
}

static void
product_case(int M, int N, int K, const float *a, const float *b, bool finite)
{
	float *want = odd_floats((size_t) M * N), *bt = odd_floats((size_t) N * K),
		  *again = odd_floats((size_t) N * K);
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmError err;

	ref_matmul(M, N, K, a, b, false, want);
	transpose(K, N, b, bt);
	for (int m = 0; m < M && finite; m++)
		for (int n = 0; n < N; n++)
		{
			double exact = 0, size = 0;

			for (int k = 0; k < K; k++)
			{
				double term = (double) a[(size_t) m * K + k] * b[(size_t) k * N + n];

				exact += term;
				size += fabs(term);
			}
			CHECK(fabs(want[(size_t) m * N + n] - exact) <= size * 0x1p-24 * 32);
		}
	EACH_LEVEL(isa, threads)
	{
		size_t packed = llm_packed_floats(K, N);
		float *plain = odd_output((size_t) M * N), *turned = odd_output((size_t) M * N),
			  *panels = odd_output(packed);
		float *other = odd_output(packed);

		CHECK_OK(llm_matmul(M, N, K, a, b, false, plain, &memory, &err), err);
		check_bits("matmul", (size_t) M * N, want, plain);
		CHECK_OK(llm_matmul(M, N, K, a, bt, true, turned, &memory, &err), err);
		check_bits("matmul transposed", (size_t) M * N, want, turned);
		CHECK(counted.held == 0);

		CHECK_OK(llm_pack(K, N, b, false, panels, &err), err);
		CHECK_OK(llm_pack(K, N, bt, true, other, &err), err);
		CHECK_OK(llm_widen(LLM_FLOAT32, K, N, false, panels, again, &err), err);
		CHECK(memcmp(again, b, sizeof(float) * N * K) == 0);
		CHECK_OK(llm_widen(LLM_FLOAT32, K, N, true, other, again, &err), err);
		CHECK(memcmp(again, bt, sizeof(float) * N * K) == 0);
		if (threads == 1 && K > 0)
		{
			blocks_case(M, N, K, a, K, panels, want);
			if (M > 0 && finite)
				one_row_case(N, K, a, panels, want);
		}
		check_bits("pack transposed", packed, panels, other);
		check_bits("pack", packed, panels, panels);
	}
	odd_free(want);
	odd_free(bt);
	odd_free(again);
}

static void
random_case(uint64_t *state, int M, int N, int K)
{
	float *a = odd_random(state, (size_t) M * K), *b = odd_random(state, (size_t) K * N);

	product_case(M, N, K, a, b, true);
	odd_free(a);
	odd_free(b);
}

/* Infinities, NaN and denormals affect the elements that use them, and no others. */
static void
special_case(uint64_t *state)
{
	static const float odd[] = {INFINITY, -INFINITY, NAN, 0x1p-149f, -0x1p-140f, -0.0f, 0};
	int M = 17, N = 37, K = 131;
	float *a = odd_random(state, M * K), *b = odd_random(state, K * N);

	for (int i = 0; i < 7; i++)
	{
		a[test_random(state) % (M * K)] = odd[i];
		b[test_random(state) % (K * N)] = odd[i];
	}
	product_case(M, N, K, a, b, false);
	odd_free(a);
	odd_free(b);
}

/* A row's result does not depend on the other rows: a product computed in any pieces is the product. */
static void
cut_case(uint64_t *state)
{
	int M = 45, N = 70, K = 300;
	float *a = odd_random(state, M * K), *b = odd_random(state, K * N),
		  *panels = malloc(llm_packed_floats(K, N) * 4);
	float *want = odd_floats(M * N);
	TestMemory counted;
	LlmAllocator memory = test_allocator(&counted);
	LlmError err;

	ref_matmul(M, N, K, a, b, false, want);
	CHECK_OK(llm_pack(K, N, b, false, panels, &err), err);
	EACH_LEVEL(isa, threads)
	for (int cut = 1; cut < M; cut += 1 + cut / 3)
	{
		float *got = odd_output(M * N);

		for (int row = 0; row < M; row += cut)
			CHECK_OK(llm_matmul_packed(M - row < cut ? M - row : cut, N, K, a + row * K, K, panels,
						 got + row * N, &memory, &err),
				err);
		check_bits("matmul in parts", M * N, want, got);
	}
	odd_free(a);
	odd_free(b);
	odd_free(want);
	free(panels);
}

/*
 * A product whose right side is gathered from x: taps[k] + columns[j], where runs of so many columns are side
 * by side; and its mirror image, whose left side is. The second block is added to the first.
 */
static void
gathered_case(uint64_t *state, int m, int n, int kc, int run)
{
	size_t taps[LLM_BLOCK], columns[LLM_BLOCK];
	int far = 3000, wide = kc > n ? kc : n;
	float *x = odd_random(state, 2 * far), *b = odd_floats((size_t) wide * wide), *a, *want, *rows, *more;

	for (int k = 0; k < LLM_BLOCK; k++)
		taps[k] = test_random(state) % far;
	for (int j = 0; j < n; j++) /* ascending */
		columns[j] = j % run ? columns[j - 1] + 1 : (j ? columns[j - 1] : 0) + 1 + test_random(state) % 20;
	a = odd_random(state, (size_t) m * kc);
	want = odd_floats((size_t) m * n);
	rows = odd_floats((size_t) m * kc);
	more = odd_random(state, (size_t) m * n);
	for (int k = 0; k < kc; k++)
		for (int j = 0; j < n; j++)
			b[k * n + j] = x[taps[k] + columns[j]];
	ref_matmul(m, n, kc, a, b, false, want);
	EACH_LEVEL(isa, threads)
	for (int first = 0; first < 2; first++)
	{
		int ldo = LLM_PANEL + 3;
		float *out = odd_output((size_t) m * ldo);

		llm_kernels->pack_rows(m, kc, a, kc, rows);
		for (int i = 0; i < m; i++)
			memcpy(out + i * ldo, more + i * n, n * sizeof(float));
		llm_kernels->matmul_gathered(m, kc, rows, x, taps, columns, n, out, ldo, first);
		for (int i = 0; i < m; i++)
		{
			for (int j = 0; j < n; j++)
				CHECK(bits_of(out[i * ldo + j]) ==
					  bits_of(first ? want[i * n + j] : more[i * n + j] + want[i * n + j]));
			for (size_t byte = n * sizeof(float); byte < ldo * sizeof(float); byte++)
				CHECK(((unsigned char *) (out + i * ldo))[byte] == GUARD_BYTE);
		}
		odd_free(out);
	}
	odd_free(a);
	odd_free(b);
	odd_free(x);
	odd_free(want);
	odd_free(rows);
	odd_free(more);
}

static void
taps_case(uint64_t *state, int m, int n, int kc)
{
	size_t taps[LLM_BLOCK], places[LLM_BLOCK];
	int far = 3000;
	float *x = odd_random(state, 2 * far), *a = odd_floats((size_t) m * kc), *want = odd_floats(m * n);
	float *b = odd_random(state, (size_t) kc * n), *panel = odd_floats((size_t) kc * LLM_PANEL);
	float *more = odd_random(state, (size_t) m * LLM_PANEL);

	for (int k = 0; k < LLM_BLOCK; k++)
	{
		taps[k] = test_random(state) % far;
		places[k] = test_random(state) % far;
	}
	for (int i = 0; i < m; i++)
		for (int k = 0; k < kc; k++)
			a[i * kc + k] = x[taps[i] + places[k]];
	ref_matmul(m, n, kc, a, b, false, want);
	EACH_LEVEL(isa, threads)
	for (int first = 0; first < 2; first++)
	{
		float *out = odd_output((size_t) m * LLM_PANEL);

		llm_kernels->pack_panel(kc, n, b, n, panel);
		memcpy(out, more, (size_t) m * LLM_PANEL * sizeof(float));
		llm_kernels->matmul_taps(m, kc, x, taps, places, panel, out, LLM_PANEL, n, first);
		for (int i = 0; i < m; i++)
			for (int j = 0; j < n; j++)
				CHECK(bits_of(out[i * LLM_PANEL + j]) ==
					  bits_of(first ? want[i * n + j] : more[i * LLM_PANEL + j] + want[i * n + j]));
		CHECK(((unsigned char *) (out + (size_t) m * LLM_PANEL))[0] == GUARD_BYTE);
		odd_free(out);
	}
	odd_free(a);
	odd_free(b);
	odd_free(x);
	odd_free(want);
	odd_free(panel);
	odd_free(more);
}

int
main(void)
{
	static const int rows[] = {1, 2, 3, 4, 5, 6, 7, 13, 14, 15, 29}, depths[] = {1, 2, 127, 128, 129, 257};
	static const int widths[] = {1, 2, 15, 16, 17, 31, 32, 33, 64, 65};
	uint64_t state = 2;

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		for (size_t j = i % 3; j < sizeof(widths) / sizeof(*widths); j += 3)
			for (size_t k = (i + j) % 2; k < sizeof(depths) / sizeof(*depths); k += 2)
				random_case(&state, rows[i], widths[j], depths[k]);
	for (int empty = 0; empty < 7; empty++) /* (0,K) @ (K,N), a sum of no terms, no columns, … */
		random_case(&state, empty & 1 ? 3 : 0, empty & 2 ? 5 : 0, empty & 4 ? 7 : 0);
	random_case(&state, 171, 100, 20); /* more than one block of rows, more than one group of panels */
	random_case(&state, 1, 1700, 130);
	special_case(&state);
	cut_case(&state);
	for (int m = 1; m < 32; m += 1 + m / 8)
		for (int kc = 1; kc <= LLM_BLOCK; kc += 1 + kc / 2)
			for (int run = 1; run <= LLM_PANEL; run *= 2)
			{
				gathered_case(&state, m, LLM_PANEL - (m + kc) % 3 / 2 * (m % LLM_PANEL), kc, run);
				taps_case(&state, m, 1 + (m * run) % LLM_PANEL, kc);
			}
	return 0;
}
