/* The JSON parser: tokens, exact integers, escapes, every kind of mistake, truncation and flipped bits. */
#include "test.h"

#include "formats/json.h"
#include "formats/utf8.h"

static TestMemory memory;
static LlmAllocator allocator;

/* The tokens of a text as one line, so that a case is one comparison; on error its message. */
static const char *
tokens(const char *text, size_t size)
{
	static char out[4096];
	char *exact = malloc(size > 0 ? size : 1); /* so that the sanitizer detects a read past the end */
	LlmJson json;
	LlmError err = {0};
	size_t used = 0;

	memcpy(exact, text, size);
	out[0] = '\0';
	llm_json_open(&json, "t", exact, size, &allocator);
	for (;;)
	{
		if (llm_json_next(&json, &err) != LLM_OK)
		{
			snprintf(out, sizeof(out), "%s", err.message);
			break;
		}
		switch (json.token)
		{
			case LLM_JSON_KEY:
			case LLM_JSON_STRING:
				used += snprintf(out + used, sizeof(out) - used, "%c%.*s ",
					json.token == LLM_JSON_KEY ? 'k' : 's', (int) json.length, json.text);
				break;
			case LLM_JSON_INTEGER:
				used += snprintf(out + used, sizeof(out) - used, "i%lld ", (long long) json.integer);
				break;
			case LLM_JSON_NUMBER:
				used += snprintf(out + used, sizeof(out) - used, "n%.17g ", json.number);
				break;
			default:
				used += snprintf(out + used, sizeof(out) - used, "%c ", "E{}[]ksintf0"[json.token]);
		}
		if (used > sizeof(out) - 600)
			used = sizeof(out) - 600;
		if (json.token == LLM_JSON_END)
			break;
	}
	llm_json_close(&json);
	free(exact);
	CHECK(memory.held == 0);
	return out;
}

static void
check(const char *text, const char *expected)
{
	const char *got = tokens(text, strlen(text));

	if (strcmp(got, expected) != 0)
	{
		fprintf(stderr, "FAIL %s\n     gave %s\n expected %s\n", text, got, expected);
		exit(1);
	}
}

static void
test_values(void)
{
	check("{\"a\": [1, 2.5], \"b\":{}}", "{ ka [ i1 n2.5 ] kb { } } E ");
	check(" [ ] ", "[ ] E ");
	check("\xef\xbb\xbf[true,false,null]", "[ t f 0 ] E ");
	check("9223372036854775807", "i9223372036854775807 E ");
	check("-9223372036854775808", "i-9223372036854775808 E ");
	check("9223372036854775808", "n9.2233720368547758e+18 E ");
	check("9007199254740993", "i9007199254740993 E ");
	check("[0,-0,1e-05,1E+2,-1.25e1]", "[ i0 i0 n1.0000000000000001e-05 n100 n-12.5 ] E ");
	check("\"\\u0120Hello\\n\\\"\\\\\\/\\b\\f\\r\\t\"", "s\xc4\xa0Hello\n\"\\/\b\f\r\t E ");
	check("\"\\ud83d\\ude00\\u00e9\\u20ac\"", "s\xf0\x9f\x98\x80\xc3\xa9\xe2\x82\xac E ");
	check("\"\xf0\x9f\x98\x80\"", "s\xf0\x9f\x98\x80 E ");
}

