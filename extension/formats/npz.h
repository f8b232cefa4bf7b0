/*
 * Writing npz: a ZIP archive of stored .npy members, ZIP64 where a size, offset or count needs it. Reading is
 * in tensor_file.h. The bytes depend on the tensors alone (no time, no owner).
 */
#ifndef LLM_FORMATS_NPZ_H
#define LLM_FORMATS_NPZ_H

#include "formats/crc32.h"
#include "formats/stream.h"

typedef struct LlmNpzWriter
{
	const LlmSink *sink;
	const LlmAllocator *allocator;
	const LlmStop *stop; /* to be set by whoever writes long arrays; NULL */
	uint64_t at;         /* bytes written */
	uint64_t count;      /* members written */
	unsigned char *directory;
	size_t directory_size, directory_capacity;
	uint64_t wide_from; /* values from here on go into ZIP64 fields: 0xffffffff; lower in tests */
	LlmCrc32 crc;
} LlmNpzWriter;

extern void llm_npz_writer_init(LlmNpzWriter *writer, const LlmSink *sink, const LlmAllocator *allocator);
/* Adds name.npy, a row-major float32 array. */
extern LlmCode llm_npz_write_tensor(
	LlmNpzWriter *writer, const char *name, int ndim, const int *dims, const float *values, LlmError *err);
/* Adds a member with these bytes as they are. */
extern LlmCode llm_npz_write_member(
	LlmNpzWriter *writer, const char *name, const void *bytes, size_t size, LlmError *err);
/* Writes the directory. */
extern LlmCode llm_npz_finish(LlmNpzWriter *writer, LlmError *err);
extern void llm_npz_writer_close(LlmNpzWriter *writer);

#endif
