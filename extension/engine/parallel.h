/*
 * The operations of the executor and of SQL: kernels run in parallel on the thread pool. The caller checks
 * shapes. Every function returns LLM_CANCELED if the pool's stop function requested it.
 */
#ifndef LLM_PARALLEL_H
#define LLM_PARALLEL_H

#include "kernels/kernels.h"
#include "kernels/random.h"

/* Floats of b (K,N) in packed panels: [ceil(N/LLM_PANEL)][K][LLM_PANEL]. */
extern size_t llm_packed_floats(int64_t K, int64_t N);
/* Packs b (K,N), or b (N,K) when transposed, into panels. */
extern LlmCode llm_pack(int K, int N, const float *b, bool transposed, float *panels, LlmError *err);

/* out (M,N) = a (M,K) @ panels (K,N); rows of a are lda apart. */
extern LlmCode llm_matmul_packed(int M, int N, int K, const float *a, size_t lda, const float *panels,
	float *out, const LlmAllocator *memory, LlmError *err);
/*
 * The same with panels of a compact format (quantized.h): the bits are those of the same values in float32.
 */
extern LlmCode llm_matmul_compact(LlmFormat format, int M, int N, int K, const float *a, size_t lda,
	const void *panels, float *out, const LlmAllocator *memory, LlmError *err);
/*
 * The same, with fused steps applied to each element before it is written; a step's `other` is addressed as
 * (M,N).
 */
extern LlmCode llm_matmul_steps(LlmFormat format, int M, int N, int K, const float *a, size_t lda,
	const void *panels, int n_steps, const LlmStep *steps, float *out, const LlmAllocator *memory,
	LlmError *err);
/*
 * out (M,N) += a^T @ panels for a (K,M), rows lda apart: the gradient with respect to a weight matrix,
 * summed over K rows.
 */
extern LlmCode llm_matmul_columns(int M, int N, int K, const float *a, size_t lda, const float *panels,
	float *out, const LlmAllocator *memory, LlmError *err);
/* out (M,N) = a (M,K) @ b (K,N), or @ b (N,K) transposed; b is packed into temporary panels. */
extern LlmCode llm_matmul(int M, int N, int K, const float *a, const float *b, bool transpose_b, float *out,
	const LlmAllocator *memory, LlmError *err);

/* b (K,N), or (N,K) when transposed, from its panels. */
extern LlmCode llm_panels_read(int K, int N, const float *panels, bool transposed, float *b, LlmError *err);
/*
 * Sum of n elements, of their squared distances from shift, and of the squares of the matrix b that panels
 * hold, in b's order: the bits are those of the kernel over the whole array.
 */
extern LlmCode llm_sum(size_t n, const float *x, double *total, LlmError *err);
extern LlmCode llm_sum_squares(
	size_t n, const float *x, float shift, double *total, const LlmAllocator *memory, LlmError *err);
extern LlmCode llm_sum_squares_panels(int K, int N, const float *panels, bool transposed, double *total,
	const LlmAllocator *memory, LlmError *err);

/*
 * Copies and fills in pieces, because memcpy of a long array could not be canceled. from_row and to_row: the
 * distance between rows, in floats.
 */
extern LlmCode llm_copy(size_t n, const float *from, float *to, LlmError *err);
extern LlmCode llm_copy_rows(
	size_t rows, size_t n, const float *from, size_t from_row, float *to, size_t to_row, LlmError *err);
extern LlmCode llm_fill(size_t n, float value, float *to, LlmError *err);

extern LlmCode llm_unary(LlmUnary f, size_t n, const float *x, float *out, LlmError *err);
/* Replaces every NaN of x by 0x7fc00000. */
extern LlmCode llm_canonicalize(size_t n, float *x, LlmError *err);
/* out (outer,inner): x has xo rows (1 or outer) and xi columns (1 or inner), y likewise. out may be x or y of
 * full shape. */
extern LlmCode llm_binary(LlmBinary op, size_t outer, size_t inner, const float *x, bool x_rows,
	bool x_columns, const float *y, bool y_rows, bool y_columns, float *out, LlmError *err);
/* out (rows,C) */
extern LlmCode llm_layernorm(size_t rows, int C, const float *x, const float *gamma, const float *beta,
	float eps, float *out, LlmError *err);
extern LlmCode llm_softmax(size_t rows, size_t n, float scale, const float *x, float *out, LlmError *err);
/*
 * Mean over rows of -log softmax(logits)[target]; targets < 0 are left out of sum and count (-100 in other
 * libraries). losses (rows) gets each row's own loss, 0 where left out.
 */
