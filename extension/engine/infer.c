/*
 * The ops' arity, attributes and shape rules. A refusal names the node and both shapes.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/graph.h"

typedef LlmCode (*ShapeRule)(const LlmGraph *graph, LlmNode *node, LlmError *err);

static const LlmNode *
input(const LlmGraph *graph, const LlmNode *node, int i)
{
	return &graph->nodes[node->inputs[i]];
}

static bool
same(const LlmGraph *graph, const LlmDim *a, const LlmDim *b)
{
	int64_t x = llm_dim_value(a, &graph->sizes), y = llm_dim_value(b, &graph->sizes);

	if (x >= 0 && y >= 0)
		return x == y;
	return a->times == b->times && strcmp(a->name, b->name) == 0;
}

static bool
is_one(const LlmDim *d)
{
	return d->name[0] == 0 && d->times == 1;
}

static void
take_shape(LlmNode *node, const LlmNode *from)
{
	node->ndim = from->ndim;
	memcpy(node->shape, from->shape, sizeof(node->shape));
}

/* "mlp.fc: matmul of (B,T,C) and (V,C): why" */
static LlmCode
refuse(const LlmNode *node, const LlmNode *a, const LlmNode *b, const char *why, LlmError *err)
{
	char x[160], y[160];

	llm_shape_print(a->ndim, a->shape, x, sizeof(x));
	if (b == NULL)
		return llm_fail(err, LLM_SHAPE, "node \"%s\": %s of %s %s: %s", node->name, llm_op_name(node->op),
			a->name, x, why);
	llm_shape_print(b->ndim, b->shape, y, sizeof(y));
	return llm_fail(err, LLM_SHAPE, "node \"%s\": %s of %s %s and %s %s: %s", node->name,
		llm_op_name(node->op), a->name, x, b->name, y, why);
}

static LlmCode
declared(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmAttr *shape = llm_attr(node, "shape"), *dtype = llm_attr(node, "dtype");

	(void) graph;
	if (shape == NULL || shape->kind != LLM_ATTR_LIST || shape->count > LLM_MAX_DIMS)
		return llm_attr_refuse(node, "shape", "a list of at most 8 dimensions such as [\"B\", \"T\"]", err);
	if (dtype && dtype->kind == LLM_ATTR_TEXT && strcmp(dtype->text, "int") && strcmp(dtype->text, "float"))
		return llm_attr_refuse(node, "dtype", "\"int\" or \"float\"", err);
	node->integers = dtype && dtype->kind == LLM_ATTR_TEXT && strcmp(dtype->text, "int") == 0;
	node->ndim = shape->count;
	for (int i = 0; i < shape->count; i++)
	{
		const LlmAttr *d = &shape->items[i];

		if (d->kind == LLM_ATTR_NUMBER && d->number >= 0 && d->number <= INT32_MAX &&
			d->number == floor(d->number))
			node->shape[i] = (LlmDim){.times = (int64_t) d->number};
		else if (d->kind == LLM_ATTR_TEXT)
		{
			if (llm_dim_parse(d->text, &node->shape[i], err) != LLM_OK)
			{
				llm_fail(err, LLM_INVALID, "node \"%s\": \"%s\" is not a dimension", node->name, d->text);
				return llm_hint(
					err, "A dimension is a whole number, a name such as C, or a multiple such as 4*C.");
			}
		}
		else
			return llm_attr_refuse(node, "shape", "a list of whole numbers and names", err);
	}
	return LLM_OK;
}

static LlmCode
declared_param(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmAttr *init = llm_attr(node, "init");
	LlmCode code = declared(graph, node, err);

	for (int i = 0; code == LLM_OK && i < node->ndim; i++)
	{
		int64_t size = llm_dim_value(&node->shape[i], &graph->sizes);

		if (size >= 0 && size <= INT32_MAX)
			continue;
		if (size > INT32_MAX)
			return llm_fail(err, LLM_LIMIT, "parameter \"%s\": dimension %d of size %lld is too large",
				node->name, i + 1, (long long) size);
		llm_fail(
			err, LLM_SHAPE, "parameter \"%s\": the size of %s is not known", node->name, node->shape[i].name);
		return llm_hint(
			err, "A parameter's shape uses numbers and the names C, V, P, F of llm_model_config.");
	}
	if (code == LLM_OK && init && init->text && strcmp(init->text, "normal") && strcmp(init->text, "zeros") &&
		strcmp(init->text, "ones"))
		return llm_attr_refuse(node, "init", "\"normal\", \"zeros\" or \"ones\"", err);
	return code;
}

static LlmCode
infer_embedding(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *ids = input(graph, node, 0), *table = input(graph, node, 1);

	if (!ids->integers)
		return refuse(
			node, ids, table, "the first input must be whole numbers (an input node of dtype int)", err);
	if (table->ndim != 2)
		return refuse(node, ids, table, "the table must have two dimensions", err);
	if (ids->ndim == LLM_MAX_DIMS)
		return refuse(node, ids, table, "too many dimensions", err);
	take_shape(node, ids);
	node->shape[node->ndim++] = table->shape[1];
	return LLM_OK;
}

