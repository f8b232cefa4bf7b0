/*
 * Shape rules of the layers: what embeddings, products, norms, attention and the loss make of their inputs.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/infer.h"

LlmCode
llm_infer_embedding(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *ids = llm_infer_input(graph, node, 0), *table = llm_infer_input(graph, node, 1);

	if (!ids->integers)
		return llm_infer_refuse(
			node, ids, table, "the first input must be whole numbers (an input node of dtype int)", err);
	if (table->ndim != 2)
		return llm_infer_refuse(node, ids, table, "the table must have two dimensions", err);
	if (ids->ndim == LLM_MAX_DIMS)
		return llm_infer_refuse(node, ids, table, "too many dimensions", err);
	llm_infer_take(node, ids);
	node->shape[node->ndim++] = table->shape[1];
	return LLM_OK;
}

LlmCode
llm_infer_matmul(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *a = llm_infer_input(graph, node, 0), *b = llm_infer_input(graph, node, 1);
	int transposed = llm_attr_number(node, "transpose_b", 0) != 0;
	const LlmDim *inner;
	int ndim;
	char why[200], x[40], y[40];

	if (a->ndim == 0 || b->ndim == 0)
		return llm_infer_refuse(node, a, b, "a scalar has no dimension to sum over", err);
	inner = &b->shape[b->ndim == 1 ? 0 : b->ndim - 2 + transposed];
	if (!llm_dim_same(graph, &a->shape[a->ndim - 1], inner))
	{
		llm_dim_print(&a->shape[a->ndim - 1], x, sizeof(x));
		llm_dim_print(inner, y, sizeof(y));
		snprintf(why, sizeof(why), "inner dimensions %s and %s differ", x, y);
		llm_infer_refuse(node, a, b, why, err);
		return llm_hint(err, transposed
								 ? "transpose_b is on: the second input is read as (N,K)."
								 : "The second input is (K,N); for (N,K) set the attribute transpose_b.");
	}
	if (!llm_infer_broadcast(graph, a->ndim > 2 ? a->ndim - 2 : 0, a->shape, b->ndim > 2 ? b->ndim - 2 : 0,
			b->shape, &ndim, node->shape))
		return llm_infer_refuse(node, a, b, "the leading dimensions differ and neither is 1", err);
	if (a->ndim > 1)
		node->shape[ndim++] = a->shape[a->ndim - 2];
	if (b->ndim > 1)
		node->shape[ndim++] = b->shape[b->ndim - 1 - transposed];
	node->ndim = ndim;
	return LLM_OK;
}

LlmCode
llm_infer_softmax(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_infer_input(graph, node, 0);
	int axis;

	if (x->ndim == 0)
		return llm_infer_refuse(node, x, NULL, "a scalar has no axis to normalise over", err);
	if (llm_infer_axis(node, x, x->ndim, -1, &axis, err) != LLM_OK)
		return err->code;
	return llm_infer_same(graph, node, err);
}

LlmCode
llm_infer_layernorm(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_infer_input(graph, node, 0);

	if (!(llm_attr_number(node, "eps", 1e-5) >= 0))
		return llm_attr_refuse(node, "eps", "a number >= 0", err);
	for (int i = 1; i < 3; i++)
	{
		const LlmNode *w = llm_infer_input(graph, node, i);

		if (x->ndim == 0 || w->ndim != 1 || !llm_dim_same(graph, &x->shape[x->ndim - 1], &w->shape[0]))
			return llm_infer_refuse(node, x, w, "weight and bias must have the last dimension's size", err);
	}
	return llm_infer_same(graph, node, err);
}

LlmCode
llm_infer_attention(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = llm_infer_input(graph, node, 0);
	double heads = llm_attr_number(node, "n_head", 0), window = llm_attr_number(node, "window", 0);
	const LlmAttr *mask = llm_attr(node, "head_mask");
	LlmDim *last;
	int64_t channels;

	if (!(heads >= 1 && heads <= LLM_MAX_HEADS && heads == floor(heads)))
		return llm_attr_refuse(node, "n_head", "a whole number of heads", err);
	if (!(window >= 0 && window <= INT32_MAX && window == floor(window)))
		return llm_attr_refuse(node, "window", "a whole number of keys, or null", err);
	if (x->ndim != 3 && x->ndim != 2)
		return llm_infer_refuse(node, x, NULL,
			"the input must be (B,T,3*C) or (T,3*C): queries, keys and values side by side", err);
	if (mask && mask->count != (int) heads)
		return llm_attr_refuse(node, "head_mask", "a list with one number per head", err);
	for (int i = 0; mask && i < mask->count; i++)
		if (mask->items[i].kind != LLM_ATTR_NUMBER || !(fabs(mask->items[i].number) <= 1e30))
			return llm_attr_refuse(node, "head_mask", "a list with one number per head", err);
	llm_infer_take(node, x);
	last = &node->shape[node->ndim - 1];
	channels = llm_dim_value(last, &graph->sizes);
	if (last->times % 3 == 0)
		last->times /= 3;
	else if (channels >= 0 && channels % 3 == 0)
		*last = (LlmDim){.times = channels / 3};
	else
		return llm_infer_refuse(
			node, x, NULL, "the last dimension must be three times the model's width", err);
	channels = llm_dim_value(last, &graph->sizes);
	if (channels < 0 || channels % (int64_t) heads != 0)
	{
		char why[100];

		if (channels < 0)
			snprintf(why, sizeof(why), "the size of %s is not known", last->name);
		else
			snprintf(why, sizeof(why), "%lld channels do not divide into %d heads", (long long) channels,
				(int) heads);
		return llm_infer_refuse(node, x, NULL, why, err);
	}
	return LLM_OK;
}

LlmCode
llm_infer_cross_entropy(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *logits = llm_infer_input(graph, node, 0), *targets = llm_infer_input(graph, node, 1);
	bool fits = targets->integers && logits->ndim == targets->ndim + 1;

	for (int i = 0; fits && i < targets->ndim; i++)
		fits = llm_dim_same(graph, &logits->shape[i], &targets->shape[i]);
	if (!fits)
		return llm_infer_refuse(
			node, logits, targets, "targets must be whole numbers of the logits' shape without V", err);
	node->ndim = 0;
	return LLM_OK;
}
