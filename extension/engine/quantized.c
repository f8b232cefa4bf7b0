/*
 * See quantized.h.
 */
#include "engine/quantized.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/parallel.h"
#include "engine/pool.h"

#define MOST 127
/* A column whose values are all smaller than this times 127 becomes zero: its scale would be subnormal. */
#define SMALLEST_SCALE 1e-30f

static const char *const names[LLM_FORMAT_COUNT] = {"float32", "bf16", "int8"};

const char *
llm_format_name(LlmFormat format)
{
	return names[format];
}

LlmFormat
llm_format_named(const char *name)
{
	int i = 0;

	while (i < LLM_FORMAT_COUNT && strcmp(names[i], name) != 0)
		i++;
	return (LlmFormat) i;
}

static size_t
panel_bytes(LlmFormat format, int64_t K)
{
	switch (format)
	{
		case LLM_BF16:
			return (size_t) K * LLM_PANEL * sizeof(uint16_t);
		case LLM_INT8:
			return (size_t) K * LLM_PANEL +
				   (size_t) ((K + LLM_BLOCK - 1) / LLM_BLOCK) * LLM_PANEL * sizeof(float);
		default:
			return (size_t) K * LLM_PANEL * sizeof(float);
	}
}

size_t
llm_format_bytes(LlmFormat format, int64_t K, int64_t N)
{
	return (size_t) ((N + LLM_PANEL - 1) / LLM_PANEL) * panel_bytes(format, K);
}

/* ---- a block of a panel: kc rows of LLM_PANEL elements ---- */

static uint32_t
bits_of(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	return bits;
}

static float
float_of(uint32_t bits)
{
	float x;

	memcpy(&x, &bits, sizeof(x));
	return x;
}

static bool
is_bf16(float x)
{
	return (bits_of(x) & 0xffff) == 0;
}

