#include "formats/unicode.h"

#include <string.h>

#include "formats/unicode_table.h"

int
llm_unicode_class(uint32_t c)
{
	if (c >= LLM_UNICODE_END)
		return LLM_CHAR_OTHER;
	return llm_unicode_words[llm_unicode_index[c >> 8] * 8 + (c >> 5 & 7)] >> (2 * (c & 31)) & 3;
}

LlmChar
llm_utf8_read(const unsigned char *t, size_t size)
{
	unsigned char first = t[0], low = 0x80, high = 0xbf; /* the range of the second byte */
	uint32_t c;
	int length;

	if (first < 0x80)
		return (LlmChar){first, 1, true, false};
	if (first < 0xc2 || first > 0xf4)
		return (LlmChar){0, 1, false, false};
	length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
	c = first & (0x7f >> length);
	if (first == 0xe0)
		low = 0xa0; /* below: overlong */
	else if (first == 0xed)
		high = 0x9f; /* above: surrogates */
	else if (first == 0xf0)
		low = 0x90; /* below: overlong */
	else if (first == 0xf4)
		high = 0x8f; /* above: past U+10FFFF */
	for (int i = 1; i < length; i++, low = 0x80, high = 0xbf)
	{
		if ((size_t) i == size)
			return (LlmChar){0, i, false, true};
		if (t[i] < low || t[i] > high)
			return (LlmChar){0, i, false, false};
		c = c << 6 | (t[i] & 0x3f);
	}
	return (LlmChar){c, length, true, false};
}

/* The number of leading ASCII bytes other than NUL, checked eight at a time. */
static size_t
plain_run(const unsigned char *bytes, size_t size)
{
	const uint64_t ones = UINT64_C(0x0101010101010101), high = ones << 7;
	size_t at = 0;

	for (uint64_t word; size - at >= 8; at += 8)
	{
		memcpy(&word, bytes + at, 8);
		if (((word | (word - ones)) & high) != 0) /* a byte above 127, or a borrow out of a zero byte */
			break;
	}
	return at;
}

bool
llm_utf8_is_text(const unsigned char *bytes, size_t size)
{
	for (size_t at = 0; at < size;)
	{
		LlmChar c;

		at += plain_run(bytes + at, size - at);
		if (at == size)
			break;
		c = llm_utf8_read(bytes + at, size - at);
		if (!c.valid || c.code_point == 0)
			return false;
		at += c.length;
	}
	return true;
}

size_t
llm_utf8_repair(const unsigned char *bytes, size_t size, char *out)
{
	size_t length = 0;

	for (size_t at = 0; at < size;)
	{
		size_t run = plain_run(bytes + at, size - at);
		LlmChar c;
		bool keep;

		if (out != NULL)
			memcpy(out + length, bytes + at, run);
		length += run;
		at += run;
		if (at == size)
			break;
		c = llm_utf8_read(bytes + at, size - at);
		keep = c.valid && c.code_point != 0;
		if (out != NULL)
			memcpy(out + length, keep ? (const char *) bytes + at : "\xef\xbf\xbd", keep ? c.length : 3);
		length += keep ? c.length : 3;
		at += c.length;
	}
	return length;
}

size_t
llm_utf8_unfinished(const unsigned char *bytes, size_t size)
{
	/* The last byte that is not a continuation starts the only character that can be incomplete. */
	for (size_t back = 1; back <= 3 && back <= size; back++)
		if ((bytes[size - back] & 0xc0) != 0x80)
		{
			LlmChar c = llm_utf8_read(bytes + size - back, back);

			return c.partial && (size_t) c.length == back ? back : 0;
		}
	return 0;
}

size_t
llm_utf8_count(const unsigned char *bytes, size_t size)
{
	size_t count = 0;

	for (size_t at = 0; at < size; count++)
		at += llm_utf8_read(bytes + at, size - at).length;
	return count;
}
