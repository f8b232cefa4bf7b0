/*
 * Ids that choose rows: whole numbers of an input of integers, or of any value (topk's indices, randint).
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/gradients.h"
#include "engine/ops/direct.h"
#include "engine/ops/op.h"
#include "engine/pool.h"
#include "engine/rows.h"

static LlmCode
refuse(const char *what, const LlmValue *ids, size_t i, int size, LlmError *err)
{
	char number[32];

	llm_fail(err, LLM_RANGE, "%s: id %s at place %zu does not exist: there are %d rows", what,
		llm_decimal(ids->integers ? ids->integers[i] : ids->floats[i], number), i + 1, size);
	if (size == 0)
		return err->code;
	return llm_hint(err, "Ids are whole numbers from 0 to %d.", size - 1);
}

LlmCode
llm_row_ids(const char *what, const LlmValue *ids, int size, int32_t *out, LlmError *err)
{
	for (size_t i = 0; i < ids->numel; i++)
	{
		double id = ids->integers ? ids->integers[i] : ids->floats[i];

		if (i % LLM_POLL_ELEMENTS == 0 && llm_poll(err) != LLM_OK)
			return err->code;
		if (!(id >= 0 && id < size && id == floor(id)))
			return refuse(what, ids, i, size, err);
		out[i] = (int32_t) id;
	}
	return LLM_OK;
}

int32_t *
llm_ids_of(LlmExec *exec, const LlmNode *node, const LlmValue *ids, int size, Buffer **buffer, LlmError *err)
{
	char what[100];

	*buffer = llm_buffer_take(exec, ids->numel, err);
	if (*buffer == NULL)
		return NULL;
	snprintf(what, sizeof(what), "node \"%.80s\"", node->name);
	if (llm_row_ids(what, ids, size, (int32_t *) (*buffer)->data, err) == LLM_OK)
		return (int32_t *) (*buffer)->data;
	llm_buffer_drop(exec, *buffer);
	*buffer = NULL;
	return NULL;
}

LlmCode
llm_infer_size(LlmNode *node, LlmDim *size, LlmError *err)
{
	static const char *const expected = "a whole number from 1 up or the name of a dimension such as \"V\"";
	const LlmAttr *attr = llm_attr(node, "size");

	*size = (LlmDim){.times = 0};
	if (attr && attr->kind == LLM_ATTR_NUMBER && attr->number >= 1 && attr->number <= INT32_MAX &&
		attr->number == floor(attr->number))
		size->times = (int64_t) attr->number;
	else if (attr == NULL || attr->kind != LLM_ATTR_TEXT || llm_dim_parse(attr->text, size, err) != LLM_OK)
		return llm_attr_refuse(node, "size", expected, err);
	return LLM_OK;
}

/* ---- rows by ids ---- */

typedef struct Gather
{
	size_t width;
	const int32_t *ids;
	const float *from;
	float *to;
} Gather;

static void
gather_task(void *context, size_t i, int worker)
{
	const Gather *r = context;

	(void) worker;
	memcpy(r->to + i * r->width, r->from + r->ids[i] * r->width, r->width * sizeof(float));
}

LlmCode
llm_gather_rows(size_t n, const int32_t *ids, size_t width, const float *from, float *to, LlmError *err)
{
	Gather r = {width, ids, from, to};

	return width == 0 ? LLM_OK : llm_each_row(n, width, gather_task, &r, err);
}

LlmCode
llm_add_rows(size_t n, const int32_t *ids, size_t width, const float *from, float *to, LlmError *err)
{
	if (width > INT32_MAX)
		return llm_fail(err, LLM_LIMIT, "rows of %zu elements are too long", width);
	return llm_embedding_backward(n, (int) width, ids, from, to, err);
}

LlmCode
llm_mark_ids(size_t n, const int32_t *ids, int size, float *out, LlmError *err)
{
	for (size_t i = 0; i < n; i++)
	{
		if (i % LLM_POLL_ELEMENTS == 0 && llm_poll(err) != LLM_OK)
			return err->code;
		out[i * size + ids[i]] = 1;
	}
	return LLM_OK;
}
