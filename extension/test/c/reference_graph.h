/*
 * The plain executor: every needed node in order, all rows, no packing, no cache, no shared buffers. Shapes
 * come from the values alone, so that the shape rules are checked too.
 */
#ifndef REFERENCE_GRAPH_H
#define REFERENCE_GRAPH_H

#include "reference_attention.h"
#include "reference_rope.h"
#include "reference_rows.h"
#include "reference_select.h"

static inline RefValue
ref_broadcast(LlmBinary op, const RefValue *x, const RefValue *y)
{
	int ndim = x->ndim > y->ndim ? x->ndim : y->ndim, dims[LLM_MAX_DIMS];
	RefValue out;

	for (int i = 0; i < ndim; i++)
	{
		int a = i < x->ndim ? x->dims[x->ndim - 1 - i] : 1, b = i < y->ndim ? y->dims[y->ndim - 1 - i] : 1;

		dims[ndim - 1 - i] = a == 1 ? b : a;
	}
	out = ref_value(ndim, dims);
	for (size_t i = 0; i < out.numel; i++)
		out.floats[i] = ref_binary(op, ref_element(x, &out, i), ref_element(y, &out, i));
	return out;
}

/* The matrix of an operand that batch `index` of the result reads; a repeated axis counts as 0. */
static inline size_t
ref_matrix(const RefValue *v, const RefValue *batches, size_t index)
{
	int at[LLM_MAX_DIMS], own[LLM_MAX_DIMS];
	RefValue lead = *v;

	lead.ndim = v->ndim > 2 ? v->ndim - 2 : 0;
	ref_index(batches, index, at);
	for (int i = 0; i < lead.ndim; i++)
		own[i] = v->dims[i] == 1 ? 0 : at[batches->ndim - lead.ndim + i];
	return ref_place(&lead, own);
}

static inline RefValue
ref_product(const RefValue *a, const RefValue *b, bool transposed)
{
	int K = a->dims[a->ndim - 1], N = b->ndim > 1 ? b->dims[b->ndim - 1 - transposed] : 1;
	int M = a->ndim > 1 ? a->dims[a->ndim - 2] : 1, dims[LLM_MAX_DIMS], ndim = 0;
	RefValue out, batches = {.numel = 1};

	for (int i = (a->ndim > b->ndim ? a->ndim : b->ndim) - 1; i > 1; i--)
	{
		int x = i < a->ndim ? a->dims[a->ndim - 1 - i] : 1, y = i < b->ndim ? b->dims[b->ndim - 1 - i] : 1;

		batches.numel *= batches.dims[batches.ndim++] = dims[ndim++] = x == 1 ? y : x;
	}
	if (a->ndim > 1)
		dims[ndim++] = M;
	if (b->ndim > 1)
		dims[ndim++] = N;
	out = ref_value(ndim, dims);
	for (size_t i = 0; i < batches.numel; i++)
		ref_matmul(M, N, K, a->floats + ref_matrix(a, &batches, i) * M * K,
			b->floats + ref_matrix(b, &batches, i) * K * N, transposed, out.floats + i * M * N);
	return out;
}

/* The sum of x y by the rule of sums: sixteen chains, folded after each chunk. */
static inline double
ref_products_of(size_t n, const float *x, const float *y)
{
	RefSum s = {0};

	for (size_t i = 0; i < n; i++)
	{
		s.lane[i % LLM_LANES] = fmaf(x[i], y[i], s.lane[i % LLM_LANES]);
		if ((i + 1) % LLM_CHUNK == 0 || i + 1 == n)
			ref_fold(&s);
	}
	return s.total;
}

/* Cross-entropy with a distribution for each row. */
static inline float
ref_soft_loss(int V, size_t rows, const float *x, const float *p)
{
	float *losses = calloc(rows + 1, sizeof(float)), *logs = malloc(V * sizeof(float) + 1), mean = 0;

	for (size_t i = 0; i < rows; i++)
	{
		ref_log_softmax(V, x + i * V, logs);
		losses[i] = -(float) ref_products_of(V, p + i * V, logs);
	}
	if (rows)
		mean = (float) (ref_sum(rows, 0, losses, 1, 0) / rows);
	free(losses);
	free(logs);
	return mean;
}

static inline RefValue
ref_mse(const RefValue *x, const RefValue *y)
{
	float *difference = malloc(x->numel * sizeof(float) + 1);
	RefValue out = ref_value(0, NULL);

	for (size_t i = 0; i < x->numel; i++)
		difference[i] = x->floats[i] - y->floats[i];
	out.floats[0] = (float) (ref_sum(x->numel, 0, difference, 2, 0) / x->numel);
	free(difference);
	return out;
}

