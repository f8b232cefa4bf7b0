/*
 * The ops of double_graph.h that choose rows by ids or the largest elements.
 */
#ifndef DOUBLE_ROWS_H
#define DOUBLE_ROWS_H

#include "double_view.h"
#include "kernels/random.h"

static inline int
dbl_id(const DblValue *v, size_t i)
{
	return v->integers ? v->ids[i] : (int) v->x[i];
}

static inline size_t
dbl_width(const DblValue *x, int from)
{
	size_t width = 1;

	for (int i = from; i < x->ndim; i++)
		width *= x->dims[i];
	return width;
}

/* How many elements of its row are chosen before element i. */
static inline int
dbl_rank(const double *row, int n, int i)
{
	int rank = 0;

	for (int j = 0; j < n; j++)
		rank += row[j] > row[i] || (row[j] == row[i] && j < i);
	return rank;
}

static inline void
dbl_topk(const LlmNode *node, const DblValue *x, DblValue *out)
{
	const LlmAttr *output = llm_attr(node, "output");
	int n = x->dims[x->ndim - 1], k = (int) llm_attr_number(node, "k", 1);

	for (size_t e = 0; e < x->numel; e++)
	{
		int rank = dbl_rank(x->x + e / n * n, n, e % n);

		if (output && strcmp(output->text, "mask") == 0)
			out->x[e] = rank < k;
		else if (rank < k)
			out->x[e / n * k + rank] = output && strcmp(output->text, "indices") == 0 ? e % n : x->x[e];
	}
}

static inline void
dbl_expert_matmul(const DblValue *const *in, DblValue *out)
{
	int K = in[2]->dims[1], N = in[2]->dims[2];
	int per_row = in[0]->ndim == in[1]->ndim ? in[1]->dims[in[1]->ndim - 1] : 1;

	for (size_t e = 0; e < out->numel; e++)
		for (int k = 0; k < K; k++)
			out->x[e] += in[0]->x[e / N / per_row * K + k] *
						 in[2]->x[((size_t) dbl_id(in[1], e / N) * K + k) * N + e % N];
}

/* The engine's own numbers: they are data. */
static inline void
dbl_random(const LlmNode *node, DblValue *out)
{
	const LlmAttr *seed = llm_attr(node, "seed");
	const char *name = node->op == LLM_OP_NORMAL ? "randn" : llm_op_name(node->op);
	LlmStream stream = llm_stream(seed ? strtoull(seed->text, NULL, 10) : 0, seed ? name : node->name, 0, 0);
	double low = llm_attr_number(node, "low", 0), high = llm_attr_number(node, "high", 1);

	for (size_t e = 0; e < out->numel; e++)
	{
		double u = llm_uniform(&stream, e) * (high - low);
		float z;

		llm_normal(&stream, e, 1, (float) llm_attr_number(node, "std", 1), &z);
		out->x[e] = node->op == LLM_OP_NORMAL    ? z + llm_attr_number(node, "mean", 0)
					: node->op == LLM_OP_UNIFORM ? low + u
												 : low + floor(u);
	}
}

/* True if the node is of one of these ops; then out, zeros on entry, is filled. */
static inline bool
dbl_by_ids(const LlmNode *node, const DblValue *const *in, DblValue *out)
{
	size_t width;

	switch (node->op)
	{
		case LLM_OP_TOPK:
			dbl_topk(node, in[0], out);
			return true;
		case LLM_OP_ONE_HOT:
			for (size_t i = 0; i < in[0]->numel; i++)
				out->x[i * out->dims[out->ndim - 1] + dbl_id(in[0], i)] = 1;
			return true;
		case LLM_OP_GATHER_ROWS:
			width = dbl_width(in[0], 1);
			for (size_t e = 0; e < out->numel; e++)
				out->x[e] = in[0]->x[dbl_id(in[1], e / width) * width + e % width];
			return true;
		case LLM_OP_SCATTER_ROWS:
			width = dbl_width(out, 1);
			for (size_t e = 0; e < in[0]->numel; e++)
				out->x[dbl_id(in[1], e / width) * width + e % width] += in[0]->x[e];
			return true;
		case LLM_OP_EXPERT_MATMUL:
			dbl_expert_matmul(in, out);
			return true;
		case LLM_OP_NORMAL:
		case LLM_OP_UNIFORM:
		case LLM_OP_RANDINT:
			dbl_random(node, out);
			return true;
		default:
			return false;
	}
}

#endif
