/*
 * Reads the text form of a tensor in two passes: the first finds the shape and rejects malformed text, the
 * second reads the numbers directly into the value that the caller has created with that shape.
 *
 * A tensor without elements whose shape cannot be read from brackets alone, such as (0,3), is written
 * tensor(0,3) [].
 */
#include "formats/tensor_text.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Bytes read between two polls: well below a millisecond. */
#define STRIDE 65536

typedef struct Reader
{
	const char *text;
	const char *at;
	const LlmStop *stop;
	const char *poll; /* poll when `at` reaches this */
	bool stopped;
	int depth;                   /* open brackets */
	int leaf;                    /* depth at which the numbers are; -1: none seen yet */
	int64_t count[LLM_MAX_DIMS]; /* values so far in the open bracket of each depth */
	int64_t dims[LLM_MAX_DIMS];  /* length of the brackets closed so far at each depth; -1: none */
} Reader;

static bool
is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static Reader
reader_of(const char *text, const LlmStop *stop)
{
	return (Reader){.text = text,
		.at = text,
		.stop = stop,
		.poll = text + STRIDE,
		.leaf = -1,
		.dims = {-1, -1, -1, -1, -1, -1, -1, -1}};
}

static inline bool
stopped(Reader *r)
{
	if (r->at < r->poll || r->stopped)
		return r->stopped;
	r->poll = r->at + STRIDE;
	return r->stopped = r->stop != NULL && r->stop->requested(r->stop->context);
}

/* Moves to the next byte that is no space; less far if a stop was requested. */
static void
skip_space(Reader *r)
{
	while (is_space(*r->at) && !stopped(r))
		r->at++;
}

/* Moves past one byte and the space after it; returns the next byte. */
static char
step(Reader *r)
{
	r->at++;
	skip_space(r);
	return *r->at;
}

/* Moves to the end of a number, where a delimiter follows; less far if a stop was requested. */
static void
skip_word(Reader *r)
{
	while (*r->at && !is_space(*r->at) && *r->at != ',' && *r->at != '[' && *r->at != ']' && *r->at != '(' &&
		   *r->at != ')' && !stopped(r))
		r->at++;
}

/* The length of the text that an error quotes: at most 60 bytes, cut at a UTF-8 character. */
static int
quoted(const char *text)
{
	size_t n = strnlen(text, 60);

	while (n > 0 && ((unsigned char) text[n] & 0xc0) == 0x80)
		n--;
	return (int) n;
}

/* Reports the error in a text; there may be none if reading was stopped. */
static LlmCode
bad_text(const Reader *r, LlmError *err, const char *what)
{
	if (r->stopped)
		return llm_fail(
			err, LLM_CANCELED, "canceled at byte %zu of a tensor's text", (size_t) (r->at - r->text));
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

/* All values must be at the same depth: [1,[2]] has no shape. */
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
	step(r);
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
	step(r);
	return LLM_OK;
}

static LlmCode
read_value(Reader *r, LlmError *err)
{
	const char *start = r->at, *end;

	skip_word(r);
	end = r->at;
	if (end == start)
		return bad_text(r, err, *r->at ? "a number was expected" : "the text ends too early");
	r->at = start; /* position for an error message */
	if (set_leaf(r, r->depth, err) != LLM_OK)
		return err->code;
	r->at = end;
	skip_space(r);
	return LLM_OK;
}

/* After a value: reads closing brackets, then a comma before the next value. */
static LlmCode
read_ends(Reader *r, LlmError *err)
{
	while (r->depth > 0)
	{
		if (++r->count[r->depth - 1] > INT_MAX)
			return llm_fail(err, LLM_LIMIT, "tensor: a dimension is longer than %d", INT_MAX);
		if (*r->at == ',')
		{
			step(r);
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

/* tensor(0,3) []: an explicit shape, allowed if there are no elements that could contradict it. */
static LlmCode
read_empty(Reader *r, int *ndim, int *dims, LlmError *err)
{
	bool empty = false;

	*ndim = 0;
	r->at += strlen("tensor");
	skip_space(r);
	do
	{
		char *end;
		long dim;

		if (*r->at != (*ndim ? ',' : '('))
			return bad_text(r, err, "a shape such as (0,3) was expected");
		step(r);
		errno = 0;
		dim = strtol(r->at, &end, 10);
		if (*r->at < '0' || *r->at > '9' || errno || dim > INT_MAX)
			return bad_text(r, err, "a dimension was expected");
		if (*ndim == LLM_MAX_DIMS)
			return llm_fail(err, LLM_LIMIT, "a tensor has at most %d dimensions", LLM_MAX_DIMS);
		dims[(*ndim)++] = (int) dim;
		empty |= dim == 0;
		r->at = end;
		skip_space(r);
	} while (*r->at != ')');
	step(r);
	if (!empty)
	{
		llm_fail(err, LLM_FORMAT, "tensor: this is a summary, which does not hold the elements: \"%.60s\"",
			r->text);
		return llm_hint(err, "SET pg_llm.display_limit = 0 makes the output complete.");
	}
	if (*r->at != '[' || step(r) != ']' || step(r))
		return bad_text(r, err, "[] was expected after the shape of a tensor without elements");
	return LLM_OK;
}

LlmCode
llm_tensor_text_shape(const char *text, const LlmStop *stop, int *ndim, int *dims, LlmError *err)
{
	Reader r = reader_of(text, stop);

	skip_space(&r);
	if (strncasecmp(r.at, "tensor", 6) == 0)
		return read_empty(&r, ndim, dims, err);
	do
	{
		if (stopped(&r))
			return bad_text(&r, err, "canceled");
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

/* strtof alone would also accept hexadecimal and nan(…). An infinite result from digits was out of range. */
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
llm_tensor_text_values(const char *text, const LlmStop *stop, size_t n, float *out, LlmError *err)
{
	Reader r = reader_of(text, stop);

	for (size_t i = 0; i < n; i++)
	{
		const char *word;

		while ((is_space(*r.at) || *r.at == '[' || *r.at == ']' || *r.at == ',') && !stopped(&r))
			r.at++;
		word = r.at;
		skip_word(&r);
		switch (stopped(&r) ? LLM_FORMAT : read_number(word, r.at, &out[i]))
		{
			case LLM_OK:
				break;
			case LLM_RANGE:
				return llm_fail(err, LLM_RANGE, "tensor: %.*s is out of range for float32",
					(int) (r.at - word < 60 ? r.at - word : 60), word);
			default:
				r.at = word;
				return bad_text(&r, err, "a number was expected");
		}
	}
	return LLM_OK;
}
