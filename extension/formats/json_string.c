/*
 * Strings of the JSON pull parser: delimited, checked as UTF-8, and copied only if escapes must be resolved.
 */
#include "formats/json.h"

#include <string.h>

#include "formats/json_internal.h"
#include "formats/utf8.h"

static int
hex4(const LlmJson *json, size_t at)
{
	int value = 0;

	if (json->size - at < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		char c = json->data[at + i];
		int digit = c >= '0' && c <= '9'   ? c - '0'
					: c >= 'a' && c <= 'f' ? c - 'a' + 10
					: c >= 'A' && c <= 'F' ? c - 'A' + 10
										   : -1;

		if (digit < 0)
			return -1;
		value = value << 4 | digit;
	}
	return value;
}

/* Resolves the escape whose backslash is at json->at into out (at most 4 bytes); moves past it. */
static LlmCode
read_escape(LlmJson *json, char *out, size_t *length, LlmError *err)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	char c = json->at + 1 < json->size ? json->data[json->at + 1] : '\0';
	const char *simple = c != '\0' ? strchr(from, c) : NULL;
	int high, low;

	json->start = json->at;
	if (simple != NULL)
	{
		out[0] = to[simple - from];
		*length = 1;
		json->at += 2;
		return LLM_OK;
	}
	if (c != 'u')
		return llm_json_fail(json, err, "a backslash must be followed by one of \" \\ / b f n r t u");
	high = hex4(json, json->at + 2);
	if (high < 0)
		return llm_json_fail(json, err, "\\u must be followed by four hexadecimal digits");
	json->at += 6;
	if (high >= 0xd800 && high < 0xe000)
	{
		low = json->size - json->at >= 6 && json->data[json->at] == '\\' && json->data[json->at + 1] == 'u'
				  ? hex4(json, json->at + 2)
				  : -1;
		if (high >= 0xdc00 || low < 0xdc00 || low > 0xdfff)
			return llm_json_fail(json, err, "\\u%04x is half of a surrogate pair", high);
		json->at += 6;
		high = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
	}
	*length = llm_utf8_encode((uint32_t) high, out);
	return LLM_OK;
}

/* Makes room for size bytes of resolved text, which is never longer than its source. */
static LlmCode
reserve_scratch(LlmJson *json, size_t size, LlmError *err)
{
	if (size <= json->scratch_size)
		return LLM_OK;
	llm_json_close(json);
	json->scratch = json->allocator->alloc(json->allocator->context, size);
	json->scratch_size = json->scratch != NULL ? size : 0;
	if (json->scratch == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "%s: no memory for a string of %zu bytes", json->name, size);
	return LLM_OK;
}

/* The index of the closing quote of the string that starts at from. */
static LlmCode
find_quote(LlmJson *json, size_t from, size_t *end, bool *escaped, LlmError *err)
{
	*escaped = false;
	for (size_t at = from; at < json->size;)
	{
		unsigned char c = (unsigned char) json->data[at];
		size_t length;

		if (llm_json_stopped(json, at))
			return llm_json_fail(json, err, "canceled");
		if (c == '"')
		{
			*end = at;
			return LLM_OK;
		}
		if (c < 0x20 || (c == '\\' && at + 1 == json->size))
		{
			json->at = at;
			return llm_json_unexpected(json, "the rest of a string", err);
		}
		*escaped |= c == '\\';
		if (c < 0x80)
		{
			at += c == '\\' ? 2 : 1;
			continue;
		}
		length = llm_utf8_length(json->data + at, json->size - at);
		if (length == 0)
		{
			json->start = at;
			return llm_json_fail(json, err, "0x%02x does not begin a valid UTF-8 character", c);
		}
		at += length;
	}
	json->at = json->size;
	return llm_json_unexpected(json, "the end of a string", err);
}

LlmCode
llm_json_read_string(LlmJson *json, LlmError *err)
{
	size_t begin = ++json->at, end = 0;
	bool escaped;
	LlmCode code = find_quote(json, begin, &end, &escaped, err);

	if (code != LLM_OK)
		return code;
	json->text = json->data + begin;
	json->length = end - begin;
	if (escaped)
	{
		size_t token_start = json->start, length = 0;

		if ((code = reserve_scratch(json, end - begin, err)) != LLM_OK)
			return code;
		json->polled = begin; /* it is read again */
		while (json->at < end)
		{
			size_t added = 1;

			if (llm_json_stopped(json, json->at))
				return llm_json_fail(json, err, "canceled");
			if (json->data[json->at] != '\\')
				json->scratch[length] = json->data[json->at++];
			else if ((code = read_escape(json, json->scratch + length, &added, err)) != LLM_OK)
				return code;
			length += added;
		}
		json->start = token_start;
		json->text = json->scratch;
		json->length = length;
	}
	json->at = end + 1;
	return LLM_OK;
}
