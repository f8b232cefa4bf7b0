#include "src/base/attributes.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

static char *
CopyString(const char *s, int length)
{
	return pnstrdup(s, length);
}

static void
ReadScalar(const JsonbValue *value, LlmAttr *attr, const char *node)
{
	switch (value->type)
	{
		case jbvNull:
			attr->kind = LLM_ATTR_NULL;
			break;
		case jbvBool:
			attr->kind = LLM_ATTR_BOOL;
			attr->number = value->val.boolean;
			break;
		case jbvNumeric:
			attr->kind = LLM_ATTR_NUMBER;
			attr->number = DatumGetFloat8(
				DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(value->val.numeric)));
			break;
		case jbvString:
			attr->kind = LLM_ATTR_TEXT;
			attr->text = CopyString(value->val.string.val, value->val.string.len);
			break;
		default:
			ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("node \"%s\": attribute \"%s\" is nested too deep", node, attr->key),
					errhint("An attribute is a number, a string, true, false, null, or a list of those.")));
	}
}

static void
NestedTooDeep(const LlmAttr *attr, const char *node)
{
	ereport(ERROR,
		(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			errmsg("node \"%s\": attribute \"%s\" is nested too deep", node, attr->key),
			errhint("An attribute is a number, a string, true, false, null, or a list of those; lists within "
					"lists have at most %d levels.",
				LLM_MAX_DIMS)));
}

void
GraphReadAttrs(Jsonb *attrs, LlmNode *node)
{
	JsonbIterator *it = JsonbIteratorInit(&attrs->root);
	LlmAttr *attr = NULL, *lists[LLM_MAX_DIMS]; /* the open ones, one within the other */
	int depth = 0;
	JsonbValue value;
	JsonbIteratorToken token;

	node->attrs = palloc0(sizeof(LlmAttr) * Max(1, JB_ROOT_COUNT(attrs)));
	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		LlmAttr *list = depth > 0 ? lists[depth - 1] : NULL;

		if (token == WJB_KEY)
		{
			attr = &node->attrs[node->n_attrs++];
			attr->key = CopyString(value.val.string.val, value.val.string.len);
		}
		else if (token == WJB_VALUE && attr)
			ReadScalar(&value, attr, node->name);
		else if (token == WJB_BEGIN_ARRAY && attr && depth < LLM_MAX_DIMS)
		{
			list = list ? &list->items[list->count++] : attr;
			list->kind = LLM_ATTR_LIST;
			list->items = palloc0(sizeof(LlmAttr) * Max(1, value.val.array.nElems));
			lists[depth++] = list;
		}
		else if (token == WJB_END_ARRAY && depth > 0)
			depth--;
		else if (token == WJB_ELEM && list)
			ReadScalar(&value, &list->items[list->count++], node->name);
		else if (attr && (token == WJB_BEGIN_OBJECT || token == WJB_BEGIN_ARRAY))
			NestedTooDeep(attr, node->name);
	}
}
