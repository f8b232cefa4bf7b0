/*
 * A checkpoint file: named tensors. llm_safetensors_open and llm_npz_open read the table of contents, with
 * every size and offset checked against the file; the values are read one tensor at a time, so that a caller
 * holds only the tensor it requested in memory.
 */
#ifndef LLM_FORMATS_TENSOR_FILE_H
#define LLM_FORMATS_TENSOR_FILE_H

#include "common/base.h"
#include "formats/floats.h"
#include "formats/stream.h"

typedef struct LlmTensorEntry
{
	const char *name;    /* UTF-8 without NULs */
	char dtype_name[16]; /* as in the file: F32, <f4 */
	LlmDtype dtype;
	bool swapped; /* big-endian */
	bool fortran; /* the first index varies fastest in the file */
	int ndim;
	int64_t dims[LLM_MAX_DIMS];
	uint64_t numel;
	LlmExtent extent;
	uint64_t skip; /* bytes of the extent before the elements */
} LlmTensorEntry;

typedef struct LlmTensorFile
{
	LlmSource source;
	const LlmAllocator *allocator;
	LlmTensorEntry *entries;
	size_t count, capacity;
	struct LlmNameChunk *names; /* memory of the entries' names */
	char *config;               /* the config.json inside the file; NULL if there is none */
	size_t config_size;
} LlmTensorFile;

/* The metadata key (safetensors) or member (npz) with which a file can contain its own config.json. */
#define LLM_CONFIG_NAME "config.json"

/* Both functions: on failure nothing remains allocated. source.name and allocator must outlive the file. */
extern LlmCode llm_safetensors_open(
	LlmTensorFile *file, const LlmSource *source, const LlmAllocator *allocator, LlmError *err);
extern LlmCode llm_npz_open(
	LlmTensorFile *file, const LlmSource *source, const LlmAllocator *allocator, LlmError *err);
extern void llm_tensor_file_close(LlmTensorFile *file);

/* The entry with this name, or NULL. */
extern const LlmTensorEntry *llm_tensor_find(const LlmTensorFile *file, const char *name);

/* Reads the numel values of an entry, row-major, as float32. */
extern LlmCode llm_tensor_read(
	const LlmTensorFile *file, const LlmTensorEntry *entry, float *out, LlmError *err);
/* Compares the entry's values with these, bit for bit. */
extern LlmCode llm_tensor_equals(
	const LlmTensorFile *file, const LlmTensorEntry *entry, const float *values, bool *equal, LlmError *err);

/* For the format readers. */
extern void llm_tensor_file_init(LlmTensorFile *file, const LlmSource *source, const LlmAllocator *allocator);
/* Adds a zeroed entry with a copy of this name, which must be UTF-8; rejects NULs and the empty name. */
extern LlmCode llm_tensor_file_add(
	LlmTensorFile *file, const char *name, size_t length, LlmTensorEntry **entry, LlmError *err);
/* Computes numel from dims; rejects sizes above 2^63 bytes. */
extern LlmCode llm_tensor_count(const LlmTensorFile *file, LlmTensorEntry *entry, LlmError *err);
/* Rejects two entries with the same name. */
extern LlmCode llm_tensor_file_check_names(const LlmTensorFile *file, LlmError *err);

#endif
