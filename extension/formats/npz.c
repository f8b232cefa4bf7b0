/*
 * Reads the table of contents of an npz: a ZIP archive of .npy arrays, and possibly pg_llm's config.json.
 */
#include <string.h>

#include "formats/npy.h"
#include "formats/tensor_file.h"
#include "formats/zip.h"

#define MAX_CONFIG (1u << 20)

static LlmCode
read_config(LlmTensorFile *file, const LlmZipMember *member, LlmError *err)
{
	const LlmAllocator *a = file->allocator;
	LlmStream *stream;
	LlmCode code;

	if (member->extent.size > MAX_CONFIG)
		return llm_fail(err, LLM_LIMIT, "%s: its config.json has %llu bytes, more than %u", file->source.name,
			(unsigned long long) member->extent.size, MAX_CONFIG);
	code = llm_stream_open(&stream, &file->source, &member->extent, LLM_CONFIG_NAME, a, err);
	if (code != LLM_OK)
		return code;
	file->config_size = (size_t) member->extent.size;
	file->config = a->alloc(a->context, file->config_size + 1);
	if (file->config == NULL)
		code = llm_fail(err, LLM_NO_MEMORY, "%s: no memory for its config.json", file->source.name);
	else if ((code = llm_stream_read(stream, file->config, file->config_size, err)) == LLM_OK)
		code = llm_stream_finish(stream, err);
	if (file->config != NULL)
		file->config[file->config_size] = '\0';
	llm_stream_close(stream);
	return code;
}

static LlmCode
read_array(LlmTensorFile *file, const LlmZipMember *member, LlmError *err)
{
	LlmTensorEntry *entry;
	LlmStream *stream;
	uint64_t item, data;
	LlmCode code = llm_tensor_file_add(file, member->name, member->name_length - 4, &entry, err);

	if (code != LLM_OK)
		return code;
	entry->extent = member->extent;
	code = llm_stream_open(&stream, &file->source, &entry->extent, entry->name, file->allocator, err);
	if (code != LLM_OK)
		return code;
	code = llm_npy_read_header(file, stream, entry, err);
	llm_stream_close(stream);
	if (code != LLM_OK)
		return code;
	item = llm_npy_item_size(entry);
	data = entry->extent.size - entry->skip;
	if (item > 0 && data != entry->numel * item)
		return llm_fail(err, LLM_FORMAT,
			"%s: array \"%s\" has %llu bytes, but its shape and type %s need %llu", file->source.name,
			entry->name, (unsigned long long) data, entry->dtype_name,
			(unsigned long long) (entry->numel * item));
	return LLM_OK;
}

static LlmCode
read_member(LlmTensorFile *file, const LlmZipMember *member, LlmError *err)
{
	size_t length = member->name_length;

	if (length > 4 && memcmp(member->name + length - 4, ".npy", 4) == 0)
		return read_array(file, member, err);
	if (length == strlen(LLM_CONFIG_NAME) && memcmp(member->name, LLM_CONFIG_NAME, length) == 0 &&
		file->config == NULL)
		return read_config(file, member, err);
	if (member->name[length - 1] == '/' && member->extent.size == 0)
		return LLM_OK; /* a folder */
	llm_fail(err, LLM_FORMAT, "%s: member \"%.*s\" is neither a .npy array nor config.json",
		file->source.name, (int) length, member->name);
	if (length >= 8 && memcmp(member->name + length - 8, "data.pkl", 8) == 0)
		return llm_hint(
			err, "This is a PyTorch file. Convert it: pg-llm convert --source FILE --output model.npz");
	return llm_hint(err, "Write the file with numpy.savez(path, **{name: array}).");
}

LlmCode
llm_npz_open(LlmTensorFile *file, const LlmSource *source, const LlmAllocator *allocator, LlmError *err)
{
	LlmZip zip;
	LlmZipMember member;
	LlmCode code;

	llm_tensor_file_init(file, source, allocator);
	code = llm_zip_open(&zip, &file->source, allocator, err);
	while (code == LLM_OK && zip.next < zip.count)
	{
		code = llm_zip_next(&zip, &member, err);
		if (code == LLM_OK)
			code = read_member(file, &member, err);
	}
	llm_zip_close(&zip);
	if (code == LLM_OK)
		code = llm_tensor_file_check_names(file, err);
	if (code != LLM_OK)
		llm_tensor_file_close(file);
	return code;
}
