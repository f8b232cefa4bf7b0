/*
 * The patterns that cut text into the pieces that merges never cross. GPT-2's:
 *
 *   '(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * The last two alternatives: the last of several spaces belongs to the piece that follows, unless the text
 * ends there. In gpt2_digit and gpt2_digits each digit, or each run of digits, is a text of its own, and so
 * are the characters between them. cl100k, the pattern of GPT-4 and Llama 3:
 *
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
 *   \s*[\r\n]+|\s+(?!\S)|\s+
 *
 * qwen2 is the same with \p{N} in place of \p{N}{1,3}.
 */
#include "formats/bpe_internal.h"
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

/* ---- other tokenizers' patterns ---- */

typedef struct Pattern
{
	const char *name;
	bool cl100k; /* otherwise GPT-2's */
	int digits;  /* the most in a piece; 0 is no limit, -1 is GPT-2's pattern as it is */
} Pattern;

static const Pattern patterns[] = {{"gpt2", false, -1}, {"gpt2_digit", false, 1}, {"gpt2_digits", false, 0},
	{"cl100k", true, 3}, {"qwen2", true, 1}};

bool
llm_bpe_find_pattern(const char *name, int *pattern)
{
	for (int i = 0; i < (int) (sizeof(patterns) / sizeof(patterns[0])); i++)
		if (strcmp(patterns[i].name, name) == 0)
		{
			*pattern = i;
			return true;
		}
	return false;
}

const char *
llm_bpe_pattern_name(int pattern)
{
	return patterns[pattern].name;
}

static size_t
digits_end(const unsigned char *text, size_t size, size_t at, int most, const LlmStop *stop)
{
	size_t length, last;

	if (most == 0)
		return run_end(text, size, at, LLM_CHAR_NUMBER, &last, stop);
	for (int i = 0; i < most && at < size && class_at(text, size, at, &length) == LLM_CHAR_NUMBER; i++)
		at += length;
	return at;
}

/* To GPT-2's pattern a text ends where digits begin. */
static size_t
digits_apart_end(const unsigned char *text, size_t size, size_t at, int digits, const LlmStop *stop)
{
	size_t length, last, end;
	int class = class_at(text, size, at, &length);

	if (class == LLM_CHAR_NUMBER)
		return digits_end(text, size, at, digits, stop);
	if (class == LLM_CHAR_SPACE)
	{
		end = run_end(text, size, at, class, &last, stop);
		if (end == SIZE_MAX || (end < size && class_at(text, size, end, &length) == LLM_CHAR_NUMBER))
			return end;
	}
	return llm_bpe_piece_end((const char *) text, size, at, stop);
}

static inline bool
is_newline(unsigned char c)
{
	return c == '\r' || c == '\n';
}

/* The length of the contraction at the apostrophe in small or capital letters, or 0. To Unicode, U+017F is a
 * small s. */
static size_t
any_contraction(const unsigned char *text, size_t size, size_t at)
{
	unsigned char lower[3] = {'\''};

	for (size_t i = 1; i < 3 && at + i < size; i++)
		lower[i] = text[at + i] >= 'A' && text[at + i] <= 'Z' ? text[at + i] | 0x20 : text[at + i];
	if (lower[1] == 0xc5 && lower[2] == 0xbf)
		return 3;
	return contraction(lower, at + 3 <= size ? 3 : size - at, 0);
}

/* Spaces: up to the last newline among them, if there is one; else as in GPT-2's pattern. */
static size_t
spaces_end(const unsigned char *text, size_t size, size_t at, const LlmStop *stop)
{
	size_t last = at, end = run_end(text, size, at, LLM_CHAR_SPACE, &last, stop);

	if (end == SIZE_MAX)
		return end;
	for (size_t newline = end; newline > at; newline--)
		if (is_newline(text[newline - 1]))
			return newline;
	return end < size && last > at ? last : end;
}

static size_t
cl100k_end(const unsigned char *text, size_t size, size_t at, int digits, const LlmStop *stop)
{
	size_t length, next_length, last, end;
	int class = class_at(text, size, at, &length), next;

	if (text[at] == '\'' && (end = any_contraction(text, size, at)) != 0)
		return at + end;
	if (class == LLM_CHAR_LETTER)
		return run_end(text, size, at, class, &last, stop);
	if (class == LLM_CHAR_NUMBER)
		return digits_end(text, size, at, digits, stop);
	next = at + length < size ? class_at(text, size, at + length, &next_length) : LLM_CHAR_SPACE;
	if (next == LLM_CHAR_LETTER && !is_newline(text[at]))
		return run_end(text, size, at + length, next, &last, stop);
	if (class == LLM_CHAR_SPACE && !(text[at] == ' ' && next == LLM_CHAR_OTHER))
		return spaces_end(text, size, at, stop);
	end = run_end(text, size, class == LLM_CHAR_SPACE ? at + 1 : at, LLM_CHAR_OTHER, &last, stop);
	while (end < size && is_newline(text[end]))
		end++;
	return end;
}

size_t
llm_bpe_own_piece_end(const LlmBpe *bpe, const char *chars, size_t size, size_t at, const LlmStop *stop)
{
	const unsigned char *text = (const unsigned char *) chars;
	const Pattern *pattern = &patterns[bpe->pattern];

	if (pattern->cl100k)
		return cl100k_end(text, size, at, pattern->digits, stop);
	if (pattern->digits >= 0)
		return digits_apart_end(text, size, at, pattern->digits, stop);
	return llm_bpe_piece_end(chars, size, at, stop);
}