static float
nearest_bf16(float x)
{
	uint32_t bits = bits_of(x);

	return float_of((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
}

void
llm_bf16_round(size_t n, const float *x, uint16_t *out)
{
	for (size_t i = 0; i < n; i++)
	{
		uint32_t nan = 0x7fc0, nearest = bits_of(nearest_bf16(x[i])) >> 16;

		out[i] = (uint16_t) (x[i] == x[i] ? nearest : nan);
	}
}

void
llm_bf16_widen(size_t n, const uint16_t *x, float *out)
{
	for (size_t i = 0; i < n; i++)
		out[i] = float_of((uint32_t) x[i] << 16);
}

static float
largest_of_column(const float *column, int kc)
{
	float most = 0;

	for (int k = 0; k < kc; k++)
		if (fabsf(column[k * LLM_PANEL]) > most)
			most = fabsf(column[k * LLM_PANEL]);
	return most;
}

/* True if every element of the column is an integer times scale; q is then set to the integers. */
static bool
multiples(const float *column, int kc, float scale, int8_t *q)
{
	for (int k = 0; k < kc; k++)
	{
		float x = column[k * LLM_PANEL], n = scale > 0 ? rintf(x / scale) : 0;

		/* compared as bits: int8 would turn -0 into +0, and NaN equals nothing */
		if (!(fabsf(n) <= MOST) || bits_of((float) (int) n * scale) != bits_of(x))
			return false;
		q[k * LLM_PANEL] = (int8_t) n;
	}
	return true;
}

/* The scale of a column that int8 can represent; its largest element is 127 or 126 times it. */
static bool
scale_of(const float *column, int kc, float *scale, int8_t *q)
{
	float most = largest_of_column(column, kc);

	for (int n = MOST; n >= MOST - 1; n--)
	{
		*scale = most / n;
		if ((most == 0 || (*scale >= SMALLEST_SCALE && most <= FLT_MAX && is_bf16(*scale))) &&
			multiples(column, kc, *scale, q))
			return true;
	}
	return false;
}

static void
quantize_column(float *column, int kc)
{
	int8_t q[LLM_BLOCK * LLM_PANEL];
	uint32_t bits;
	float scale;

	if (scale_of(column, kc, &scale, q))
		return;
	bits = bits_of(largest_of_column(column, kc) / MOST);
	if (bits & 0xffff)
		bits = (bits | 0xffff) + 1;
	scale = float_of(bits);
	if (scale < SMALLEST_SCALE)
		scale = 0;
	for (int k = 0; k < kc; k++)
	{
		float n = scale > 0 ? rintf(column[k * LLM_PANEL] / scale) : 0;

		column[k * LLM_PANEL] = (float) (int) fmaxf(-MOST, fminf(MOST, n)) * scale;
	}
}

/* Returns false if the format cannot represent the block. */
static bool
write_block(LlmFormat format, int kc, const float *block, void *to)
{
	uint32_t *words = to;
	float *scales = to;
	int8_t *q = (int8_t *) (scales + LLM_PANEL);

	if (format == LLM_INT8)
	{
		for (int j = 0; j < LLM_PANEL; j++)
			if (!scale_of(block + j, kc, &scales[j], q + j))
				return false;
		return true;
	}
	for (int k = 0; k < kc; k++, block += LLM_PANEL)
		for (int j = 0; j < LLM_PANEL / 2; j++)
		{
			if (!is_bf16(block[j]) || !is_bf16(block[j + LLM_PANEL / 2]))
				return false;
			*words++ = bits_of(block[j]) >> 16 | bits_of(block[j + LLM_PANEL / 2]);
		}
	return true;
}

static void
quantize_block(LlmFormat format, int kc, float *block)
{
	if (format == LLM_INT8)
		for (int j = 0; j < LLM_PANEL; j++)
			quantize_column(block + j, kc);
	else if (format == LLM_BF16)
		for (int i = 0; i < kc * LLM_PANEL; i++)
			block[i] = nearest_bf16(block[i]);
}

/* ---- all panels, over the thread pool ---- */

typedef struct Job
{
	LlmFormat format;
	int K, N;
	bool transposed;
	const float *b;
	float *out;         /* quantize, widen */
	char *panels;       /* compact, widen; NULL: only check */
	atomic_bool cannot; /* cannot represent all elements */
} Job;

static int
columns(const Job *job, int panel)
{
	int left = job->N - panel * LLM_PANEL;

	return left < LLM_PANEL ? left : LLM_PANEL;
}

/* The address of the block's rows in a panel of the format. */
static size_t
block_at(LlmFormat format, int k)
{
	return panel_bytes(format, k);
}

static void
read_block(const Job *job, int panel, int k, int kc, float *block)
{
	size_t n = (size_t) panel * LLM_PANEL;

	if (job->transposed)
		llm_kernels->pack_panel_transposed(kc, columns(job, panel), job->b + n * job->K + k, job->K, block);
	else
		llm_kernels->pack_panel(kc, columns(job, panel), job->b + (size_t) k * job->N + n, job->N, block);
}

static void
write_back(const Job *job, int panel, int k, int kc, const float *block)
{
	size_t n = (size_t) panel * LLM_PANEL;

	for (int i = 0; i < kc; i++)
		for (int j = 0; j < columns(job, panel); j++)
			job->out[job->transposed ? (n + j) * job->K + k + i : (size_t) (k + i) * job->N + n + j] =
				block[i * LLM_PANEL + j];
}

static void
panel_task(void *context, int panel, int worker)
{
	Job *job = context;
	_Alignas(float) char scratch[LLM_PANEL * sizeof(float) + LLM_BLOCK * LLM_PANEL * sizeof(uint16_t)];
	float block[LLM_BLOCK * LLM_PANEL];

	for (int k = 0; k < job->K && !job->cannot && !llm_pool_stopping(worker); k += LLM_BLOCK)
	{
		int kc = job->K - k < LLM_BLOCK ? job->K - k : LLM_BLOCK;
		char *to = job->panels
					   ? job->panels + panel * panel_bytes(job->format, job->K) + block_at(job->format, k)
					   : scratch;

		read_block(job, panel, k, kc, block);
		if (job->out)
		{
			quantize_block(job->format, kc, block);
			write_back(job, panel, k, kc, block);
		}
		else if (!write_block(job->format, kc, block, to))
			job->cannot = true;
	}
}

static LlmCode
each_panel(Job *job, LlmTask task, LlmError *err)
{
	return llm_parallel(job->K > 0 ? job->N / LLM_PANEL + (job->N % LLM_PANEL != 0) : 0, task, job, err);
}

static LlmCode
run(Job *job, LlmError *err)
{
	return each_panel(job, panel_task, err);
}

LlmCode
llm_quantize(LlmFormat format, int K, int N, bool transposed, const float *b, float *out, LlmError *err)
{
	Job job = {.format = format, .K = K, .N = N, .transposed = transposed, .b = b, .out = out};

	for (size_t i = 0; i < (size_t) K * N; i++)
	{
		if (i % LLM_POLL_ELEMENTS == 0 && llm_poll(err) != LLM_OK)
			return err->code;
		if (!isfinite(b[i]) || (format == LLM_BF16 && !isfinite(nearest_bf16(b[i]))))
		{
			llm_fail(err, LLM_RANGE, "%s cannot hold element %zu, %g", names[format], i + 1, b[i]);
			return llm_hint(
				err, "Weights that are not finite, or nearly not, belong to a training gone wrong.");
		}
	}
	return run(&job, err);
}

LlmCode
llm_format_of(int K, int N, bool transposed, const float *b, LlmFormat *format, LlmError *err)
{
	static const LlmFormat by_size[] = {LLM_INT8, LLM_BF16};

	*format = LLM_FLOAT32;
	for (int i = 0; i < 2 && *format == LLM_FLOAT32 && K > 0 && N > 0; i++)
	{
		Job job = {.format = by_size[i], .K = K, .N = N, .transposed = transposed, .b = b};
		LlmCode code = run(&job, err);

		if (code != LLM_OK)
			return code;
		if (!job.cannot)
			*format = by_size[i];
	}
	return LLM_OK;
}

LlmCode
llm_compact(LlmFormat format, int K, int N, bool transposed, const float *b, void *panels, LlmError *err)
{
	Job job = {.format = format, .K = K, .N = N, .transposed = transposed, .b = b, .panels = panels};
	LlmCode code;

	if (format == LLM_FLOAT32)
		return llm_pack(K, N, b, transposed, panels, err);
	code = run(&job, err);
	if (code == LLM_OK && job.cannot)
		return llm_fail(
			err, LLM_INVALID, "%s cannot represent the elements of the matrix exactly", names[format]);
	return code;
}

/* ---- from a format to floats ---- */

static void
block_of(LlmFormat format, int K, int panel, int k, int kc, const void *panels, float *block)
{
	const char *from = (const char *) panels + panel * panel_bytes(format, K) + block_at(format, k);

	if (format == LLM_FLOAT32)
		memcpy(block, from, kc * LLM_PANEL * sizeof(float));
	else
		llm_kernels->widen[format](kc, from, block);
}

static void
widen_task(void *context, int panel, int worker)
{
	Job *job = context;
	float block[LLM_BLOCK * LLM_PANEL];

	for (int k = 0; k < job->K && !llm_pool_stopping(worker); k += LLM_BLOCK)
	{
		int kc = job->K - k < LLM_BLOCK ? job->K - k : LLM_BLOCK;

		block_of(job->format, job->K, panel, k, kc, job->panels, block);
		write_back(job, panel, k, kc, block);
	}
}

LlmCode
llm_widen(LlmFormat format, int K, int N, bool transposed, const void *panels, float *b, LlmError *err)
{
	Job job = {
		.format = format, .K = K, .N = N, .transposed = transposed, .out = b, .panels = (char *) panels};

	return each_panel(&job, widen_task, err);
}

void
llm_widen_column(LlmFormat format, int K, int n, const void *panels, float *column)
{
	float block[LLM_BLOCK * LLM_PANEL];

	if (format == LLM_FLOAT32)
	{
		for (int k = 0; k < K; k++)
			column[k] =
				((const float *) panels)[((size_t) (n / LLM_PANEL) * K + k) * LLM_PANEL + n % LLM_PANEL];
		return;
	}
	for (int k = 0; k < K; k += LLM_BLOCK)
	{
		int kc = K - k < LLM_BLOCK ? K - k : LLM_BLOCK;

		block_of(format, K, n / LLM_PANEL, k, kc, panels, block);
		for (int i = 0; i < kc; i++)
			column[k + i] = block[i * LLM_PANEL + n % LLM_PANEL];
	}
}
