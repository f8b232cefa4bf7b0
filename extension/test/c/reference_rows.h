/*
 * The plain executor's ops that choose rows by ids or the largest elements. An id that does not exist, which
 * the executor refuses, reads zeros.
 */
#ifndef REFERENCE_ROWS_H
#define REFERENCE_ROWS_H

#include "kernels/random.h"
#include "reference_view.h"

/* The id at place i, or -1 if it is not one of `size`. */
static inline int
ref_id(const RefValue *ids, size_t i, int size)
{
	float id = ids->integers ? (float) ids->integers[i] : ids->floats[i];

	return id >= 0 && id < size && id == floorf(id) ? (int) id : -1;
}

static inline size_t
ref_width(const RefValue *x, int from)
{
	size_t width = 1;

	for (int i = from; i < x->ndim; i++)
		width *= x->dims[i];
	return width;
}

/* Places of a row's n elements in the order in which topk chooses them, by repeated selection. */
static inline void
ref_top(int n, int k, const float *x, int *chosen)
{
	bool *taken = calloc(n + 1, sizeof(bool));

	for (int j = 0; j < k; j++)
	{
		int best = -1;

		for (int i = 0; i < n; i++)
			if (!taken[i] && (best < 0 || (x[best] == x[best] && (x[i] != x[i] || x[i] > x[best]))))
				best = i;
		taken[best] = true;
		chosen[j] = best;
	}
	free(taken);
}

static inline RefValue
ref_topk(const LlmNode *node, const RefValue *x)
{
	const LlmAttr *output = llm_attr(node, "output");
	bool mask = output && strcmp(output->text, "mask") == 0;
	bool indices = output && strcmp(output->text, "indices") == 0;
	int n = x->dims[x->ndim - 1], k = (int) llm_attr_number(node, "k", 1), dims[LLM_MAX_DIMS];
	int *chosen = malloc((k + 1) * sizeof(int));
	RefValue out;

	memcpy(dims, x->dims, sizeof(dims));
	dims[x->ndim - 1] = mask ? n : k;
	out = ref_value(x->ndim, dims);
	memset(out.floats, 0, out.numel * sizeof(float));
	for (size_t row = 0; k <= n && row < x->numel / n; row++)
	{
		const float *from = x->floats + row * n;

		ref_top(n, k, from, chosen);
		for (int j = 0; j < k; j++)
			if (mask)
				out.floats[row * n + chosen[j]] = 1;
			else
				out.floats[row * k + j] = indices ? (float) chosen[j] : from[chosen[j]];
	}
	free(chosen);
	return out;
}

static inline RefValue
ref_one_hot(const LlmNode *node, const RefValue *ids, const LlmSizes *sizes)
{
	int dims[LLM_MAX_DIMS], size = (int) llm_dim_value(&node->shape[node->ndim - 1], sizes);
	RefValue out;

	memcpy(dims, ids->dims, sizeof(dims));
	dims[ids->ndim] = size;
	out = ref_value(ids->ndim + 1, dims);
	for (size_t e = 0; e < out.numel; e++)
		out.floats[e] = ref_id(ids, e / size, size) == (int) (e % size);
	return out;
}

static inline RefValue
ref_gather_rows(const RefValue *x, const RefValue *ids)
{
	size_t width = ref_width(x, 1);
	int dims[2 * LLM_MAX_DIMS];
	RefValue out;

	memcpy(dims, ids->dims, sizeof(ids->dims));
	memcpy(dims + ids->ndim, x->dims + 1, (x->ndim - 1) * sizeof(int));
	out = ref_value(ids->ndim + x->ndim - 1, dims);
	for (size_t e = 0; e < out.numel; e++)
	{
		int id = ref_id(ids, e / width, x->dims[0]);

		out.floats[e] = id < 0 ? 0 : x->floats[id * width + e % width];
	}
	return out;
}

