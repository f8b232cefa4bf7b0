/*
 * A file in memory, as source and as sink. The copy is exactly as long as the file, so that the sanitizer
 * detects any read past its end.
 */
#ifndef LLM_TEST_MEMORY_FILE_H
#define LLM_TEST_MEMORY_FILE_H

#include <stdlib.h>
#include <string.h>

#include "formats/tensor_file.h"

typedef struct MemoryFile
{
	unsigned char *bytes;
	size_t size;
} MemoryFile;

static inline LlmCode
memory_file_read(void *context, uint64_t offset, void *buffer, size_t size, LlmError *err)
{
	MemoryFile *file = context;

	if (offset > file->size || size > file->size - offset)
		abort(); /* the reader must stay within the source */
	if (size > 0)
		memcpy(buffer, file->bytes + offset, size);
	return LLM_OK;
}

static inline LlmCode
memory_file_write(void *context, const void *bytes, size_t size, LlmError *err)
{
	MemoryFile *file = context;

	file->bytes = realloc(file->bytes, file->size + size + 1);
	if (size > 0)
		memcpy(file->bytes + file->size, bytes, size);
	file->size += size;
	return LLM_OK;
}

static inline LlmSource
memory_source(MemoryFile *file)
{
	return (LlmSource){memory_file_read, file, file->size, "f"};
}

/* Opens the bytes as one format and reads every tensor that converts; any failure must be a clean error. */
typedef LlmCode (*OpenFunction)(LlmTensorFile *, const LlmSource *, const LlmAllocator *, LlmError *);

static inline LlmCode
read_everything(OpenFunction open, MemoryFile *bytes, const LlmAllocator *allocator, LlmError *err)
{
	LlmSource source = memory_source(bytes);
	LlmTensorFile file;
	LlmCode code = open(&file, &source, allocator, err);

	if (code != LLM_OK)
		return code;
	for (size_t i = 0; i < file.count && code == LLM_OK; i++)
	{
		const LlmTensorEntry *entry = &file.entries[i];
		float *values;

		if (entry->dtype == LLM_OTHER_DTYPE || entry->numel > 1 << 20)
			continue;
		values = malloc(entry->numel * sizeof(float) + 1);
		code = llm_tensor_read(&file, entry, values, err);
		free(values);
	}
	llm_tensor_file_close(&file);
	return code;
}

#endif
