/*
 * Reads the header of a safetensors file. The format's own rules are enforced: the tensors cover the data
 * exactly, without overlaps, holes or trailing bytes, so that a file cannot hide bytes from inspection. Files
 * that the safetensors package refuses are refused here, too, and the other way round
 * (tests/checkpoint/test_rules.py).
 */
#include <stdlib.h>
#include <string.h>

#include "formats/file_kind.h"
#include "formats/json.h"
#include "formats/tensor_file.h"

#define MAX_HEADER 100000000 /* the reference implementation's limit */

static const struct
{
	const char *name;
	int bits; /* of an element */
	LlmDtype dtype;
} dtypes[] = {{"F32", 32, LLM_F32}, {"F16", 16, LLM_F16}, {"BF16", 16, LLM_BF16}, {"F64", 64, LLM_F64},
	{"BOOL", 8, LLM_OTHER_DTYPE}, {"U8", 8, LLM_OTHER_DTYPE}, {"I8", 8, LLM_OTHER_DTYPE},
	{"U16", 16, LLM_OTHER_DTYPE}, {"I16", 16, LLM_OTHER_DTYPE}, {"U32", 32, LLM_OTHER_DTYPE},
	{"I32", 32, LLM_OTHER_DTYPE}, {"U64", 64, LLM_OTHER_DTYPE}, {"I64", 64, LLM_OTHER_DTYPE},
	{"C64", 64, LLM_OTHER_DTYPE}, {"F8_E4M3", 8, LLM_OTHER_DTYPE}, {"F8_E5M2", 8, LLM_OTHER_DTYPE},
	{"F8_E8M0", 8, LLM_OTHER_DTYPE}, {"F8_E4M3FNUZ", 8, LLM_OTHER_DTYPE}, {"F8_E5M2FNUZ", 8, LLM_OTHER_DTYPE},
	{"F6_E2M3", 6, LLM_OTHER_DTYPE}, {"F6_E3M2", 6, LLM_OTHER_DTYPE}, {"F4", 4, LLM_OTHER_DTYPE}};

static bool
is_text(const LlmJson *json, const char *text)
{
	return json->length == strlen(text) && memcmp(json->text, text, json->length) == 0;
}

static LlmCode
read_dtype(LlmTensorFile *file, LlmJson *json, LlmTensorEntry *entry, int *bits, LlmError *err)
{
	LlmCode code = llm_json_expect(json, LLM_JSON_STRING, err);

	if (code != LLM_OK)
		return code;
	for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
		if (is_text(json, dtypes[i].name))
		{
			strcpy(entry->dtype_name, dtypes[i].name);
			entry->dtype = dtypes[i].dtype;
			*bits = dtypes[i].bits;
			return LLM_OK;
		}
	return llm_json_fail(json, err, "tensor \"%s\" has an unknown dtype", entry->name);
}

/* Reads an array of at most capacity integers >= 0. */
static LlmCode
read_numbers(LlmJson *json, const char *what, LlmTensorEntry *entry, int64_t *numbers, int capacity,
	int *count, LlmError *err)
{
	LlmCode code = llm_json_expect(json, LLM_JSON_ARRAY, err);

	*count = 0;
	if (code != LLM_OK)
		return code;
	for (;;)
	{
		if ((code = llm_json_next(json, err)) != LLM_OK)
			return code;
		if (json->token == LLM_JSON_ARRAY_END)
			return LLM_OK;
		if (json->token != LLM_JSON_INTEGER || json->integer < 0)
			return llm_json_fail(
				json, err, "the %s of tensor \"%s\" must be whole numbers from 0 on", what, entry->name);
		if (*count == capacity)
			return llm_json_fail(
				json, err, "the %s of tensor \"%s\" are more than %d", what, entry->name, capacity);
		numbers[(*count)++] = json->integer;
	}
}