static inline RefValue
ref_scatter_rows(const LlmNode *node, const RefValue *x, const RefValue *ids, const LlmSizes *sizes)
{
	size_t width = ref_width(x, ids->ndim);
	int dims[LLM_MAX_DIMS + 1] = {(int) llm_dim_value(&node->shape[0], sizes)};
	RefValue out;

	memcpy(dims + 1, x->dims + ids->ndim, (x->ndim - ids->ndim) * sizeof(int));
	out = ref_value(1 + x->ndim - ids->ndim, dims);
	memset(out.floats, 0, out.numel * sizeof(float));
	for (size_t e = 0; e < x->numel; e++)
	{
		int id = ref_id(ids, e / width, dims[0]);

		if (id >= 0)
			out.floats[id * width + e % width] += x->floats[e];
	}
	return out;
}

static inline RefValue
ref_expert_matmul(const RefValue *const *in)
{
	const RefValue *x = in[0], *ids = in[1], *w = in[2];
	int K = w->dims[1], N = w->dims[2], dims[LLM_MAX_DIMS + 1];
	int per_row = x->ndim == ids->ndim ? ids->dims[ids->ndim - 1] : 1;
	RefValue out;

	memcpy(dims, ids->dims, sizeof(ids->dims));
	dims[ids->ndim] = N;
	out = ref_value(ids->ndim + 1, dims);
	memset(out.floats, 0, out.numel * sizeof(float));
	for (size_t pair = 0; pair < ids->numel; pair++)
	{
		int e = ref_id(ids, pair, w->dims[0]);

		if (e >= 0)
			ref_matmul(1, N, K, x->floats + pair / per_row * K, w->floats + (size_t) e * K * N, false,
				out.floats + pair * N);
	}
	return out;
}

/* Random values of the inferred shape, outside of training. */
static inline RefValue
ref_random(const LlmNode *node, const LlmSizes *sizes)
{
	const LlmAttr *seed = llm_attr(node, "seed");
	const char *name = node->op == LLM_OP_NORMAL ? "randn" : llm_op_name(node->op);
	LlmStream stream = llm_stream(seed ? strtoull(seed->text, NULL, 10) : 0, seed ? name : node->name, 0, 0);
	double low = (float) llm_attr_number(node, "low", 0), high = (float) llm_attr_number(node, "high", 1);
	int dims[LLM_MAX_DIMS];
	RefValue out;

	for (int i = 0; i < node->ndim; i++)
		dims[i] = (int) fmax(0, (double) llm_dim_value(&node->shape[i], sizes)); /* unknown: refused */
	out = ref_value(node->ndim, dims);
	for (size_t e = 0; e < out.numel; e++)
	{
		double u = llm_uniform(&stream, e) * (high - low);

		if (node->op == LLM_OP_NORMAL)
		{
			llm_normal(&stream, e, 1, (float) llm_attr_number(node, "std", 1), &out.floats[e]);
			out.floats[e] += (float) llm_attr_number(node, "mean", 0);
			continue;
		}
		out.floats[e] = (float) (low + (node->op == LLM_OP_RANDINT ? floor(u) : u));
		if (out.floats[e] >= high)
			out.floats[e] = nextafterf((float) high, (float) low);
	}
	return out;
}

/* True if the node is of one of these ops; then *out is its value. */
static inline bool
ref_rows(const LlmNode *node, const RefValue *const *in, const LlmSizes *sizes, RefValue *out)
{
	switch (node->op)
	{
		case LLM_OP_TOPK:
			*out = ref_topk(node, in[0]);
			return true;
		case LLM_OP_ONE_HOT:
			*out = ref_one_hot(node, in[0], sizes);
			return true;
		case LLM_OP_GATHER_ROWS:
			*out = ref_gather_rows(in[0], in[1]);
			return true;
		case LLM_OP_SCATTER_ROWS:
			*out = ref_scatter_rows(node, in[0], in[1], sizes);
			return true;
		case LLM_OP_EXPERT_MATMUL:
			*out = ref_expert_matmul(in);
			return true;
		case LLM_OP_NORMAL:
		case LLM_OP_UNIFORM:
		case LLM_OP_RANDINT:
			*out = ref_random(node, sizes);
			return true;
		default:
			return false;
	}
}

#endif
