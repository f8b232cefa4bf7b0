/* Converts values of the executor to SQL values. */
#ifndef LLM_SRC_TENSOR_TENSOR_VALUE_H
#define LLM_SRC_TENSOR_TENSOR_VALUE_H

#include "postgres.h"

#include "engine/execute.h"
#include "src/tensor/tensor.h"

/* A tensor with the value's shape, elements uninitialised; drop_batch omits a leading dimension of 1. */
extern Tensor *TensorForValue(const LlmValue *value, bool drop_batch);
/* The same, with the elements copied. */
extern Tensor *TensorOfValue(const LlmValue *value, bool drop_batch);

#endif