static inline RefValue
ref_loss(const RefValue *logits, const RefValue *targets)
{
	int V = logits->dims[logits->ndim - 1];
	float *losses = calloc(targets->numel + 1, sizeof(float));
	RefValue out = ref_value(0, NULL);
	size_t count = 0;

	if (logits->ndim == targets->ndim)
	{
		free(losses);
		out.floats[0] = ref_soft_loss(V, V ? logits->numel / V : 0, logits->floats, targets->floats);
		return out;
	}
	for (size_t i = 0; i < targets->numel; i++)
		if (targets->integers[i] >= 0 && targets->integers[i] < V)
		{
			losses[i] = ref_cross_entropy(V, logits->floats + i * V, targets->integers[i]);
			count++;
		}
	out.floats[0] = count ? (float) (ref_sum(targets->numel, 0, losses, 1, 0) / count) : 0;
	free(losses);
	return out;
}

static inline RefValue
ref_constant(const LlmNode *node)
{
	int dims[LLM_MAX_DIMS], ndim = 0;
	const LlmAttr *first = llm_attr(node, "value");
	RefValue out;

	for (; first && first->kind == LLM_ATTR_LIST; first = first->items)
	{
		dims[ndim++] = first->count;
		if (first->count == 0)
			break;
	}
	out = ref_value(ndim, dims);
	for (size_t e = 0; e < out.numel; e++)
	{
		const LlmAttr *at = llm_attr(node, "value");
		int index[LLM_MAX_DIMS];

		ref_index(&out, e, index);
		for (int i = 0; i < ndim; i++)
			at = &at->items[index[i]];
		out.floats[e] = (float) at->number;
	}
	return out;
}

/*
 * Computes one node from the values of its inputs. An id out of range, which the executor refuses, reads
 * zeros.
 */
static inline RefValue
ref_node(const LlmNode *node, const RefValue *values, const LlmSizes *sizes)
{
	const RefValue *in[4] = {0};
	const LlmAttr *how = llm_attr(node, "approximate");
	LlmUnary f = LLM_NEG;
	RefValue out;
	int dims[LLM_MAX_DIMS], n;

	for (int j = 0; j < node->n_inputs && j < 4; j++)
		in[j] = &values[node->inputs[j]];
	if (ref_select(node, in, &out) || ref_rows(node, in, sizes, &out))
		return out;
	if (node->op >= LLM_OP_SUM)
		return ref_view(node, values, sizes);
	if (node->op == LLM_OP_SOFTMAX || node->op == LLM_OP_LOG_SOFTMAX)
		return ref_softmax_along(node, in[0]);
	switch (node->op)
	{
		case LLM_OP_CONSTANT:
			return ref_constant(node);
		case LLM_OP_EMBEDDING:
			memcpy(dims, in[0]->dims, sizeof(dims));
			dims[in[0]->ndim] = in[1]->dims[1];
			out = ref_value(in[0]->ndim + 1, dims);
			for (size_t i = 0, C = in[1]->dims[1]; i < in[0]->numel; i++)
				if (in[0]->integers[i] >= 0 && in[0]->integers[i] < in[1]->dims[0])
					memcpy(out.floats + i * C, in[1]->floats + in[0]->integers[i] * C, C * sizeof(float));
				else
					memset(out.floats + i * C, 0, C * sizeof(float));
			return out;
		case LLM_OP_MATMUL:
			return ref_product(in[0], in[1], llm_attr_number(node, "transpose_b", 0) != 0);
		case LLM_OP_ADD:
		case LLM_OP_SUB:
		case LLM_OP_MUL:
		case LLM_OP_DIV:
			return ref_broadcast((LlmBinary) (LLM_ADD + (node->op - LLM_OP_ADD)), in[0], in[1]);
		case LLM_OP_ATTENTION:
			return ref_attend(node, in);
		case LLM_OP_ROPE:
			return ref_rope(node, in[0], in[1]);
		case LLM_OP_CROSS_ENTROPY:
			return ref_loss(in[0], in[1]);
		case LLM_OP_MSE:
			return ref_mse(in[0], in[1]);
		default:
			break;
	}
	out = ref_value(in[0]->ndim, in[0]->dims);
	n = out.ndim ? out.dims[out.ndim - 1] : 1;
	if (node->op == LLM_OP_LAYERNORM)
	{
		for (size_t i = 0; n > 0 && i < out.numel / n; i++)
			ref_layernorm(n, in[0]->floats + i * n, in[1]->floats, in[2]->floats,
				(float) llm_attr_number(node, "eps", 1e-5), out.floats + i * n);
		return out;
	}
	if (node->op == LLM_OP_RMSNORM)
	{
		for (size_t i = 0; i < out.numel; i++)
		{
			const float *x = in[0]->floats + i / n * n;
			float square = (float) (ref_sum(n, 0, x, 2, 0) / n);

			out.floats[i] = x[i % n] * (1 / sqrtf(square + (float) llm_attr_number(node, "eps", 1e-5))) *
							in[1]->floats[i % n];
		}
		return out;
	}
	if (node->op == LLM_OP_DROPOUT)
	{
		memcpy(out.floats, in[0]->floats, out.numel * sizeof(float));
		return out;
	}
	f = node->op == LLM_OP_NEG                                                ? LLM_NEG
		: node->op == LLM_OP_EXP                                              ? LLM_EXP
		: node->op == LLM_OP_LOG                                              ? LLM_LOG
		: node->op == LLM_OP_SQRT                                             ? LLM_SQRT
		: node->op == LLM_OP_TANH                                             ? LLM_TANH
		: node->op == LLM_OP_RELU                                             ? LLM_RELU
		: node->op == LLM_OP_SIGMOID                                          ? LLM_SIGMOID
		: node->op == LLM_OP_SILU                                             ? LLM_SILU
		: node->op == LLM_OP_SIN                                              ? LLM_SIN
		: node->op == LLM_OP_COS                                              ? LLM_COS
		: how && how->kind == LLM_ATTR_TEXT && strcmp(how->text, "none") == 0 ? LLM_GELU_ERF
																			  : LLM_GELU_TANH;
	for (size_t i = 0; i < out.numel; i++)
		out.floats[i] = ref_unary(f, in[0]->floats[i]);
	return out;
}