extern LlmCode llm_cross_entropy(size_t rows, int V, const float *logits, const int32_t *targets,
	float *losses, float *mean, LlmError *err);
/* The two steps of the above: each row's loss, and their mean. */
extern LlmCode llm_cross_entropy_rows(
	size_t rows, int V, const float *logits, const int32_t *targets, float *losses, LlmError *err);
extern LlmCode llm_cross_entropy_mean(
	size_t rows, const int32_t *targets, const float *losses, float *mean, LlmError *err);
/* Counts the targets that are not left out. */
extern LlmCode llm_count_targets(size_t rows, const int32_t *targets, size_t *count, LlmError *err);

/* Keys and values of one attention node, packed as matmul reads them. */
typedef struct LlmKvCache
{
	int B, NH, HS; /* NH: heads of keys and values */
	int capacity;  /* positions allocated */
	int length;    /* positions filled */
	float *k;      /* [B][NH][ceil(capacity/LLM_PANEL)][HS][LLM_PANEL]: panels of transposed keys */
	float *v;      /* [B][NH][ceil(HS/LLM_PANEL)][capacity][LLM_PANEL] */
	size_t k_bytes, v_bytes;
} LlmKvCache;

/* Sets the sizes of a cache; llm_kv_create also allocates it. */
extern LlmCode llm_kv_shape(LlmKvCache *cache, int B, int NH, int HS, int capacity, LlmError *err);
extern LlmCode llm_kv_create(
	LlmKvCache *cache, int B, int NH, int HS, int capacity, const LlmAllocator *memory, LlmError *err);
extern void llm_kv_free(LlmKvCache *cache, const LlmAllocator *memory);
/* Copies sequence from_row of one cache to sequence to_row of another of the same capacity. */
extern LlmCode llm_kv_copy_row(
	LlmKvCache *to, int to_row, const LlmKvCache *from, int from_row, LlmError *err);

/*
 * Queries whose scores one task of a head holds at a time, forward and backward; a multiple of LLM_BLOCK,
 * set by the extension. No result depends on it.
 */
extern int llm_attention_chunk;

/* Keys that a query attends to besides the causal mask and the window (Child et al., 2019). */
typedef enum LlmPattern
{
	LLM_PATTERN_ALL,
	LLM_PATTERN_STRIDED, /* the last `stride` keys, and every stride-th before them */
	LLM_PATTERN_FIXED /* the keys of its own block of `stride`, and the last `summary` keys of each block */
} LlmPattern;

/*
 * Terms added to the scores of a query at a position: element (b,h,position,key) of x, whose strides are 0
 * along axes of size 1, where the positions count from the sequence's start; x is NULL if there are none.
 */
typedef struct LlmScoreBias
{
	const float *x;
	size_t batch, head, query;
} LlmScoreBias;

typedef struct LlmAttention
{
	int B, T, NH, HS; /* T new positions after cache->length earlier ones; capacity must allow for them */
	int S, KV; /* new positions of keys and values, and their heads: each serves NH/KV heads of queries */
	bool causal;
	int window;             /* keys a query attends to, itself included; 0 = all */
	float scale;            /* of the scores; 1/sqrt(HS) */
	const float *head_mask; /* (NH) or NULL: a factor for each head's output */
	int queries;            /* only this many last positions get an output; T = all */
	float dropout;          /* of the probabilities, in training: element (head, query, key) of the stream */
	LlmStream stream;
	LlmScoreBias bias;
	const float
		*slopes; /* (NH) or NULL: -slope * distance is added to the scores (ALiBi; Press et al., 2022) */
	LlmPattern pattern;
	int stride, summary;
} LlmAttention;

/* Queries (B,T,NH*HS), keys and values (B,S,KV*HS); their rows are so many floats apart. */
typedef struct LlmQkv
{
	const float *q, *k, *v;
	size_t q_row, k_row, v_row;
} LlmQkv;

/* T new positions of NH heads that attend to themselves and earlier ones; other fields are zero. */
extern LlmAttention llm_self_attention(int B, int T, int NH, int HS, bool causal);
/* Side by side: qkv (B,T,3*NH*HS). */
extern LlmQkv llm_qkv_of(const LlmAttention *a, const float *qkv);
/*
 * out (B,queries,NH*HS) = softmax(scale q k^T) v, head by head. Appends the new keys and values to the cache.
 * scores and probs (B,NH,queries,keys) are written if not NULL. (Vaswani et al., 2017; grouped heads: Ainslie
 * et al., 2023)
 */
extern LlmCode llm_attention(const LlmAttention *a, const LlmQkv *in, LlmKvCache *cache, float *out,
	float *scores, float *probs, const LlmAllocator *memory, LlmError *err);

#endif