static LlmCode
infer_matmul(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *a = input(graph, node, 0), *b = input(graph, node, 1);
	int transposed = llm_attr_number(node, "transpose_b", 0) != 0;
	const LlmDim *inner, *outer;
	char why[200], x[40], y[40];

	if (a->ndim < 2 || b->ndim < 2)
		return refuse(node, a, b, "both need at least two dimensions", err);
	inner = &b->shape[b->ndim - 2 + transposed];
	outer = &b->shape[b->ndim - 1 - transposed];
	if (!same(graph, &a->shape[a->ndim - 1], inner))
	{
		llm_dim_print(&a->shape[a->ndim - 1], x, sizeof(x));
		llm_dim_print(inner, y, sizeof(y));
		snprintf(why, sizeof(why), "inner dimensions %s and %s differ", x, y);
		refuse(node, a, b, why, err);
		return llm_hint(err, transposed
								 ? "transpose_b is on: the second input is read as (N,K)."
								 : "The second input is (K,N); for (N,K) set the attribute transpose_b.");
	}
	if (b->ndim > 2)
	{
		bool fits = a->ndim == b->ndim;

		for (int i = 0; fits && i < b->ndim - 2; i++)
			fits = same(graph, &a->shape[i], &b->shape[i]);
		if (!fits)
			return refuse(node, a, b, "the leading dimensions differ", err);
	}
	take_shape(node, a);
	node->shape[node->ndim - 1] = *outer;
	return LLM_OK;
}

static LlmCode
infer_binary(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *a = input(graph, node, 0), *b = input(graph, node, 1);
	const LlmNode *big = a->ndim >= b->ndim ? a : b, *small = big == a ? b : a;
	int skip = big->ndim - small->ndim;

	take_shape(node, big);
	for (int i = 0; i < small->ndim; i++)
	{
		const LlmDim *x = &big->shape[skip + i], *y = &small->shape[i];

		if (is_one(x))
			node->shape[skip + i] = *y;
		else if (!is_one(y) && !same(graph, x, y))
		{
			refuse(node, a, b, "the shapes do not broadcast", err);
			return llm_hint(
				err, "Dimensions are matched from the right; each pair must be equal or one of them 1.");
		}
	}
	return LLM_OK;
}

static LlmCode
infer_same(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	(void) err;
	take_shape(node, input(graph, node, 0));
	return LLM_OK;
}

static LlmCode
infer_gelu(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmAttr *how = llm_attr(node, "approximate");

	if (how && how->kind == LLM_ATTR_TEXT && strcmp(how->text, "tanh") && strcmp(how->text, "none"))
		return llm_attr_refuse(node, "approximate", "\"tanh\" or \"none\" (the exact one, by erf)", err);
	return infer_same(graph, node, err);
}

static LlmCode
infer_dropout(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	double p = llm_attr_number(node, "p", 0);

	if (!(p >= 0 && p < 1))
		return llm_attr_refuse(node, "p", "a probability from 0 up to, not including, 1", err);
	return infer_same(graph, node, err);
}

static LlmCode
infer_softmax(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	if (input(graph, node, 0)->ndim == 0)
		return refuse(node, input(graph, node, 0), NULL, "a scalar has no axis to normalise over", err);
	return infer_same(graph, node, err);
}

static LlmCode
infer_layernorm(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = input(graph, node, 0);

	if (!(llm_attr_number(node, "eps", 1e-5) >= 0))
		return llm_attr_refuse(node, "eps", "a number >= 0", err);
	for (int i = 1; i < 3; i++)
	{
		const LlmNode *w = input(graph, node, i);

		if (x->ndim == 0 || w->ndim != 1 || !same(graph, &x->shape[x->ndim - 1], &w->shape[0]))
			return refuse(node, x, w, "weight and bias must have the last dimension's size", err);
	}
	return infer_same(graph, node, err);
}

