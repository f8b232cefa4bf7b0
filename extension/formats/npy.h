/*
 * The header of a NumPy .npy array: magic, version, and a Python dict literal with dtype, order and shape.
 */
#ifndef LLM_FORMATS_NPY_H
#define LLM_FORMATS_NPY_H

#include "formats/tensor_file.h"

/* Version 1 headers have 10 bytes before the dict, versions 2 and 3 have 12. */
#define LLM_NPY_PREFIX 10
#define LLM_NPY_MAX_DICT 65536
/* Enough for the header of any float32 tensor. */
#define LLM_NPY_MAX_HEADER 256

/*
 * Reads the header at the stream's start into entry's fields dtype_name, dtype, swapped, fortran, ndim, dims,
 * numel and skip. The caller checks the size of the data.
 */
extern LlmCode llm_npy_read_header(
	const LlmTensorFile *file, LlmStream *stream, LlmTensorEntry *entry, LlmError *err);

/* Bytes per element according to the dtype's text: 8 for "<i8"; 0 if it does not say. */
extern uint64_t llm_npy_item_size(const LlmTensorEntry *entry);

/* Writes the version 1 header of a row-major float32 array; returns its length, a multiple of 64. */
extern size_t llm_npy_write_header(char *header, int ndim, const int *dims);

#endif
