/* Running a node of a model for SQL. */
#ifndef LLM_SRC_MODEL_FORWARD_H
#define LLM_SRC_MODEL_FORWARD_H

#include "postgres.h"

#include "src/model/inputs.h"
#include "src/tensor/tensor.h"

/* Runs a node once, nothing cached. The value lives in the current memory context. */
extern LlmValue RunNode(const LoadedModel *m, int node, const LlmInput *inputs, int n);
/* The same for SQL, every row of it; drop_batch leaves out a leading dimension of 1. */
extern Tensor *RunTensor(const LoadedModel *m, int node, const LlmInput *inputs, int n, bool drop_batch);
#endif
