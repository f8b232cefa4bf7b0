/*
 * Panels as row-major elements: written out, or added up in that order, so that the layout of a matrix
 * changes no sum over it.
 */
#include "engine/partition.h"
#include "engine/parallel.h"
#include "engine/pool.h"

/* Elements that a task adds up, at most: its scratch stays in the second-level cache. */
#define RANGE ((int64_t) 1 << 17)
#define TILE (LLM_PANEL * LLM_PANEL)

typedef struct Matrix
{
	int K, N;        /* of the packed matrix */
	bool transposed; /* written as (N,K) */
	const float *panels;
} Matrix;

/*
 * Prefetches memory that is read soon: a panel's piece of a range is too short for the hardware prefetcher.
 */
static inline __attribute__((always_inline)) void
fetch(const float *from, int floats)
{
	for (int i = 0; i < floats; i += LLM_LINE)
		__builtin_prefetch(from + i);
}

/* out = elements from … to of the matrix (K,N), panel by panel, so that each is read as one stream. */
static void
read_rows(const Matrix *x, int64_t from, int64_t to, float *out)
{
	int64_t N = x->N, first = from / N, end = (to + N - 1) / N;

	for (int64_t column = 0; column < N; column += LLM_PANEL)
	{
		const float *row = x->panels + (column * x->K + first * LLM_PANEL);

		for (int64_t at = first * N + column, k = first; k < end; k++, at += N, row += LLM_PANEL)
		{
			fetch(row + (size_t) x->K * LLM_PANEL, LLM_PANEL);
			if (at >= from && at + LLM_PANEL <= to && column + LLM_PANEL <= N)
				memcpy(out + (at - from), row, LLM_PANEL * sizeof(float));
			else
			{
				int64_t b = at < from ? from : at, e = llm_min(at + llm_min(LLM_PANEL, N - column), to);

				if (b < e)
					memcpy(out + (b - from), row + (b - at), (e - b) * sizeof(float));
			}
		}
	}
}

/*
 * out = elements from … to of the transposed (N,K): a panel is LLM_PANEL of its rows, transposed one square
 * tile at a time.
 */
static void
read_columns(const Matrix *x, int64_t from, int64_t to, float *out)
{
	float tile[TILE];
	int64_t K = x->K;

	for (int64_t panel = from / K / LLM_PANEL; panel * LLM_PANEL * K < to; panel++)
		for (int64_t k = 0; k < K; k += LLM_PANEL)
		{
			int64_t first = panel * LLM_PANEL, kc = llm_min(LLM_PANEL, K - k);
			int rows = (int) llm_min(LLM_PANEL, x->N - first);
			const float *at = x->panels + (panel * K + k) * LLM_PANEL;

			fetch(at + 2 * TILE, TILE);
			llm_kernels->pack_panel_transposed(rows, (int) kc, at, LLM_PANEL, tile);
			for (int64_t i = 0; i < rows; i++)
			{
				int64_t begin = (first + i) * K + k, end = begin + kc;
				int64_t b = begin < from ? from : begin, e = llm_min(end, to);

				if (b < e)
					memcpy(out + (b - from), tile + i * LLM_PANEL + (b - begin), (e - b) * sizeof(float));
			}
		}
}

static void
read_elements(const Matrix *x, int64_t from, int64_t to, float *out)
{
	(x->transposed ? read_columns : read_rows)(x, from, to, out);
}

typedef struct Work
{
	Matrix x;
	int64_t numel, range;
	float shift;
	float *out;   /* all elements, or `range` of scratch per worker */
	double *sums; /* of each LLM_CHUNK elements */
} Work;

static LlmCode
each_range(Work *w, LlmTask task, LlmError *err)
{
	return llm_parallel((int) ((w->numel + w->range - 1) / w->range), task, w, err);
}

/* The elements of a task: whole chunks, and for a transposed matrix as nearly as possible whole panels. */
static int64_t
range_of(const Matrix *x)
{
	int64_t panel = (int64_t) x->K * LLM_PANEL;
	int64_t range = x->transposed && panel > 0 && panel < RANGE ? RANGE / panel * panel : RANGE;

	return (range + LLM_CHUNK - 1) / LLM_CHUNK * LLM_CHUNK;
}

static void
unpack_task(void *context, int task, int worker)
{
	const Work *w = context;
	int64_t from = task * w->range;

	(void) worker;
	read_elements(&w->x, from, llm_min(from + w->range, w->numel), w->out + from);
}

LlmCode
llm_panels_read(int K, int N, const float *panels, bool transposed, float *b, LlmError *err)
{
	Work w = {.x = {K, N, transposed, panels}, .numel = (int64_t) K * N, .out = b};

	w.range = range_of(&w.x);
	return each_range(&w, unpack_task, err);
}

static void
sums_task(void *context, int task, int worker)
{
	const Work *w = context;
	int64_t from = task * w->range, to = llm_min(from + w->range, w->numel);
	float *scratch = w->out + worker * w->range;

	read_elements(&w->x, from, to, scratch);
	for (int64_t at = from; at < to; at += LLM_CHUNK)
		w->sums[at / LLM_CHUNK] =
			llm_kernels->sum_squares(llm_min(LLM_CHUNK, to - at), scratch + (at - from), 0);
}

static void
plain_sums_task(void *context, int task, int worker)
{
	const Work *w = context;
	int64_t from = task * w->range, to = llm_min(from + w->range, w->numel);

	(void) worker;
	for (int64_t at = from; at < to; at += LLM_CHUNK)
		w->sums[at / LLM_CHUNK] =
			llm_kernels->sum_squares(llm_min(LLM_CHUNK, to - at), w->x.panels + at, w->shift);
}

/* The kernel's rule for long sums: chunks of LLM_CHUNK elements, added in order in float64. */
static LlmCode
sum_squares(Work *w, LlmTask task, size_t scratch, double *total, const LlmAllocator *memory, LlmError *err)
{
	size_t chunks = (w->numel + LLM_CHUNK - 1) / LLM_CHUNK, bytes = chunks * sizeof(double) + scratch;
	LlmCode code;

	*total = 0;
	w->sums = memory->alloc(memory->context, bytes);
	if (w->sums == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory for the sum of %lld squares", (long long) w->numel);
	w->out = (float *) (w->sums + chunks);
	code = each_range(w, task, err);
	for (size_t i = 0; i < chunks; i++)
		*total += w->sums[i];
	memory->release(memory->context, w->sums, bytes);
	return code;
}

LlmCode
llm_sum_squares(
	size_t n, const float *x, float shift, double *total, const LlmAllocator *memory, LlmError *err)
{
	Work w = {.x.panels = x, .shift = shift, .numel = n, .range = RANGE};

	return sum_squares(&w, plain_sums_task, 0, total, memory, err);
}

LlmCode
llm_sum_squares_panels(int K, int N, const float *panels, bool transposed, double *total,
	const LlmAllocator *memory, LlmError *err)
{
	Work w = {.x = {K, N, transposed, panels}, .numel = (int64_t) K * N};

	w.range = range_of(&w.x);
	return sum_squares(
		&w, sums_task, (size_t) llm_pool_threads() * w.range * sizeof(float), total, memory, err);
}
