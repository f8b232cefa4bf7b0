/*
 * GPT-2's pattern, which cuts text into the pieces that merges never cross:
 *
 *   '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * The last two alternatives: the last of several spaces belongs to the piece that follows, unless the text
 * ends there.
 */
#include "formats/bpe.h"
#include "formats/unicode.h"

/* Bytes scanned between two polls: well below a millisecond. */
#define STRIDE ((size_t) 1 << 18)

#define O LLM_CHAR_OTHER
#define L LLM_CHAR_LETTER
#define N LLM_CHAR_NUMBER
#define S LLM_CHAR_SPACE
static const unsigned char ascii_class[128] = {
	O, O, O, O, O, O, O, O, O, S, S, S, S, S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
	O, /* \t to \r */
	S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, N, N, N, N, N, N, N, N, N, N, O, O, O, O, O,
	O, /* ' ' 0-9 */
	O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O, /* A-Z */
	O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O, /* a-z */
};
#undef O
#undef L
#undef N
#undef S

static inline int
class_at(const unsigned char *text, size_t size, size_t at, size_t *length)
{
	LlmChar c;

	*length = 1;
	if (text[at] < 0x80)
		return ascii_class[text[at]];
	c = llm_utf8_read(text + at, size - at);
	*length = (size_t) c.length;
	return c.valid ? llm_unicode_class(c.code_point) : LLM_CHAR_OTHER;
}

/* The end of the characters of one class from at on; *last is the start of the last of them. */
static inline size_t
run_end(const unsigned char *text, size_t size, size_t at, int class, size_t *last, const LlmStop *stop)
{
	for (size_t length, poll = at + STRIDE; at < size; at += length)
	{
		if (class_at(text, size, at, &length) != class)
			break;
		*last = at;
		if (at >= poll)
		{
			if (stop != NULL && stop->requested(stop->context))
				return SIZE_MAX;
			poll = at + STRIDE;
		}
	}
	return at;
}

/* The length of the contraction ('s 't 'd 'm 'll 've 're) that starts at the apostrophe, or 0. */
static inline size_t
contraction(const unsigned char *text, size_t size, size_t at)
{
	unsigned char a = at + 1 < size ? text[at + 1] : 0, b = at + 2 < size ? text[at + 2] : 0;

	if (a == 's' || a == 't' || a == 'd' || a == 'm')
		return 2;
	return (a == 'l' && b == 'l') || (b == 'e' && (a == 'v' || a == 'r')) ? 3 : 0;
}

size_t
llm_bpe_piece_end(const char *chars, size_t size, size_t at, const LlmStop *stop)
{
	const unsigned char *text = (const unsigned char *) chars;
	size_t length, last = at, end;
	int class;

	if (text[at] == '\'' && (length = contraction(text, size, at)) != 0)
		return at + length;
	class = class_at(text, size, at, &length);
	if (text[at] == ' ' && at + 1 < size)
	{
		int next = class_at(text, size, at + 1, &length);

		if (next != LLM_CHAR_SPACE)
			return run_end(text, size, at + 1, next, &last, stop);
	}
	end = run_end(text, size, at, class, &last, stop);
	if (class == LLM_CHAR_SPACE && end < size && last > at)
		return last;
	return end;
}
