/*
 * Writing safetensors: eight bytes of header length, a JSON header (name → dtype, shape, offsets), then the
 * values of all tensors without gaps. tensor_file.h is for reading.
 */
#ifndef LLM_FORMATS_SAFETENSORS_H
#define LLM_FORMATS_SAFETENSORS_H

#include "formats/stream.h"

typedef struct LlmSafetensorsTensor
{
	const char *name;
	int ndim;
	const int *dims;
} LlmSafetensorsTensor;

/*
 * Writes the header of a file that will hold these float32 tensors; their little-endian values follow in the
 * same order. config (may be NULL) is stored as metadata "config.json".
 */
extern LlmCode llm_safetensors_write_header(const LlmSink *sink, const LlmSafetensorsTensor *tensors,
	size_t count, const char *config, const LlmAllocator *allocator, LlmError *err);

#endif
