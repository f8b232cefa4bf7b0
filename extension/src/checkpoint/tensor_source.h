/* Files written from a list of tensors, one at a time in memory. */
#ifndef LLM_SRC_CHECKPOINT_TENSOR_SOURCE_H
#define LLM_SRC_CHECKPOINT_TENSOR_SOURCE_H

#include "postgres.h"

#include "formats/safetensors.h"
#include "src/base/progress.h"
#include "src/tensor/tensor.h"

typedef struct TensorSource
{
	int count;
	LlmSafetensorsTensor *tensors; /* names in UTF-8 and shapes, in the order of the file */
	char *config;                  /* config.json in UTF-8 */
	/* Returns tensor i in the current memory context, which is reset once the tensor is used. */
	const Tensor *(*fetch)(void *context, int i);
	void *context;
	Progress *progress; /* counts the tensors; may be NULL */
} TensorSource;

/* Fetches every tensor and passes it to `use` (NULL: only fetches), each in a memory context of its own. */
extern void EachTensor(TensorSource *source,
	void (*use)(TensorSource *source, int i, const Tensor *tensor, void *arg), void *arg);

/* For WriteServerFile: arg is a TensorSource. */
extern void ProduceSafetensors(const LlmSink *sink, void *arg);
extern void ProduceNpz(const LlmSink *sink, void *arg);
extern void ProduceConfig(const LlmSink *sink, void *arg);

#endif
