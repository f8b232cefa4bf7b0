/*
 * The JSON pull parser.
 */
#include "formats/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/json_internal.h"

/* What may come next. */
enum
{
	EXPECT_VALUE,
	EXPECT_VALUE_OR_END, /* after '[' */
	EXPECT_KEY_OR_END,   /* after '{' */
	EXPECT_KEY,          /* after ',' in an object */
	EXPECT_COMMA_OR_END, /* after a value */
	EXPECT_NOTHING
};

/* No printed double is longer, and strtod needs a bounded copy. */
#define MAX_NUMBER 512
/* Bytes read between two polls: well below a millisecond. */
#define STRIDE 65536

void
llm_json_open(LlmJson *json, const char *name, const void *data, size_t size, const LlmAllocator *allocator)
{
	memset(json, 0, sizeof(*json));
	json->name = name;
	json->data = data;
	json->size = size;
	json->allocator = allocator;
	json->expect = EXPECT_VALUE;
	if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) /* a byte order mark, as some editors write */
		json->at = 3;
}

void
llm_json_close(LlmJson *json)
{
	if (json->scratch != NULL)
		json->allocator->release(json->allocator->context, json->scratch, json->scratch_size);
	json->scratch = NULL;
}

const char *
llm_json_token_name(LlmJsonToken token)
{
	static const char *const names[] = {"the end", "an object", "the end of an object", "an array",
		"the end of an array", "a key", "a string", "an integer", "a number", "true", "false", "null"};

	return names[token];
}

bool
llm_json_stopped(LlmJson *json, size_t at)
{
	if (at - json->polled < STRIDE || json->stopped)
		return json->stopped;
	json->polled = at;
	return json->stopped = json->stop != NULL && json->stop->requested(json->stop->context);
}

LlmCode
llm_json_fail(LlmJson *json, LlmError *err, const char *format, ...)
{
	char text[400];
	va_list args;

	if (json->stopped) /* a token that was cut short is not in the text */
		return llm_fail(err, LLM_CANCELED, "%s: canceled at byte %zu", json->name, json->at);
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return llm_fail(err, LLM_FORMAT, "%s: byte %zu: %s", json->name, json->start, text);
}

LlmCode
llm_json_unexpected(LlmJson *json, const char *expected, LlmError *err)
{
	unsigned char c;

	json->start = json->at;
	if (json->at >= json->size)
		return llm_json_fail(json, err, "expected %s, found the end of the text", expected);
	c = (unsigned char) json->data[json->at];
	if (c >= 0x20 && c < 0x7f)
		return llm_json_fail(json, err, "expected %s, found '%c'", expected, c);
	return llm_json_fail(json, err, "expected %s, found byte 0x%02x", expected, c);
}

static LlmCode
open_level(LlmJson *json, bool object, LlmError *err)
{
	if (json->depth == LLM_JSON_DEPTH)
		return llm_fail(err, LLM_LIMIT, "%s: byte %zu: nested more than %d levels deep", json->name,
			json->start, LLM_JSON_DEPTH);
	json->objects &= ~(UINT64_C(1) << json->depth);
	json->objects |= (uint64_t) object << json->depth;
	json->depth++;
	json->token = object ? LLM_JSON_OBJECT : LLM_JSON_ARRAY;
	json->expect = object ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
	json->at++;
	return LLM_OK;
}

static bool
in_object(const LlmJson *json)
{
	return json->depth > 0 && (json->objects >> (json->depth - 1) & 1) != 0;
}

static LlmCode
close_level(LlmJson *json)
{
	json->token = in_object(json) ? LLM_JSON_OBJECT_END : LLM_JSON_ARRAY_END;
	json->depth--;
	json->expect = json->depth > 0 ? EXPECT_COMMA_OR_END : EXPECT_NOTHING;
	json->at++;
	return LLM_OK;
}

static size_t
count_digits(const LlmJson *json, size_t at)
{
	size_t count = 0;

	while (at + count < json->size && json->data[at + count] >= '0' && json->data[at + count] <= '9')
		count++;
	return count;
}

static bool
is_at(const LlmJson *json, size_t at, const char *characters)
{
	return at < json->size && json->data[at] != '\0' && strchr(characters, json->data[at]) != NULL;
}

/* Exact if it fits into int64_t; false otherwise. */
static bool
parse_integer(const char *digits, size_t count, bool negative, int64_t *value)
{
	int64_t sum = 0;

	for (size_t i = 0; i < count; i++)
	{
		int digit = digits[i] - '0';

		if (__builtin_mul_overflow(sum, 10, &sum) ||
			__builtin_add_overflow(sum, negative ? -digit : digit, &sum))
			return false;
	}
	*value = sum;
	return true;
}

