/*
 * Every op by its formula in float64, from its inputs' values alone: gradients are compared with differences
 * of these formulas. Written independently of the kernels: loops over indices, sharing only the attributes.
 */
#ifndef DOUBLE_GRAPH_H
#define DOUBLE_GRAPH_H

#include <math.h>

#include "double_attention.h"
#include "double_image.h"
#include "double_rope.h"
#include "double_rows.h"
#include "double_select.h"
#include "engine/parallel.h"

static inline double
dbl_unary(const LlmNode *node, double x)
{
	const LlmAttr *how = llm_attr(node, "approximate");

	switch (node->op)
	{
		case LLM_OP_NEG:
			return -x;
		case LLM_OP_EXP:
			return exp(x);
		case LLM_OP_LOG:
			return log(x);
		case LLM_OP_SQRT:
			return sqrt(x);
		case LLM_OP_TANH:
			return tanh(x);
		case LLM_OP_RELU:
			return x > 0 ? x : 0;
		case LLM_OP_SIGMOID:
			return 1 / (1 + exp(-x));
		case LLM_OP_SILU:
			return x / (1 + exp(-x));
		case LLM_OP_SIN:
			return sin(x);
		case LLM_OP_COS:
			return cos(x);
		default:
			return how && strcmp(how->text, "none") == 0
					   ? 0.5 * x * (1 + erf(x / sqrt(2)))
					   : 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
	}
}

static inline double
dbl_binary(LlmOp op, double x, double y)
{
	return op == LLM_OP_ADD ? x + y : op == LLM_OP_SUB ? x - y : op == LLM_OP_MUL ? x * y : x / y;
}

/* out[…,m,n] = sum over k of a[…,m,k] b[…,k,n]; a 1-D operand has neither m nor n. */
static inline void
dbl_matmul(const DblValue *a, const DblValue *b, bool transposed, DblValue *out)
{
	int K = a->dims[a->ndim - 1], column = b->ndim > 1, row = a->ndim > 1;

	for (size_t e = 0; e < out->numel; e++)
	{
		int at[LLM_MAX_DIMS], ai[LLM_MAX_DIMS], bi[LLM_MAX_DIMS], batch = out->ndim - row - column;

		dbl_index(out, e, at);
		for (int i = 0; i < a->ndim - 2; i++)
			ai[i] = a->dims[i] == 1 ? 0 : at[batch - (a->ndim - 2) + i];
		for (int i = 0; i < b->ndim - 2; i++)
			bi[i] = b->dims[i] == 1 ? 0 : at[batch - (b->ndim - 2) + i];
		if (row)
			ai[a->ndim - 2] = at[batch];
		if (column)
			bi[b->ndim - 1 - transposed] = at[out->ndim - 1];
		for (int k = 0; k < K; k++)
		{
			ai[a->ndim - 1] = k;
			bi[column ? b->ndim - 2 + transposed : 0] = k;
			out->x[e] += a->x[dbl_place(a, ai)] * b->x[dbl_place(b, bi)];
		}
	}
}

static inline void
dbl_softmax(const DblValue *x, int axis, DblValue *out)
{
	for (size_t e = 0; e < x->numel; e++)
	{
		int at[LLM_MAX_DIMS], n = x->dims[axis];
		double all = 0;

		dbl_index(x, e, at);
		for (int i = 0; i < n; i++)
		{
			at[axis] = i;
			all += exp(x->x[dbl_place(x, at)]);
		}
		out->x[e] = exp(x->x[e]) / all;
	}
}

static inline void
dbl_layernorm(const LlmNode *node, const DblValue *const *in, DblValue *out)
{
	int C = out->dims[out->ndim - 1];

	for (size_t e = 0; e < out->numel; e++)
	{
		const double *x = in[0]->x + e / C * C;
		double mean = 0, var = 0;

		for (int i = 0; i < C; i++)
			mean += x[i] / C;
		for (int i = 0; i < C; i++)
			var += (x[i] - mean) * (x[i] - mean) / C;
		out->x[e] =
			(x[e % C] - mean) / sqrt(var + (float) llm_attr_number(node, "eps", 1e-5)) * in[1]->x[e % C] +
			in[2]->x[e % C];
	}
}

static inline void
dbl_rmsnorm(const LlmNode *node, const DblValue *const *in, DblValue *out)
{
	int C = out->dims[out->ndim - 1];

	for (size_t e = 0; e < out->numel; e++)
	{
		const double *x = in[0]->x + e / C * C;
		double square = 0;

		for (int i = 0; i < C; i++)
			square += x[i] * x[i] / C;
		out->x[e] = x[e % C] / sqrt(square + (float) llm_attr_number(node, "eps", 1e-5)) * in[1]->x[e % C];
	}
}

static inline double *
dbl_constant(const LlmAttr *value, double *to)
{
	if (value->kind == LLM_ATTR_NUMBER)
		*to++ = (float) value->number;
	for (int i = 0; i < value->count; i++)
		to = dbl_constant(&value->items[i], to);
	return to;
}