/* {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}; offsets count from the header's end. */
static LlmCode
read_entry(LlmTensorFile *file, LlmJson *json, LlmTensorEntry *entry, uint64_t data_start, LlmError *err)
{
	int64_t offsets[2];
	int offset_count = -1, bits = 0;
	uint64_t needed;
	LlmCode code;

	entry->ndim = -1;
	if ((code = llm_json_expect(json, LLM_JSON_OBJECT, err)) != LLM_OK)
		return code;
	for (;;)
	{
		if ((code = llm_json_next(json, err)) != LLM_OK)
			return code;
		if (json->token == LLM_JSON_OBJECT_END)
			break;
		if ((is_text(json, "dtype") && bits > 0) || (is_text(json, "shape") && entry->ndim >= 0) ||
			(is_text(json, "data_offsets") && offset_count >= 0))
			code = llm_json_fail(json, err, "tensor \"%s\" has a key twice", entry->name);
		else if (is_text(json, "dtype"))
			code = read_dtype(file, json, entry, &bits, err);
		else if (is_text(json, "shape"))
			code = read_numbers(json, "dimensions", entry, entry->dims, LLM_MAX_DIMS, &entry->ndim, err);
		else if (is_text(json, "data_offsets"))
			code = read_numbers(json, "data_offsets", entry, offsets, 2, &offset_count, err);
		else
			code = llm_json_skip(json, err);
		if (code != LLM_OK)
			return code;
	}
	if (bits == 0 || entry->ndim < 0 || offset_count != 2)
		return llm_json_fail(json, err, "tensor \"%s\" needs dtype, shape and two data_offsets", entry->name);
	if ((code = llm_tensor_count(file, entry, err)) != LLM_OK)
		return code;
	if (offsets[0] > offsets[1] || (uint64_t) offsets[1] > file->source.size - data_start)
		return llm_json_fail(json, err,
			"tensor \"%s\" has data_offsets [%lld, %lld], the file has %llu bytes of data", entry->name,
			(long long) offsets[0], (long long) offsets[1],
			(unsigned long long) (file->source.size - data_start));
	entry->extent.offset = data_start + (uint64_t) offsets[0];
	entry->extent.size = entry->extent.stored = (uint64_t) (offsets[1] - offsets[0]);
	needed = bits < 8 ? (entry->numel * (uint64_t) bits + 7) / 8 : entry->numel * (uint64_t) (bits / 8);
	if (entry->extent.size != needed || (bits < 8 && entry->numel * (uint64_t) bits % 8 != 0))
		return llm_json_fail(json, err, "tensor \"%s\" has %llu bytes, but its shape and dtype %s need %llu",
			entry->name, (unsigned long long) entry->extent.size, entry->dtype_name,
			(unsigned long long) needed);
	return LLM_OK;
}

/* Reads "__metadata__": {string: string} or null, and keeps a config.json in it, the last. */
static LlmCode
read_metadata(LlmTensorFile *file, LlmJson *json, LlmError *err)
{
	const LlmAllocator *a = file->allocator;
	LlmCode code = llm_json_next(json, err);

	if (code != LLM_OK || json->token == LLM_JSON_NULL)
		return code;
	if (json->token != LLM_JSON_OBJECT)
		return llm_json_fail(
			json, err, "__metadata__ is %s, expected an object", llm_json_token_name(json->token));
	while (code == LLM_OK && (code = llm_json_next(json, err)) == LLM_OK && json->token == LLM_JSON_KEY)
	{
		bool config = is_text(json, LLM_CONFIG_NAME);

		code = llm_json_expect(json, LLM_JSON_STRING, err);
		if (code != LLM_OK || !config)
			continue;
		if (file->config != NULL)
			a->release(a->context, file->config, file->config_size + 1);
		file->config = a->alloc(a->context, json->length + 1);
		if (file->config == NULL)
			return llm_fail(err, LLM_NO_MEMORY, "%s: no memory for its config", file->source.name);
		memcpy(file->config, json->text, json->length);
		file->config[json->length] = '\0';
		file->config_size = json->length;
	}
	return code;
}

static int
compare_offsets(const void *a, const void *b)
{
	const LlmExtent *x = &(*(const LlmTensorEntry *const *) a)->extent,
					*y = &(*(const LlmTensorEntry *const *) b)->extent;

	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	return x->size < y->size ? -1 : x->size > y->size; /* empty tensors first */
}

/* Checks that the tensors, in the order of their offsets, follow one another from the start to the end of the
 * file. */
