/* A value of the executor as SQL value. */
#ifndef LLM_SRC_TENSOR_TENSOR_VALUE_H
#define LLM_SRC_TENSOR_TENSOR_VALUE_H

#include "postgres.h"

#include "engine/execute.h"
#include "src/tensor/tensor.h"

/* A tensor of the value's shape, not set; drop_batch leaves out a leading dimension of 1. */
extern Tensor *TensorForValue(const LlmValue *value, bool drop_batch);
/* The same with a copy of its elements. */
extern Tensor *TensorOfValue(const LlmValue *value, bool drop_batch);

#endif
