/* Computes a node of a model for SQL. */
#ifndef LLM_SRC_MODEL_FORWARD_H
#define LLM_SRC_MODEL_FORWARD_H

#include "postgres.h"

#include "src/model/inputs.h"
#include "src/tensor/tensor.h"

/* Computes a node once, with no KV cache. The value is allocated in the current memory context. */
extern LlmValue RunNode(const LoadedModel *m, int node, const LlmInput *inputs, int n);
/* The same as an SQL value with all its rows; drop_batch omits a leading dimension of 1. */
extern Tensor *RunTensor(const LoadedModel *m, int node, const LlmInput *inputs, int n, bool drop_batch);
#endif
