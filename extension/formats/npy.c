#include "formats/npy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char magic[6] = "\x93NUMPY";

/* A parser for the dict that NumPy writes: string keys; values are strings, True, False or tuples of ints. */
typedef struct Literal
{
	const LlmTensorFile *file;
	const char *array;
	const char *at, *end;
	LlmError *err;
} Literal;

static LlmCode
bad(const Literal *l, const char *what)
{
	return llm_fail(l->err, LLM_FORMAT, "%s: array \"%s\" has a bad .npy header: %s", l->file->source.name,
		l->array, what);
}

static void
skip_space(Literal *l)
{
	while (l->at < l->end && (*l->at == ' ' || *l->at == '\n' || *l->at == '\t'))
		l->at++;
}

static bool
accept(Literal *l, char c)
{
	skip_space(l);
	if (l->at == l->end || *l->at != c)
		return false;
	l->at++;
	return true;
}

static bool
accept_word(Literal *l, const char *word)
{
	size_t length = strlen(word);

	skip_space(l);
	if ((size_t) (l->end - l->at) < length || memcmp(l->at, word, length) != 0)
		return false;
	l->at += length;
	return true;
}

/* A quoted string without escapes, which no key or plain dtype has. */
static bool
accept_string(Literal *l, const char **text, size_t *length)
{
	char quote;

	skip_space(l);
	if (l->at == l->end || (*l->at != '\'' && *l->at != '"'))
		return false;
	quote = *l->at++;
	*text = l->at;
	while (l->at < l->end && *l->at != quote && *l->at != '\\')
		l->at++;
	*length = (size_t) (l->at - *text);
	return accept(l, quote);
}

static LlmCode
read_dtype(Literal *l, LlmTensorEntry *entry)
{
	const char *text;
	size_t length;

	entry->dtype = LLM_OTHER_DTYPE;
	if (!accept_string(l, &text, &length))
	{
		/* A structured dtype is a list of fields; its header needs no further reading. */
		if (!accept(l, '['))
			return bad(l, "descr is neither text nor a list");
		strcpy(entry->dtype_name, "structured");
		l->at = l->end;
		return LLM_OK;
	}
	if (length < 2 || length >= sizeof(entry->dtype_name))
		return bad(l, "descr is no NumPy type");
	memcpy(entry->dtype_name, text, length);
	entry->dtype_name[length] = '\0';
	if (strchr("<>=|", text[0]) != NULL)
	{
		entry->swapped = text[0] == '>';
		text++;
		length--;
	}
	if (length == 2 && text[0] == 'f') /* without a byte order: the machine's, little-endian */
		entry->dtype = text[1] == '4'   ? LLM_F32
					   : text[1] == '2' ? LLM_F16
					   : text[1] == '8' ? LLM_F64
										: LLM_OTHER_DTYPE;
	return LLM_OK;
}

static LlmCode
read_shape(Literal *l, LlmTensorEntry *entry)
{
	if (!accept(l, '('))
		return bad(l, "shape is no tuple");
	while (!accept(l, ')'))
	{
		int64_t dim = 0;
		const char *first;

		skip_space(l);
		first = l->at;
		for (; l->at < l->end && *l->at >= '0' && *l->at <= '9'; l->at++)
			if (__builtin_mul_overflow(dim, 10, &dim) || __builtin_add_overflow(dim, *l->at - '0', &dim))
				return bad(l, "a dimension is too large");
		if (l->at == first)
			return bad(l, "a dimension is no whole number from 0 on");
		accept(l, 'L'); /* Python 2 wrote long integers with an L */
		if (entry->ndim == LLM_MAX_DIMS)
			return bad(l, "more than 8 dimensions");
		entry->dims[entry->ndim++] = dim;
		if (!accept(l, ',') && (l->at == l->end || *l->at != ')'))
			return bad(l, "shape is not closed");
	}
	return LLM_OK;
}