static LlmCode
infer_attention(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *x = input(graph, node, 0);
	double heads = llm_attr_number(node, "n_head", 0), window = llm_attr_number(node, "window", 0);
	const LlmAttr *mask = llm_attr(node, "head_mask");
	LlmDim *last;
	int64_t channels;

	if (!(heads >= 1 && heads <= LLM_MAX_HEADS && heads == floor(heads)))
		return llm_attr_refuse(node, "n_head", "a whole number of heads", err);
	if (!(window >= 0 && window <= INT32_MAX && window == floor(window)))
		return llm_attr_refuse(node, "window", "a whole number of keys, or null", err);
	if (x->ndim != 3)
		return refuse(
			node, x, NULL, "the input must be (B,T,3*C): queries, keys and values side by side", err);
	if (mask && mask->count != (int) heads)
		return llm_attr_refuse(node, "head_mask", "a list with one number per head", err);
	for (int i = 0; mask && i < mask->count; i++)
		if (mask->items[i].kind != LLM_ATTR_NUMBER || !(fabs(mask->items[i].number) <= 1e30))
			return llm_attr_refuse(node, "head_mask", "a list with one number per head", err);
	take_shape(node, x);
	last = &node->shape[2];
	channels = llm_dim_value(last, &graph->sizes);
	if (last->times % 3 == 0)
		last->times /= 3;
	else if (channels >= 0 && channels % 3 == 0)
		*last = (LlmDim){.times = channels / 3};
	else
		return refuse(node, x, NULL, "the last dimension must be three times the model's width", err);
	channels = llm_dim_value(last, &graph->sizes);
	if (channels < 0 || channels % (int64_t) heads != 0)
	{
		char why[100];

		if (channels < 0)
			snprintf(why, sizeof(why), "the size of %s is not known", last->name);
		else
			snprintf(why, sizeof(why), "%lld channels do not divide into %d heads", (long long) channels,
				(int) heads);
		return refuse(node, x, NULL, why, err);
	}
	return LLM_OK;
}

static LlmCode
infer_cross_entropy(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *logits = input(graph, node, 0), *targets = input(graph, node, 1);
	bool fits = targets->integers && logits->ndim == targets->ndim + 1;

	for (int i = 0; fits && i < targets->ndim; i++)
		fits = same(graph, &logits->shape[i], &targets->shape[i]);
	if (!fits)
		return refuse(
			node, logits, targets, "targets must be whole numbers of the logits' shape without V", err);
	node->ndim = 0;
	return LLM_OK;
}

static const struct
{
	const char *name;
	int least, most;
	const char *attrs; /* those it takes */
	ShapeRule rule;
} ops[LLM_OP_COUNT] = {
	[LLM_OP_INPUT] = {"input", 0, 0, "shape dtype", declared},
	[LLM_OP_PARAM] = {"param", 0, 0, "shape init std", declared_param},
	[LLM_OP_EMBEDDING] = {"embedding", 2, 2, "", infer_embedding},
	[LLM_OP_MATMUL] = {"matmul", 2, 2, "transpose_b", infer_matmul},
	[LLM_OP_ADD] = {"add", 2, 2, "", infer_binary},
	[LLM_OP_SUB] = {"sub", 2, 2, "", infer_binary},
	[LLM_OP_MUL] = {"mul", 2, 2, "", infer_binary},
	[LLM_OP_DIV] = {"div", 2, 2, "", infer_binary},
	[LLM_OP_NEG] = {"neg", 1, 1, "", infer_same},
	[LLM_OP_EXP] = {"exp", 1, 1, "", infer_same},
	[LLM_OP_LOG] = {"log", 1, 1, "", infer_same},
	[LLM_OP_SQRT] = {"sqrt", 1, 1, "", infer_same},
	[LLM_OP_TANH] = {"tanh", 1, 1, "", infer_same},
	[LLM_OP_RELU] = {"relu", 1, 1, "", infer_same},
	[LLM_OP_GELU] = {"gelu", 1, 1, "approximate", infer_gelu},
	[LLM_OP_SOFTMAX] = {"softmax", 1, 1, "", infer_softmax},
	[LLM_OP_LAYERNORM] = {"layernorm", 3, 3, "eps", infer_layernorm},
	[LLM_OP_ATTENTION] = {"attention", 1, 1, "n_head causal window scale head_mask dropout", infer_attention},
	[LLM_OP_DROPOUT] = {"dropout", 1, 1, "p", infer_dropout},
	[LLM_OP_CROSS_ENTROPY] = {"cross_entropy", 2, 2, "", infer_cross_entropy},
};

LlmOp
llm_op_find(const char *name)
{
	int op = 0;

	while (op < LLM_OP_COUNT && strcmp(ops[op].name, name) != 0)
		op++;
	return (LlmOp) op;
}

const char *
llm_op_name(LlmOp op)
{
	return ops[op].name;
}

void
llm_op_arity(LlmOp op, int *least, int *most)
{
	*least = ops[op].least;
	*most = ops[op].most;
}

LlmCode
llm_infer(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	if (node->n_inputs < ops[node->op].least || node->n_inputs > ops[node->op].most)
		return llm_fail(err, LLM_INVALID, "node \"%s\": %s takes %d inputs, not %d", node->name,
			ops[node->op].name, ops[node->op].least, node->n_inputs);
	if (llm_attrs_check(node, ops[node->op].attrs, err) != LLM_OK)
		return err->code;
	for (int i = 0; i < node->n_inputs; i++)
		if (input(graph, node, i)->integers &&
			!((node->op == LLM_OP_EMBEDDING && i == 0) || (node->op == LLM_OP_CROSS_ENTROPY && i == 1)))
			return llm_fail(err, LLM_SHAPE, "node \"%s\": %s cannot read whole numbers (\"%s\")", node->name,
				ops[node->op].name, node->input_names[i]);
	return ops[node->op].rule(graph, node, err);
}