static LlmCode
read_number(LlmJson *json, LlmError *err)
{
	char copy[MAX_NUMBER + 1];
	bool negative = json->data[json->at] == '-', whole = true;
	size_t first = json->at + negative, count = count_digits(json, first), end = first + count;

	if (count == 0 || (count > 1 && json->data[first] == '0'))
	{
		json->at = count == 0 ? first : first + 1;
		return llm_json_unexpected(json, count == 0 ? "a digit" : "no digit after a leading zero", err);
	}
	if (is_at(json, end, "."))
	{
		whole = false;
		json->at = end + 1;
		if ((count = count_digits(json, end + 1)) == 0)
			return llm_json_unexpected(json, "a digit", err);
		end += 1 + count;
	}
	if (is_at(json, end, "eE"))
	{
		whole = false;
		end += is_at(json, end + 1, "+-") ? 2 : 1;
		json->at = end;
		if ((count = count_digits(json, end)) == 0)
			return llm_json_unexpected(json, "a digit", err);
		end += count;
	}
	if (end - json->start > MAX_NUMBER)
		return llm_json_fail(json, err, "a number of %zu characters", end - json->start);
	memcpy(copy, json->data + json->start, end - json->start);
	copy[end - json->start] = '\0';
	json->number = strtod(copy, NULL);
	json->token = whole && parse_integer(json->data + first, end - first, negative, &json->integer)
					  ? LLM_JSON_INTEGER
					  : LLM_JSON_NUMBER;
	json->at = end;
	return LLM_OK;
}

static LlmCode
read_word(LlmJson *json, const char *word, LlmJsonToken token, LlmError *err)
{
	size_t length = strlen(word);

	if (json->size - json->at < length || memcmp(json->data + json->at, word, length) != 0)
		return llm_json_unexpected(json, "a value", err);
	json->token = token;
	json->at += length;
	return LLM_OK;
}

static LlmCode
read_value(LlmJson *json, LlmError *err)
{
	char c = json->at < json->size ? json->data[json->at] : '\0';

	if (c == '{' || c == '[')
		return open_level(json, c == '{', err);
	json->expect = json->depth > 0 ? EXPECT_COMMA_OR_END : EXPECT_NOTHING;
	json->token = LLM_JSON_STRING;
	switch (c)
	{
		case '"':
			return llm_json_read_string(json, err);
		case 't':
			return read_word(json, "true", LLM_JSON_TRUE, err);
		case 'f':
			return read_word(json, "false", LLM_JSON_FALSE, err);
		case 'n':
			return read_word(json, "null", LLM_JSON_NULL, err);
		default:
			if (c == '-' || (c >= '0' && c <= '9'))
				return read_number(json, err);
			return llm_json_unexpected(json, "a value", err);
	}
}

static void
skip_space(LlmJson *json)
{
	while (is_at(json, json->at, " \t\r\n") && !llm_json_stopped(json, json->at))
		json->at++;
	json->start = json->at;
}

static LlmCode
read_key(LlmJson *json, const char *expected, LlmError *err)
{
	LlmCode code;
	size_t start = json->start;

	if (!is_at(json, json->at, "\""))
		return llm_json_unexpected(json, expected, err);
	if ((code = llm_json_read_string(json, err)) != LLM_OK)
		return code;
	skip_space(json);
	if (!is_at(json, json->at, ":"))
		return llm_json_unexpected(json, "':' after a key", err);
	json->at++;
	json->start = start;
	json->token = LLM_JSON_KEY;
	json->expect = EXPECT_VALUE;
	return LLM_OK;
}

LlmCode
llm_json_next(LlmJson *json, LlmError *err)
{
	bool object = in_object(json);

	skip_space(json);
	if (llm_json_stopped(json, json->at))
		return llm_json_fail(json, err, "canceled");
	if (json->expect == EXPECT_NOTHING)
	{
		json->token = LLM_JSON_END;
		return json->at == json->size ? LLM_OK : llm_json_unexpected(json, "nothing after the value", err);
	}
	if (json->expect == EXPECT_COMMA_OR_END)
	{
		if (is_at(json, json->at, object ? "}" : "]"))
			return close_level(json);
		if (!is_at(json, json->at, ","))
			return llm_json_unexpected(json, object ? "',' or '}'" : "',' or ']'", err);
		json->at++;
		skip_space(json);
		json->expect = object ? EXPECT_KEY : EXPECT_VALUE;
	}
	else if (json->expect == EXPECT_KEY_OR_END && is_at(json, json->at, "}"))
		return close_level(json);
	else if (json->expect == EXPECT_VALUE_OR_END && is_at(json, json->at, "]"))
		return close_level(json);

	if (json->expect == EXPECT_KEY || json->expect == EXPECT_KEY_OR_END)
		return read_key(json, json->expect == EXPECT_KEY ? "a key" : "a key or '}'", err);
	return read_value(json, err);
}

LlmCode
llm_json_expect(LlmJson *json, LlmJsonToken token, LlmError *err)
{
	LlmCode code = llm_json_next(json, err);

	if (code == LLM_OK && json->token != token)
		return llm_json_fail(
			json, err, "expected %s, found %s", llm_json_token_name(token), llm_json_token_name(json->token));
	return code;
}

LlmCode
llm_json_skip(LlmJson *json, LlmError *err)
{
	int depth = json->depth;
	LlmCode code;

	do
	{
		if ((code = llm_json_next(json, err)) != LLM_OK)
			return code;
	} while (json->depth > depth);
	return LLM_OK;
}
