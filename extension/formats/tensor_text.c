/*
 * Reading the text form of a tensor in two passes: the first finds the shape and refuses what is not one, the
 * second reads the numbers straight into the value that the caller has made from that shape.
 *
 * A tensor without elements whose shape brackets alone cannot tell, such as (0,3), is written tensor(0,3) [].
 */
#include "formats/tensor_text.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct Reader
{
	const char *text;
	const char *at;
	int depth;                   /* open brackets */
	int leaf;                    /* depth at which numbers stand; -1: none seen yet */
	int64_t count[LLM_MAX_DIMS]; /* values so far in the open bracket of each depth */
	int64_t dims[LLM_MAX_DIMS];  /* length of the brackets closed so far at each depth; -1: none */
} Reader;

static bool
is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static const char *
skip_space(const char *at)
{
	while (is_space(*at))
		at++;
	return at;
}

/* A number ends where its neighbours begin. */
static const char *
skip_word(const char *at)
{
	while (*at && !is_space(*at) && *at != ',' && *at != '[' && *at != ']' && *at != '(' && *at != ')')
		at++;
	return at;
}

/* How much of a text an error quotes: at most 60 bytes, and no half of a UTF-8 character. */
static int
quoted(const char *text)
{
	size_t n = strnlen(text, 60);

	while (n > 0 && ((unsigned char) text[n] & 0xc0) == 0x80)
		n--;
	return (int) n;
}

static LlmCode
bad_text(const Reader *r, LlmError *err, const char *what)
{
	llm_fail(err, LLM_FORMAT, "tensor: %s at byte %zu: \"%.*s\"", what, (size_t) (r->at - r->text) + 1,
		quoted(r->at), r->at);
	return llm_hint(err, "Write nested brackets of equal length, such as [[1,2],[3,4]], or one number.");
}

static LlmCode
ragged(const Reader *r, LlmError *err, int64_t here, int64_t before)
{
	llm_fail(err, LLM_FORMAT, "tensor: a bracket at depth %d has %lld values, the ones before it %lld",
		r->depth, (long long) here, (long long) before);
	return llm_hint(err, "All rows of a tensor are equally long.");
}

/* Values must all stand at the same depth: [1,[2]] has no shape. */
static LlmCode
set_leaf(Reader *r, int depth, LlmError *err)
{
	if (r->leaf >= 0 && r->leaf != depth)
		return bad_text(r, err, "numbers are nested to different depths");
	r->leaf = depth;
	return LLM_OK;
}

static LlmCode
open_bracket(Reader *r, LlmError *err)
{
	if (r->depth == LLM_MAX_DIMS)
		return llm_fail(err, LLM_LIMIT, "tensor: nested more than %d deep at byte %zu", LLM_MAX_DIMS,
			(size_t) (r->at - r->text) + 1);
	if (r->leaf >= 0 && r->depth >= r->leaf)
		return bad_text(r, err, "numbers are nested to different depths");
	r->count[r->depth++] = 0;
	r->at = skip_space(r->at + 1);
	return LLM_OK;
}

static LlmCode
close_bracket(Reader *r, LlmError *err)
{
	int64_t n = r->count[r->depth - 1];
	int64_t before = r->dims[r->depth - 1];

	if (n == 0 && set_leaf(r, r->depth, err) != LLM_OK)
		return err->code;
	if (before >= 0 && before != n)
		return ragged(r, err, n, before);
	r->dims[r->depth - 1] = n;
	r->depth--;
	r->at = skip_space(r->at + 1);
	return LLM_OK;
}

static LlmCode
read_value(Reader *r, LlmError *err)
{
	const char *end = skip_word(r->at);

	if (end == r->at)
		return bad_text(r, err, *r->at ? "a number was expected" : "the text ends too early");
	if (set_leaf(r, r->depth, err) != LLM_OK)
		return err->code;
	r->at = skip_space(end);
	return LLM_OK;
}

/* After a value: close brackets as long as they end here, then a comma before the next value. */
static LlmCode
read_ends(Reader *r, LlmError *err)
{
	while (r->depth > 0)
	{
		if (++r->count[r->depth - 1] > INT_MAX)
			return llm_fail(err, LLM_LIMIT, "tensor: a dimension is longer than %d", INT_MAX);
		if (*r->at == ',')
		{
			r->at = skip_space(r->at + 1);
			return LLM_OK;
		}
		if (*r->at != ']')
			return bad_text(r, err, *r->at ? "a comma or ] was expected" : "the text ends too early");
		if (close_bracket(r, err) != LLM_OK)
			return err->code;
	}
	if (*r->at)
		return bad_text(r, err, "nothing may follow the tensor");
	return LLM_OK;
}