static LlmCode
read_dict(Literal *l, LlmTensorEntry *entry)
{
	bool descr = false, order = false, shape = false;

	if (!accept(l, '{'))
		return bad(l, "no dict");
	while (!accept(l, '}'))
	{
		const char *key;
		size_t length;
		LlmCode code = LLM_OK;

		if (!accept_string(l, &key, &length) || !accept(l, ':'))
			return bad(l, "a key is missing");
		if (length == 5 && memcmp(key, "descr", 5) == 0 && !descr)
		{
			descr = true;
			if ((code = read_dtype(l, entry)) == LLM_OK && strcmp(entry->dtype_name, "structured") == 0)
				return LLM_OK;
		}
		else if (length == 13 && memcmp(key, "fortran_order", 13) == 0 && !order)
		{
			order = true;
			entry->fortran = accept_word(l, "True");
			if (!entry->fortran && !accept_word(l, "False"))
				return bad(l, "fortran_order is neither True nor False");
		}
		else if (length == 5 && memcmp(key, "shape", 5) == 0 && !shape)
		{
			shape = true;
			code = read_shape(l, entry);
		}
		else
			return bad(l, "an unknown or repeated key");
		if (code != LLM_OK)
			return code;
		if (!accept(l, ',') && (l->at == l->end || *l->at != '}'))
			return bad(l, "the dict is not closed");
	}
	skip_space(l);
	if (!descr || !order || !shape)
		return bad(l, "descr, fortran_order and shape are needed");
	return l->at == l->end ? LLM_OK : bad(l, "something follows the dict");
}

LlmCode
llm_npy_read_header(const LlmTensorFile *file, LlmStream *stream, LlmTensorEntry *entry, LlmError *err)
{
	const LlmAllocator *a = file->allocator;
	Literal literal = {file, entry->name, NULL, NULL, err};
	unsigned char prefix[LLM_NPY_PREFIX + 2];
	size_t size;
	char *dict;
	LlmCode code;

	if (entry->extent.size < LLM_NPY_PREFIX)
		return bad(&literal, "too short");
	if ((code = llm_stream_read(stream, prefix, LLM_NPY_PREFIX, err)) != LLM_OK)
		return code;
	if (memcmp(prefix, magic, sizeof(magic)) != 0)
		return bad(&literal, "it does not begin with \\x93NUMPY");
	if (prefix[6] < 1 || prefix[6] > 3 || prefix[7] != 0)
		return bad(&literal, "a version other than 1.0, 2.0 or 3.0");
	size = llm_load_le(prefix + 8, 2);
	entry->skip = LLM_NPY_PREFIX;
	if (prefix[6] > 1)
	{
		if (entry->extent.size < LLM_NPY_PREFIX + 2)
			return bad(&literal, "too short");
		if ((code = llm_stream_read(stream, prefix + LLM_NPY_PREFIX, 2, err)) != LLM_OK)
			return code;
		size = llm_load_le(prefix + 8, 4);
		entry->skip += 2;
	}
	if (size > LLM_NPY_MAX_DICT || size > entry->extent.size - entry->skip)
		return bad(&literal, "it is longer than the array or 65536 bytes");
	entry->skip += size;

	dict = a->alloc(a->context, size + 1);
	if (dict == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "%s: no memory for a header", file->source.name);
	if ((code = llm_stream_read(stream, dict, size, err)) == LLM_OK)
	{
		literal.at = dict;
		literal.end = dict + size;
		code = read_dict(&literal, entry);
	}
	a->release(a->context, dict, size + 1);
	return code == LLM_OK ? llm_tensor_count(file, entry, err) : code;
}

uint64_t
llm_npy_item_size(const LlmTensorEntry *entry)
{
	if (entry->dtype != LLM_OTHER_DTYPE)
		return llm_dtype_size(entry->dtype);
	/* A kind letter followed by the bytes; text (U), dates and fields count in other units. */
	if (strlen(entry->dtype_name) == 3 && strchr("biufcSV", entry->dtype_name[1]) != NULL &&
		entry->dtype_name[2] >= '1' && entry->dtype_name[2] <= '9')
		return (uint64_t) (entry->dtype_name[2] - '0');
	return 0;
}

size_t
llm_npy_write_header(char *header, int ndim, const int *dims)
{
	size_t length, size;

	length = LLM_NPY_PREFIX +
			 (size_t) sprintf(header + LLM_NPY_PREFIX, "{'descr': '<f4', 'fortran_order': False, 'shape': (");
	for (int i = 0; i < ndim; i++)
		length += (size_t) sprintf(header + length, i > 0 ? ", %d" : ndim == 1 ? "%d," : "%d", dims[i]);
	length += (size_t) sprintf(header + length, "), }");
	size = (length + 1 + 63) / 64 * 64;
	memset(header + length, ' ', size - 1 - length);
	header[size - 1] = '\n';
	memcpy(header, magic, sizeof(magic));
	header[6] = 1;
	header[7] = 0;
	llm_store_le((unsigned char *) header + 8, size - LLM_NPY_PREFIX, 2);
	return size;
}
