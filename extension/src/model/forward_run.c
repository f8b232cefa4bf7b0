/*
 * A node of a model as an SQL value. The executor writes directly into the SQL value: all logits of a
 * sequence are often the largest value of a statement, so a copy would cost more than the layers before them.
 */
#include "postgres.h"

#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/model/forward.h"
#include "src/tensor/tensor_value.h"

LlmValue
RunNode(const LoadedModel *m, int node, const LlmInput *inputs, int n)
{
	LlmExec *exec;
	LlmValue value;
	LlmError err;

	LLM_CHECK(llm_exec_open(&m->model, node, false, 0, ContextAllocator(), &exec, &err), &err);
	LLM_CHECK(llm_exec_run(exec, inputs, n, &value, &err), &err);
	return value;
}

typedef struct Placed
{
	bool drop_batch;
	Tensor *tensor; /* NULL if the executor did not ask for the place */
} Placed;

static float *
PlaceTensor(void *context, const LlmValue *shape)
{
	Placed *placed = context;

	placed->tensor = TensorForValue(shape, placed->drop_batch);
	return TENSOR_DATA(placed->tensor);
}

Tensor *
RunTensor(const LoadedModel *m, int node, const LlmInput *inputs, int n, bool drop_batch)
{
	Placed placed = {.drop_batch = drop_batch};
	Tensor *t;
	LlmExec *exec;
	LlmValue value;
	LlmError err;

	LLM_CHECK(llm_exec_open(&m->model, node, false, 0, ContextAllocator(), &exec, &err), &err);
	llm_exec_place(exec, PlaceTensor, &placed);
	LLM_CHECK(llm_exec_run(exec, inputs, n, &value, &err), &err);
	t = placed.tensor;
	if (t == NULL || value.floats != TENSOR_DATA(t))
		t = TensorOfValue(&value, drop_batch);
	llm_exec_close(exec);
	return t;
}
