/*
 * Attributes of nodes: a wrong kind or a misspelt name is an error, so that none is silently ignored.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "engine/graph.h"

static const struct
{
	const char *key;
	LlmAttrKind kind;
	double least, most; /* of a number */
	const char *expected;
} attrs[] = {
	{"shape", LLM_ATTR_LIST, 0, 0, "a list of dimensions such as [\"B\", \"T\"]"},
	{"dtype", LLM_ATTR_TEXT, 0, 0, "\"int\" or \"float\""},
	{"init", LLM_ATTR_TEXT, 0, 0, "\"normal\", \"zeros\" or \"ones\""},
	{"std", LLM_ATTR_NUMBER, 0, 1e30, "a number >= 0"},
	{"trainable", LLM_ATTR_BOOL, 0, 0, "true or false"},
	{"recompute", LLM_ATTR_BOOL, 0, 0, "true or false"},
	{"transpose_b", LLM_ATTR_BOOL, 0, 0, "true or false"},
	{"approximate", LLM_ATTR_TEXT, 0, 0, "\"tanh\" or \"none\" (the exact one, by erf)"},
	{"eps", LLM_ATTR_NUMBER, 0, 1e30, "a number >= 0"},
	{"n_head", LLM_ATTR_NUMBER, 1, LLM_MAX_HEADS, "a whole number of heads"},
	{"n_kv_head", LLM_ATTR_NUMBER, 1, LLM_MAX_HEADS, "a whole number of heads, or null for n_head"},
	{"slopes", LLM_ATTR_LIST, 0, 0, "a list with one number per head"},
	{"pattern", LLM_ATTR_TEXT, 0, 0, "\"strided\", \"fixed\" or null"},
	{"stride", LLM_ATTR_NUMBER, 1, INT32_MAX, "a whole number of keys from 1 up"},
	{"summary", LLM_ATTR_NUMBER, 1, INT32_MAX, "a whole number of keys from 1 up"},
	{"causal", LLM_ATTR_BOOL, 0, 0, "true or false"},
	{"window", LLM_ATTR_NUMBER, 1, INT32_MAX, "a whole number of keys from 1 up, or null for all"},
	{"scale", LLM_ATTR_NUMBER, -1e30, 1e30, "a number, or null for 1/sqrt(HS)"},
	{"head_mask", LLM_ATTR_LIST, 0, 0, "a list with one number per head"},
	{"theta", LLM_ATTR_NUMBER, 1e-30, 1e30, "a positive number"},
	{"dims", LLM_ATTR_NUMBER, 2, INT32_MAX, "an even number of channels, or null for all of a head"},
	{"interleaved", LLM_ATTR_BOOL, 0, 0, "true or false"},
	{"factor", LLM_ATTR_NUMBER, 1e-30, 1e30, "a positive number"},
	{"low_freq_factor", LLM_ATTR_NUMBER, 1e-30, 1e30, "a positive number"},
	{"high_freq_factor", LLM_ATTR_NUMBER, 1e-30, 1e30, "a positive number"},
	{"original_max_position_embeddings", LLM_ATTR_NUMBER, 1, INT32_MAX, "a number of positions from 1 up"},
	{"dropout", LLM_ATTR_NUMBER, 0, 0.999999, "a probability from 0 up to, not including, 1"},
	{"p", LLM_ATTR_NUMBER, 0, 1, "a probability from 0 to 1"},
	{"axis", LLM_ATTR_NUMBER, -LLM_MAX_DIMS, LLM_MAX_DIMS - 1,
		"an axis, counted from 0 or, the last, from -1"},
	{"min", LLM_ATTR_NUMBER, -FLT_MAX, FLT_MAX, "a number, or null for no bound"},
	{"max", LLM_ATTR_NUMBER, -FLT_MAX, FLT_MAX, "a number, or null for no bound"},
	{"k", LLM_ATTR_NUMBER, 1, INT32_MAX, "a whole number from 1 up"},
	{"output", LLM_ATTR_TEXT, 0, 0, "\"values\", \"indices\" or \"mask\""},
	{"mean", LLM_ATTR_NUMBER, -FLT_MAX, FLT_MAX, "a number"},
	{"low", LLM_ATTR_NUMBER, -FLT_MAX, FLT_MAX, "a number"},
	{"high", LLM_ATTR_NUMBER, -FLT_MAX, FLT_MAX, "a number"},
	{"exponent", LLM_ATTR_NUMBER, -1e30, 1e30, "a number"},
	{"axes", LLM_ATTR_LIST, 0, 0, "a list with each axis once, such as [0, 2, 1, 3]"},
	{"starts", LLM_ATTR_LIST, 0, 0, "a list of positions along the first axes, such as [0, 2]"},
	{"stops", LLM_ATTR_LIST, 0, 0, "a list of positions along the first axes, null for the end"},
	{"steps", LLM_ATTR_LIST, 0, 0, "a list of whole numbers from 1 up, one for each start"},
	{"stride", LLM_ATTR_NUMBER, 1, INT32_MAX, "a whole number from 1 up"},
	{"groups", LLM_ATTR_NUMBER, 1, INT32_MAX, "a whole number from 1 up"},
	{"factor", LLM_ATTR_NUMBER, 1, INT32_MAX, "a whole number from 1 up"},
	{"seed", LLM_ATTR_TEXT, 0, 0, "the text of a whole number from 0 to 18446744073709551615"},
};

