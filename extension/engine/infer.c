/*
 * The ops' arity, attributes and shape rules. A refusal names the node and both shapes.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/infer.h"

const LlmNode *
llm_infer_input(const LlmGraph *graph, const LlmNode *node, int i)
{
	return &graph->nodes[node->inputs[i]];
}

bool
llm_dim_same(const LlmGraph *graph, const LlmDim *a, const LlmDim *b)
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

void
llm_infer_take(LlmNode *node, const LlmNode *from)
{
	node->ndim = from->ndim;
	memcpy(node->shape, from->shape, sizeof(node->shape));
}

LlmCode
llm_infer_same(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	(void) err;
	llm_infer_take(node, llm_infer_input(graph, node, 0));
	return LLM_OK;
}

bool
llm_infer_broadcast(
	const LlmGraph *graph, int a_ndim, const LlmDim *a, int b_ndim, const LlmDim *b, int *ndim, LlmDim *out)
{
	*ndim = a_ndim > b_ndim ? a_ndim : b_ndim;
	for (int i = 1; i <= *ndim; i++)
	{
		const LlmDim *x = i <= a_ndim ? &a[a_ndim - i] : NULL, *y = i <= b_ndim ? &b[b_ndim - i] : NULL;

		if (x && y && !is_one(x) && !is_one(y) && !llm_dim_same(graph, x, y))
			return false;
		out[*ndim - i] = x == NULL || (y && is_one(x)) ? *y : *x;
	}
	return true;
}

/* "mlp.fc: matmul of (B,T,C) and (V,C): why" */
LlmCode
llm_infer_refuse(const LlmNode *node, const LlmNode *a, const LlmNode *b, const char *why, LlmError *err)
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
infer_binary(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *a = llm_infer_input(graph, node, 0), *b = llm_infer_input(graph, node, 1);

	if (llm_infer_broadcast(graph, a->ndim, a->shape, b->ndim, b->shape, &node->ndim, node->shape))
		return LLM_OK;
	llm_infer_refuse(node, a, b, "the shapes do not broadcast", err);
	return llm_hint(err, "Dimensions are matched from the right; each pair must be equal or one of them 1.");
}

static LlmCode
infer_gelu(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmAttr *how = llm_attr(node, "approximate");

	if (how && how->kind == LLM_ATTR_TEXT && strcmp(how->text, "tanh") && strcmp(how->text, "none"))
		return llm_attr_refuse(node, "approximate", "\"tanh\" or \"none\" (the exact one, by erf)", err);
	return llm_infer_same(graph, node, err);
}

static LlmCode
infer_dropout(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmAttr *seed = llm_attr(node, "seed");
	double p = llm_attr_number(node, "p", 0);

	if (seed && (seed->text == NULL || strspn(seed->text, "0123456789") != strlen(seed->text) ||
					strlen(seed->text) - 1 >= 20))
		return llm_attr_refuse(node, "seed", "the text of a whole number from 0 up", err);
	if (!(p >= 0 && (p < 1 || seed)))
		return llm_attr_refuse(node, "p", "a probability from 0 up to, not including, 1", err);
	return llm_infer_same(graph, node, err);
}

