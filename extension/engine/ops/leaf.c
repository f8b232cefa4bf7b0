/*
 * The leaves of a graph: inputs, passed to each run, and parameters, which are trained. Their values are
 * bound before the run.
 */
#include <math.h>
#include <string.h>

#include "engine/ops/op.h"

LlmCode
llm_infer_declared(const LlmGraph *graph, LlmNode *node, LlmError *err)
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

LlmCode
llm_infer_input(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	return llm_infer_declared(graph, node, err);
}

LlmCode
llm_infer_param(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmAttr *init = llm_attr(node, "init");
	LlmCode code = llm_infer_declared(graph, node, err);

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

LlmCode
llm_forward_leaf(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	return LLM_OK;
}

void
llm_cost_leaf(const LlmNode *node, const LlmValue *x, size_t read, const LlmValue *value, int64_t *flops,
	int64_t *bytes)
{
	*flops = *bytes = 0;
}
