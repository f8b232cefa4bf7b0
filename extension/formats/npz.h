/*
 * Writing npz: a ZIP archive of stored .npy members, in ZIP64 format if a size, offset or count requires it.
 * tensor_file.h is for reading. The bytes depend on the tensors alone (no time, no owner).
 */
#ifndef LLM_FORMATS_NPZ_H
#define LLM_FORMATS_NPZ_H

#include "formats/crc32.h"
#include "formats/stream.h"

typedef struct LlmNpzWriter
{
	const LlmSink *sink;
	const LlmAllocator *allocator;
	const LlmStop *stop; /* set by callers that write long arrays; NULL by default */
	uint64_t at;         /* bytes written */
	uint64_t count;      /* members written */
	unsigned char *directory;
	size_t directory_size, directory_capacity;
	uint64_t wide_from; /* values of at least this go into ZIP64 fields: 0xffffffff; smaller in tests */
	LlmCrc32 crc;
} LlmNpzWriter;

extern void llm_npz_writer_init(LlmNpzWriter *writer, const LlmSink *sink, const LlmAllocator *allocator);
/* Adds name.npy, a row-major float32 array. */
extern LlmCode llm_npz_write_tensor(
	LlmNpzWriter *writer, const char *name, int ndim, const int *dims, const float *values, LlmError *err);
/* Adds a member with these bytes, uncompressed. */
extern LlmCode llm_npz_write_member(
	LlmNpzWriter *writer, const char *name, const void *bytes, size_t size, LlmError *err);
/* Writes the directory. */
extern LlmCode llm_npz_finish(LlmNpzWriter *writer, LlmError *err);
extern void llm_npz_writer_close(LlmNpzWriter *writer);

#endif
