/*
 * A checkpoint on the server: a single file, or a folder with a single file or with shards and their index;
 * and the contents of its config.json.
 */
#ifndef LLM_SRC_CHECKPOINT_IMPORT_CHECKPOINT_H
#define LLM_SRC_CHECKPOINT_IMPORT_CHECKPOINT_H

#include "postgres.h"

#include "formats/tensor_file.h"
#include "src/checkpoint/import_file.h"

typedef struct CheckpointFormat
{
	const char *file;  /* in a folder: model.safetensors */
	const char *index; /* index of the shards: model.safetensors.index.json; NULL: the format has none */
	LlmCode (*open)(
		LlmTensorFile *file, const LlmSource *source, const LlmAllocator *allocator, LlmError *err);
} CheckpointFormat;

extern const CheckpointFormat CheckpointSafetensors;
extern const CheckpointFormat CheckpointNpz;

typedef struct CheckpointTensor
{
	const LlmTensorFile *file;
	ServerFile *server_file;
	const LlmTensorEntry *entry;
	char *name; /* in the server's encoding */
} CheckpointTensor;

typedef struct Checkpoint
{
	CheckpointTensor *tensors;
	int count;
	char *config; /* JSON in the server's encoding, checked; NULL: none */
} Checkpoint;

/* Everything is allocated in the current memory context, which must not be reset before the last read. */
extern void CheckpointOpen(Checkpoint *checkpoint, const char *path, const CheckpointFormat *format);
/* Reads a tensor's values, row-major; of a matrix, if so wanted, those of the transposed one. */
extern void CheckpointRead(const CheckpointTensor *tensor, bool transpose, float *out);
/* True if the head and the embedding both exist and are equal, bit for bit. Call inside SPI. */
extern bool CheckpointHeadIsWte(const Checkpoint *checkpoint);
/* [{"name": …, "dtype": …, "shape": […]}, …] */
extern char *CheckpointTensorsJson(const Checkpoint *checkpoint);

#endif