static LlmCode
check_cover(const LlmTensorFile *file, const LlmTensorEntry **sorted, uint64_t start, LlmError *err)
{
	uint64_t at = start;

	for (size_t i = 0; i < file->count; i++)
		sorted[i] = &file->entries[i];
	qsort(sorted, file->count, sizeof(*sorted), compare_offsets);
	for (size_t i = 0; i < file->count; i++)
	{
		const LlmExtent *extent = &sorted[i]->extent;

		if (extent->offset < at)
			return llm_fail(err, LLM_FORMAT, "%s: tensors \"%s\" and \"%s\" overlap", file->source.name,
				sorted[i - 1]->name, sorted[i]->name);
		if (extent->offset > at)
			return llm_fail(err, LLM_FORMAT, "%s: %llu bytes before tensor \"%s\" belong to no tensor",
				file->source.name, (unsigned long long) (extent->offset - at), sorted[i]->name);
		at += extent->size;
	}
	if (at != file->source.size)
		return llm_fail(err, LLM_FORMAT, "%s: %llu bytes at the end belong to no tensor", file->source.name,
			(unsigned long long) (file->source.size - at));
	return LLM_OK;
}

static LlmCode
read_header(LlmTensorFile *file, LlmJson *json, uint64_t data_start, LlmError *err)
{
	const LlmAllocator *a = file->allocator;
	const LlmTensorEntry **sorted;
	LlmTensorEntry *entry;
	bool metadata = false;
	LlmCode code = llm_json_expect(json, LLM_JSON_OBJECT, err);

	while (code == LLM_OK && (code = llm_json_next(json, err)) == LLM_OK && json->token == LLM_JSON_KEY)
	{
		if (is_text(json, "__metadata__"))
		{
			code = metadata ? llm_json_fail(json, err, "__metadata__ is there twice")
							: read_metadata(file, json, err);
			metadata = true;
		}
		else if ((code = llm_tensor_file_add(file, json->text, json->length, &entry, err)) == LLM_OK)
			code = read_entry(file, json, entry, data_start, err);
	}
	if (code != LLM_OK || (code = llm_json_expect(json, LLM_JSON_END, err)) != LLM_OK)
		return code;
	if ((code = llm_tensor_file_check_names(file, err)) != LLM_OK)
		return code;

	sorted = a->alloc(a->context, (file->count + 1) * sizeof(*sorted));
	if (sorted == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "%s: no memory to sort the tensors", file->source.name);
	code = check_cover(file, sorted, data_start, err);
	a->release(a->context, sorted, (file->count + 1) * sizeof(*sorted));
	return code;
}

LlmCode
llm_safetensors_open(
	LlmTensorFile *file, const LlmSource *source, const LlmAllocator *allocator, LlmError *err)
{
	unsigned char prefix[8];
	uint64_t size;
	char *header;
	LlmJson json;
	LlmCode code;

	llm_tensor_file_init(file, source, allocator);
	if (source->size < sizeof(prefix))
		return llm_fail(err, LLM_FORMAT, "%s: %llu bytes are too few for a safetensors file", source->name,
			(unsigned long long) source->size);
	if ((code = source->read(source->context, 0, prefix, sizeof(prefix), err)) != LLM_OK)
		return code;
	size = llm_load_le64(prefix);
	if (size > MAX_HEADER || size > source->size - sizeof(prefix))
	{
		llm_fail(err, LLM_FORMAT, "%s: not a safetensors file: a header of %llu bytes in a file of %llu",
			source->name, (unsigned long long) size, (unsigned long long) source->size);
		if (memcmp(prefix, "PK\3\4", 4) == 0)
			return llm_hint(err,
				"This is a ZIP file: import an .npz with pg_llm_import_npz; convert a PyTorch file "
				"with: pg-llm convert --source FILE --output model.safetensors");
		return llm_hint_kind(source, "The file may be cut short.", err);
	}
	header = allocator->alloc(allocator->context, size + 1);
	if (header == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "%s: no memory for a header of %llu bytes", source->name,
			(unsigned long long) size);
	code = source->read(source->context, sizeof(prefix), header, (size_t) size, err);
	if (code == LLM_OK && size >= 3 && memcmp(header, "\xef\xbb\xbf", 3) == 0)
		code = llm_fail(err, LLM_FORMAT, "%s: its header begins with a byte order mark", source->name);
	if (code == LLM_OK)
	{
		llm_json_open(&json, source->name, header, (size_t) size, allocator);
		json.stop = source->stop;
		code = read_header(file, &json, sizeof(prefix) + size, err);
		llm_json_close(&json);
	}
	allocator->release(allocator->context, header, size + 1);
	if (code != LLM_OK)
		llm_tensor_file_close(file);
	return code;
}