static void
test_mistakes(void)
{
	check("", "t: byte 0: expected a value, found the end of the text");
	check("[1,]", "t: byte 3: expected a value, found ']'");
	check("{\"a\":1,}", "t: byte 7: expected a key, found '}'");
	check("{a:1}", "t: byte 1: expected a key or '}', found 'a'");
	check("{\"a\" 1}", "t: byte 5: expected ':' after a key, found '1'");
	check("[1 2]", "t: byte 3: expected ',' or ']', found '2'");
	check("[1}", "t: byte 2: expected ',' or ']', found '}'");
	check("{} x", "t: byte 3: expected nothing after the value, found 'x'");
	check("01", "t: byte 1: expected no digit after a leading zero, found '1'");
	check("-", "t: byte 1: expected a digit, found the end of the text");
	check("1.", "t: byte 2: expected a digit, found the end of the text");
	check("1e+", "t: byte 3: expected a digit, found the end of the text");
	check("NaN", "t: byte 0: expected a value, found 'N'");
	check("nul", "t: byte 0: expected a value, found 'n'");
	check("\"a\nb\"", "t: byte 2: expected the rest of a string, found byte 0x0a");
	check("\"a", "t: byte 2: expected the end of a string, found the end of the text");
	check("\"\\x\"", "t: byte 1: a backslash must be followed by one of \" \\ / b f n r t u");
	check("\"\\u12g4\"", "t: byte 1: \\u must be followed by four hexadecimal digits");
	check("\"\\ud83d\"", "t: byte 1: \\ud83d is half of a surrogate pair");
	check("\"\\ude00\"", "t: byte 1: \\ude00 is half of a surrogate pair");
	check("\"\\ud83d\\u0041\"", "t: byte 1: \\ud83d is half of a surrogate pair");
	check("\"\xc0\x80\"", "t: byte 1: 0xc0 does not begin a valid UTF-8 character");
	check("\"\xed\xa0\x80\"", "t: byte 1: 0xed does not begin a valid UTF-8 character");
	check("\"\xe2\x82\"", "t: byte 1: 0xe2 does not begin a valid UTF-8 character");
	check("\"\xf4\x90\x80\x80\"", "t: byte 1: 0xf4 does not begin a valid UTF-8 character");
}

static void
test_limits(void)
{
	char deep[LLM_JSON_DEPTH + 2];
	LlmJson json;
	LlmError err;

	memset(deep, '[', sizeof(deep));
	CHECK(strstr(tokens(deep, LLM_JSON_DEPTH), "the end of the text") != NULL);
	CHECK(strcmp(tokens(deep, LLM_JSON_DEPTH + 1), "t: byte 64: nested more than 64 levels deep") == 0);

	memory.fail_after = 0;
	llm_json_open(&json, "t", "\"\\n\"", 4, &allocator);
	CHECK_FAILS(llm_json_next(&json, &err), LLM_NO_MEMORY, "no memory for a string", err);
	llm_json_close(&json);
	memory.fail_after = -1;
}

static void
test_skip(void)
{
	const char *text = "{\"a\": {\"b\": [1, {}]}, \"c\": 2}";
	LlmJson json;
	LlmError err = {0};

	llm_json_open(&json, "t", text, strlen(text), &allocator);
	CHECK_OK(llm_json_expect(&json, LLM_JSON_OBJECT, &err), err);
	CHECK_OK(llm_json_expect(&json, LLM_JSON_KEY, &err), err);
	CHECK_OK(llm_json_skip(&json, &err), err);
	CHECK_OK(llm_json_expect(&json, LLM_JSON_KEY, &err), err);
	CHECK(json.length == 1 && json.text[0] == 'c');
	CHECK_FAILS(llm_json_expect(&json, LLM_JSON_STRING, &err), LLM_FORMAT,
		"expected a string, found an integer", err);
	llm_json_close(&json);
}

/*
 * Every code point survives encoding, the length function and the parser; every other first byte is refused.
 */
static void
test_utf8(void)
{
	for (uint32_t c = 0; c < 0x110000; c++)
	{
		char text[4];
		size_t length = llm_utf8_encode(c, text);
		bool surrogate = c >= 0xd800 && c < 0xe000;

		CHECK(llm_utf8_length(text, length) == (surrogate ? 0 : length));
		CHECK(length == 1 || llm_utf8_length(text, length - 1) == 0);
	}
}

/* For any input the parser neither reads past its buffer, leaks nor loops: the sanitizers check. */
static void
test_damage(void)
{
	const char *text =
		"{\"\\u0120a\\ud83d\\ude00\": [1.5e3, -12, \"\xe2\x82\xac\", true, {\"x\": null}], \"b\": \"\"}";
	size_t size = strlen(text);
	char copy[128];

	for (size_t i = 0; i < size; i++)
		CHECK(strstr(tokens(text, i), "t: byte") == tokens(text, i));
	for (size_t i = 0; i < size * 8; i++)
	{
		memcpy(copy, text, size);
		copy[i / 8] ^= (char) (1 << (i & 7));
		tokens(copy, size);
	}
}

int
main(void)
{
	allocator = test_allocator(&memory);
	test_values();
	test_mistakes();
	test_limits();
	test_skip();
	test_utf8();
	test_damage();
	return 0;
}