static const struct
{
	const char *name;
	int least, most;   /* inputs; INT32_MAX: any number */
	const char *attrs; /* those it takes */
	LlmShapeRule rule;
} ops[LLM_OP_COUNT] = {
	[LLM_OP_INPUT] = {"input", 0, 0, "shape dtype", declared},
	[LLM_OP_PARAM] = {"param", 0, 0, "shape init std", declared_param},
	[LLM_OP_EMBEDDING] = {"embedding", 2, 2, "", llm_infer_embedding},
	[LLM_OP_MATMUL] = {"matmul", 2, 2, "transpose_b", llm_infer_matmul},
	[LLM_OP_ADD] = {"add", 2, 2, "", infer_binary},
	[LLM_OP_SUB] = {"sub", 2, 2, "", infer_binary},
	[LLM_OP_MUL] = {"mul", 2, 2, "", infer_binary},
	[LLM_OP_DIV] = {"div", 2, 2, "", infer_binary},
	[LLM_OP_NEG] = {"neg", 1, 1, "", llm_infer_same},
	[LLM_OP_EXP] = {"exp", 1, 1, "", llm_infer_same},
	[LLM_OP_LOG] = {"log", 1, 1, "", llm_infer_same},
	[LLM_OP_SQRT] = {"sqrt", 1, 1, "", llm_infer_same},
	[LLM_OP_TANH] = {"tanh", 1, 1, "", llm_infer_same},
	[LLM_OP_RELU] = {"relu", 1, 1, "", llm_infer_same},
	[LLM_OP_GELU] = {"gelu", 1, 1, "approximate", infer_gelu},
	[LLM_OP_SOFTMAX] = {"softmax", 1, 1, "axis", llm_infer_softmax},
	[LLM_OP_LAYERNORM] = {"layernorm", 3, 3, "eps", llm_infer_layernorm},
	[LLM_OP_ATTENTION] = {"attention", 1, 1, "n_head causal window scale head_mask dropout",
		llm_infer_attention},
	[LLM_OP_DROPOUT] = {"dropout", 1, 1, "p seed", infer_dropout},
	[LLM_OP_CROSS_ENTROPY] = {"cross_entropy", 2, 2, "", llm_infer_cross_entropy},
	[LLM_OP_SUM] = {"sum", 1, 1, "axis", llm_infer_reduce},
	[LLM_OP_MEAN] = {"mean", 1, 1, "axis", llm_infer_reduce},
	[LLM_OP_MAX] = {"max", 1, 1, "axis", llm_infer_reduce},
	[LLM_OP_MIN] = {"min", 1, 1, "axis", llm_infer_reduce},
	[LLM_OP_VAR] = {"var", 1, 1, "axis", llm_infer_reduce},
	[LLM_OP_NORM] = {"norm", 1, 1, "axis", llm_infer_reduce},
	[LLM_OP_RESHAPE] = {"reshape", 1, 1, "shape", llm_infer_reshape},
	[LLM_OP_TRANSPOSE] = {"transpose", 1, 1, "axes", llm_infer_transpose},
	[LLM_OP_SLICE] = {"slice", 1, 1, "starts stops", llm_infer_slice},
	[LLM_OP_CONCAT] = {"concat", 1, INT32_MAX, "axis", llm_infer_concat},
	[LLM_OP_STACK] = {"stack", 1, INT32_MAX, "", llm_infer_stack},
	[LLM_OP_TOTAL] = {"total", 1, INT32_MAX, "", llm_infer_total},
	[LLM_OP_ONES_LIKE] = {"ones_like", 1, 1, "", llm_infer_same},
	[LLM_OP_ZEROS_LIKE] = {"zeros_like", 1, 1, "", llm_infer_same},
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
		return llm_fail(err, LLM_INVALID, "node \"%s\": %s takes %s%d input%s, not %d", node->name,
			ops[node->op].name, ops[node->op].most == INT32_MAX ? "at least " : "", ops[node->op].least,
			ops[node->op].least == 1 ? "" : "s", node->n_inputs);
	if (llm_attrs_check(node, ops[node->op].attrs, err) != LLM_OK)
		return err->code;
	for (int i = 0; i < node->n_inputs; i++)
		if (llm_infer_input(graph, node, i)->integers &&
			!((node->op == LLM_OP_EMBEDDING && i == 0) || (node->op == LLM_OP_CROSS_ENTROPY && i == 1)))
			return llm_fail(err, LLM_SHAPE, "node \"%s\": %s cannot read whole numbers (\"%s\")", node->name,
				ops[node->op].name, llm_infer_input(graph, node, i)->name);
	return ops[node->op].rule(graph, node, err);
}