/* For each node, whether target needs it. */
static inline bool *
ref_needed(const LlmGraph *g, int target)
{
	bool *needed = calloc(g->count + 1, sizeof(bool));

	needed[target] = true;
	for (int i = g->count - 1; i >= 0; i--)
		for (int j = 0; needed[g->order[i]] && j < g->nodes[g->order[i]].n_inputs; j++)
			needed[g->nodes[g->order[i]].inputs[j]] = true;
	return needed;
}

/* Sizes of the names in the shapes of all inputs given: random values need them before the inputs' turn. */
static inline void
ref_sizes(const LlmGraph *g, const LlmInput *inputs, int n_inputs, LlmSizes *sizes)
{
	for (int k = 0; k < n_inputs; k++)
	{
		const LlmNode *node = &g->nodes[llm_graph_find(g, inputs[k].name)];

		for (int j = 0; j < node->ndim; j++)
			if (llm_dim_value(&node->shape[j], sizes) < 0 && node->shape[j].times > 0)
				llm_sizes_set(sizes, node->shape[j].name, inputs[k].dims[j] / (int) node->shape[j].times);
	}
}

/* Values of all nodes that target needs (the others have floats NULL); free them with ref_free. */
static inline RefValue *
ref_graph(const LlmGraph *g, int target, float *const *weights, const LlmInput *inputs, int n_inputs)
{
	LlmSizes known = g->sizes, *sizes = &known; /* the sizes of the inputs' named dimensions */
	RefValue *values = calloc(g->count + 1, sizeof(RefValue));
	bool *needed = ref_needed(g, target);

	ref_sizes(g, inputs, n_inputs, sizes);
	for (int i = 0; i < g->count; i++)
	{
		int index = g->order[i];
		const LlmNode *node = &g->nodes[index];
		int dims[LLM_MAX_DIMS];

		if (!needed[index])
			continue;
		for (int j = 0; j < node->ndim; j++)
			dims[j] = (int) llm_dim_value(&node->shape[j], &g->sizes);
		if (node->op == LLM_OP_PARAM)
		{
			values[index] = ref_value(node->ndim, dims);
			memcpy(values[index].floats, weights[index], values[index].numel * sizeof(float));
		}
		else if (node->op == LLM_OP_INPUT)
			for (int k = 0; k < n_inputs; k++)
			{
				if (strcmp(inputs[k].name, node->name) != 0)
					continue;
				values[index] = ref_value(inputs[k].ndim, inputs[k].dims);
				if (inputs[k].floats)
					memcpy(values[index].floats, inputs[k].floats, values[index].numel * sizeof(float));
				values[index].integers = inputs[k].integers;
			}
		else
			values[index] = ref_node(node, values, sizes);
	}
	free(needed);
	return values;
}

static inline void
ref_free(const LlmGraph *g, RefValue *values)
{
	for (int i = 0; i < g->count; i++)
		free(values[i].floats);
	free(values);
}

#endif