const LlmAttr *
llm_attr(const LlmNode *node, const char *key)
{
	for (int i = 0; i < node->n_attrs; i++)
		if (strcmp(node->attrs[i].key, key) == 0)
			return node->attrs[i].kind == LLM_ATTR_NULL ? NULL : &node->attrs[i];
	return NULL;
}

double
llm_attr_number(const LlmNode *node, const char *key, double otherwise)
{
	const LlmAttr *attr = llm_attr(node, key);

	return attr && (attr->kind == LLM_ATTR_NUMBER || attr->kind == LLM_ATTR_BOOL) ? attr->number : otherwise;
}

bool
llm_is_trainable(const LlmNode *node)
{
	return node->op == LLM_OP_PARAM && llm_attr_number(node, "trainable", 1) != 0;
}

bool
llm_recomputes(const LlmNode *node)
{
	return llm_attr_number(node, "recompute", 0) != 0;
}

bool
llm_attr_whole(const LlmNode *node, const char *key, int otherwise, int *out)
{
	const LlmAttr *attr = llm_attr(node, key);
	double number = attr ? attr->number : otherwise;

	if ((attr && attr->kind != LLM_ATTR_NUMBER) || !(fabs(number) <= INT32_MAX) || number != floor(number))
		return false;
	*out = (int) number;
	return true;
}

int
llm_attr_integers(const LlmNode *node, const char *key, int *out)
{
	const LlmAttr *attr = llm_attr(node, key);

	if (attr == NULL || attr->kind != LLM_ATTR_LIST || attr->count > LLM_MAX_DIMS)
		return -1;
	for (int i = 0; i < attr->count; i++)
	{
		const LlmAttr *item = &attr->items[i];

		out[i] = LLM_TO_END;
		if (item->kind == LLM_ATTR_NULL)
			continue;
		if (item->kind != LLM_ATTR_NUMBER || !(fabs(item->number) < INT32_MAX) ||
			item->number != floor(item->number))
			return -1;
		out[i] = (int) item->number;
	}
	return attr->count;
}

LlmCode
llm_attr_refuse(const LlmNode *node, const char *key, const char *expected, LlmError *err)
{
	return llm_fail(err, LLM_INVALID, "node \"%s\": attribute %s of %s must be %s", node->name, key,
		llm_op_name(node->op), expected);
}

/* Is word one of the space-separated words of list? */
static bool
listed(const char *list, const char *word)
{
	size_t length = strlen(word);

	for (const char *at = list; (at = strstr(at, word)) != NULL && length > 0; at += length)
		if ((at == list || at[-1] == ' ') && (at[length] == 0 || at[length] == ' '))
			return true;
	return false;
}

/* Each op but these leaves takes `recompute`. */
static bool
is_computed(const LlmNode *node)
{
	return node->op != LLM_OP_INPUT && node->op != LLM_OP_PARAM;
}

/* null stands for the default. */
static LlmCode
check_kind(const LlmNode *node, const LlmAttr *attr, LlmError *err)
{
	for (size_t i = 0; i < sizeof(attrs) / sizeof(*attrs); i++)
	{
		bool fits = attr->kind == attrs[i].kind || attr->kind == LLM_ATTR_NULL;

		if (strcmp(attrs[i].key, attr->key) != 0)
			continue;
		if (attr->kind == LLM_ATTR_NUMBER)
			fits = fits && attr->number >= attrs[i].least && attr->number <= attrs[i].most;
		return fits ? LLM_OK : llm_attr_refuse(node, attr->key, attrs[i].expected, err);
	}
	return LLM_OK; /* the value of a constant, padding, a size: the shape rule checks it */
}

LlmCode
llm_attrs_check(const LlmNode *node, const char *names, LlmError *err)
{
	const char *all = is_computed(node) ? "recompute" : "";

	for (int i = 0; i < node->n_attrs; i++)
	{
		const LlmAttr *attr = &node->attrs[i];

		if (!listed(names, attr->key) && !listed(all, attr->key))
		{
			llm_fail(err, LLM_INVALID, "node \"%s\": %s has no attribute \"%s\"", node->name,
				llm_op_name(node->op), attr->key);
			return llm_hint(err, "It takes: %s%s%s.", names, names[0] && all[0] ? " " : "",
				names[0] || all[0] ? all : "none");
		}
		if (check_kind(node, attr, err) != LLM_OK)
			return err->code;
	}
	return LLM_OK;
}
