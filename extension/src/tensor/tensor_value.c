#include "src/tensor/tensor_value.h"

#include "src/base/errors.h"
#include "src/base/memory.h"

Tensor *
TensorForValue(const LlmValue *value, bool drop_batch)
{
	int skip = drop_batch && value->ndim > 0 && value->dims[0] == 1;

	return TensorNew(value->ndim - skip, value->dims + skip);
}

Tensor *
TensorOfValue(const LlmValue *value, bool drop_batch)
{
	Tensor *t = TensorForValue(value, drop_batch);

	if (value->integers)
		for (size_t i = 0; i < value->numel; i++)
		{
			LLM_POLL(i);
			TENSOR_DATA(t)[i] = (float) value->integers[i];
		}
	else
		CopyMemory(TENSOR_DATA(t), value->floats, value->numel * sizeof(float));
	TensorCanonicalize(t);
	return t;
}