static inline double
dbl_cross_entropy(const DblValue *logits, const DblValue *targets)
{
	int V = logits->dims[logits->ndim - 1], count = 0;
	bool soft = logits->ndim == targets->ndim;
	size_t rows = V ? logits->numel / V : 0;
	double loss = 0;

	for (size_t r = 0; r < rows; r++)
	{
		double all = 0;

		if (!soft && targets->ids[r] < 0)
			continue;
		count++;
		for (int v = 0; v < V; v++)
			all += exp(logits->x[r * V + v]);
		for (int v = 0; soft && v < V; v++)
			loss += targets->x[r * V + v] * (log(all) - logits->x[r * V + v]);
		if (!soft)
			loss += log(all) - logits->x[r * V + targets->ids[r]];
	}
	return count ? loss / count : 0;
}

static inline void
dbl_dropout(const LlmNode *node, const DblValue *x, DblValue *out)
{
	const LlmAttr *seed = llm_attr(node, "seed");
	LlmStream stream = llm_stream(seed ? strtoull(seed->text, NULL, 10) : 0, "dropout", 0, 0);
	float one = 1, kept;

	for (size_t e = 0; e < x->numel; e++)
	{
		llm_drop(&stream, seed ? (float) llm_attr_number(node, "p", 0) : 0, e, 1, &one, &kept);
		out->x[e] = x->x[e] * kept;
	}
}

/* A node's value; its shape is the inferred one, with sizes in place of names. */
static inline DblValue
dbl_node(const LlmGraph *g, const LlmNode *node, const DblValue *values)
{
	DblValue out = dbl_new(g, node);
	const DblValue *in[4] = {0};

	for (int i = 0; i < node->n_inputs && i < 4; i++)
		in[i] = &values[node->inputs[i]];
	if (dbl_select(node, in, &out) || dbl_by_ids(node, in, &out))
		return out;
	switch (node->op)
	{
		case LLM_OP_ADD:
		case LLM_OP_SUB:
		case LLM_OP_MUL:
		case LLM_OP_DIV:
			for (size_t e = 0; e < out.numel; e++)
				out.x[e] = dbl_binary(node->op, dbl_broadcast(in[0], &out, e), dbl_broadcast(in[1], &out, e));
			break;
		case LLM_OP_MATMUL:
			dbl_matmul(in[0], in[1], llm_attr_number(node, "transpose_b", 0) != 0, &out);
			break;
		case LLM_OP_EMBEDDING:
			for (size_t e = 0, C = in[1]->dims[1]; e < out.numel; e++)
				out.x[e] = in[1]->x[in[0]->ids[e / C] * C + e % C];
			break;
		case LLM_OP_SOFTMAX:
			dbl_softmax(in[0], dbl_axis(node, out.ndim, -1), &out);
			break;
		case LLM_OP_LOG_SOFTMAX:
			dbl_softmax(in[0], dbl_axis(node, out.ndim, -1), &out);
			for (size_t e = 0; e < out.numel; e++)
				out.x[e] = log(out.x[e]);
			break;
		case LLM_OP_RMSNORM:
			dbl_rmsnorm(node, in, &out);
			break;
		case LLM_OP_CONSTANT:
			dbl_constant(llm_attr(node, "value"), out.x);
			break;
		case LLM_OP_LAYERNORM:
			dbl_layernorm(node, in, &out);
			break;
		case LLM_OP_ATTENTION:
			dbl_attention(node, in, &out);
			break;
		case LLM_OP_ROPE:
			dbl_rope(node, in[0], in[1], &out);
			break;
		case LLM_OP_CROSS_ENTROPY:
			out.x[0] = dbl_cross_entropy(in[0], in[1]);
			break;
		case LLM_OP_MSE:
			for (size_t e = 0; e < in[0]->numel; e++)
				out.x[0] += pow(in[0]->x[e] - in[1]->x[e], 2) / in[0]->numel;
			break;
		case LLM_OP_DROPOUT:
			dbl_dropout(node, in[0], &out);
			break;
		case LLM_OP_CONV2D:
			dbl_conv2d(node, in, &out);
			break;
		case LLM_OP_GROUPNORM:
			dbl_groupnorm(node, in, &out);
			break;
		case LLM_OP_UPSAMPLE:
		case LLM_OP_AVGPOOL:
			dbl_scaled(node, in[0], node->op == LLM_OP_AVGPOOL, &out);
			break;
		default:
			if (node->op >= LLM_OP_NEG && node->op <= LLM_OP_COS)
				for (size_t e = 0; e < out.numel; e++)
					out.x[e] = dbl_unary(node, in[0]->x[e]);
			else
				dbl_view(node, values, &out);
	}
	return out;
}

/* Values of all nodes; leaves are given. */
static inline void
dbl_graph(const LlmGraph *g, DblValue *values)
{
	for (int i = 0; i < g->count; i++)
	{
		const LlmNode *node = &g->nodes[g->order[i]];

		if (node->op == LLM_OP_INPUT || node->op == LLM_OP_PARAM)
			continue;
		free(values[g->order[i]].x);
		values[g->order[i]] = dbl_node(g, node, values);
	}
}

#endif