/* tensor(0,3) []: the shape said outright, allowed where there are no elements that could contradict it. */
static LlmCode
read_empty(Reader *r, int *ndim, int *dims, LlmError *err)
{
	bool empty = false;

	*ndim = 0;
	r->at = skip_space(r->at + strlen("tensor"));
	do
	{
		char *end;
		long dim;

		if (*r->at != (*ndim ? ',' : '('))
			return bad_text(r, err, "a shape such as (0,3) was expected");
		r->at = skip_space(r->at + 1);
		errno = 0;
		dim = strtol(r->at, &end, 10);
		if (*r->at < '0' || *r->at > '9' || errno || dim > INT_MAX)
			return bad_text(r, err, "a dimension was expected");
		if (*ndim == LLM_MAX_DIMS)
			return llm_fail(err, LLM_LIMIT, "a tensor has at most %d dimensions", LLM_MAX_DIMS);
		dims[(*ndim)++] = (int) dim;
		empty |= dim == 0;
		r->at = skip_space(end);
	} while (*r->at != ')');
	r->at = skip_space(r->at + 1);
	if (!empty)
	{
		llm_fail(err, LLM_FORMAT, "tensor: this is a summary, which does not hold the elements: \"%.60s\"",
			r->text);
		return llm_hint(err, "SET pg_llm.display_limit = 0 makes the output complete.");
	}
	if (*r->at != '[' || *(r->at = skip_space(r->at + 1)) != ']' || *(r->at = skip_space(r->at + 1)))
		return bad_text(r, err, "[] was expected after the shape of a tensor without elements");
	return LLM_OK;
}

LlmCode
llm_tensor_text_shape(const char *text, int *ndim, int *dims, LlmError *err)
{
	Reader r = {text, skip_space(text), 0, -1, {0}, {-1, -1, -1, -1, -1, -1, -1, -1}};

	if (strncasecmp(r.at, "tensor", 6) == 0)
		return read_empty(&r, ndim, dims, err);
	do
	{
		if (*r.at == '[')
		{
			if (open_bracket(&r, err) != LLM_OK)
				return err->code;
			if (*r.at != ']')
				continue;
			if (close_bracket(&r, err) != LLM_OK)
				return err->code;
		}
		else if (read_value(&r, err) != LLM_OK)
			return err->code;
		if (read_ends(&r, err) != LLM_OK)
			return err->code;
	} while (*r.at || r.depth > 0);

	*ndim = r.leaf;
	for (int i = 0; i < r.leaf; i++)
		dims[i] = (int) r.dims[i];
	return LLM_OK;
}

/* strtof alone would also take hexadecimal and nan(…). A digit that comes out infinite was out of range. */
static LlmCode
read_number(const char *word, const char *end, float *value)
{
	const char *digits = word + (*word == '+' || *word == '-');
	size_t n = (size_t) (end - digits);
	char *stop;

	if (*digits == '.' || (*digits >= '0' && *digits <= '9'))
	{
		*value = strtof(word, &stop);
		if (stop != end || (n > 1 && (digits[1] == 'x' || digits[1] == 'X')))
			return LLM_FORMAT;
		return isinf(*value) ? LLM_RANGE : LLM_OK;
	}
	if ((n == 3 && strncasecmp(digits, "inf", n) == 0) || (n == 8 && strncasecmp(digits, "infinity", n) == 0))
		*value = *word == '-' ? -INFINITY : INFINITY;
	else if (n == 3 && digits == word && strncasecmp(word, "nan", n) == 0)
		*value = NAN;
	else
		return LLM_FORMAT;
	return LLM_OK;
}

LlmCode
llm_tensor_text_values(const char *text, const char **cursor, size_t n, float *out, LlmError *err)
{
	Reader r = {.text = text, .at = *cursor};

	for (size_t i = 0; i < n; i++)
	{
		const char *end;

		while (is_space(*r.at) || *r.at == '[' || *r.at == ']' || *r.at == ',')
			r.at++;
		end = skip_word(r.at);
		switch (read_number(r.at, end, &out[i]))
		{
			case LLM_OK:
				break;
			case LLM_RANGE:
				return llm_fail(err, LLM_RANGE, "tensor: %.*s is out of range for float32",
					(int) (end - r.at < 60 ? end - r.at : 60), r.at);
			default:
				return bad_text(&r, err, "a number was expected");
		}
		r.at = end;
	}
	*cursor = r.at;
	return LLM_OK;
}
