/*
 * Named dimensions: a number, a name, or an integer multiple of a name. There is no further algebra.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/graph.h"

static LlmCode
bad_dim(const char *text, LlmError *err)
{
	llm_fail(err, LLM_INVALID, "\"%s\" is not a dimension", text);
	return llm_hint(err, "A dimension is a whole number, a name such as C, or a multiple such as 4*C.");
}

LlmCode
llm_dim_parse(const char *text, LlmDim *dim, LlmError *err)
{
	char *rest = (char *) text;
	size_t length;

	*dim = (LlmDim){.times = 1};
	if (isdigit((unsigned char) *text))
	{
		dim->times = strtoll(text, &rest, 10);
		if (dim->times > INT32_MAX || (*rest && *rest != '*'))
			return bad_dim(text, err);
		if (*rest == 0)
			return LLM_OK;
		rest++;
	}
	length = strlen(rest);
	if (length == 0 || length >= LLM_DIM_NAME || isdigit((unsigned char) *rest))
		return bad_dim(text, err);
	for (size_t i = 0; i < length; i++)
		if (!isalnum((unsigned char) rest[i]) && rest[i] != '_')
			return bad_dim(text, err);
	memcpy(dim->name, rest, length + 1);
	return LLM_OK;
}

void
llm_dim_print(const LlmDim *dim, char *text, size_t size)
{
	if (dim->name[0] == 0)
		snprintf(text, size, "%lld", (long long) dim->times);
	else if (dim->times == 1)
		snprintf(text, size, "%s", dim->name);
	else
		snprintf(text, size, "%lld*%s", (long long) dim->times, dim->name);
}

void
llm_shape_print(int ndim, const LlmDim *shape, char *text, size_t size)
{
	size_t at = 1;

	snprintf(text, size, "(");
	for (int i = 0; i < ndim && at + 2 < size; i++)
	{
		if (i)
			text[at++] = ',';
		llm_dim_print(&shape[i], text + at, size - at);
		at += strlen(text + at);
	}
	snprintf(text + at, size - at, ")");
}

int64_t
llm_dim_value(const LlmDim *dim, const LlmSizes *sizes)
{
	if (dim->name[0] == 0)
		return dim->times;
	for (int i = 0; i < sizes->count; i++)
		if (strcmp(sizes->names[i], dim->name) == 0)
		{
			int64_t value;

			return __builtin_mul_overflow(dim->times, sizes->values[i], &value) ? -1 : value;
		}
	return -1;
}

bool
llm_sizes_set(LlmSizes *sizes, const char *name, int64_t value)
{
	for (int i = 0; i < sizes->count; i++)
		if (strcmp(sizes->names[i], name) == 0)
		{
			sizes->values[i] = value;
			return true;
		}
	if (sizes->count == 32 || strlen(name) >= LLM_DIM_NAME)
		return false;
	strcpy(sizes->names[sizes->count], name);
	sizes->values[sizes->count++] = value;
	return true;
}
