/*
 * Writes values of the executor as tensors of a run; for attention also the scores, the probabilities and
 * each head's output.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "engine/parallel.h"
#include "src/base/errors.h"
#include "src/tape/tape.h"
#include "src/tensor/tensor_value.h"

uint32
TapeWriteValue(TapeRun *run, const char *name, const LlmValue *value, bool wanted)
{
	Tensor *t = TensorOfValue(value, false);
	uint32 number = TapeNext(run);

	t->tape_run = run->key;
	t->tape_id = number;
	TapeWriteTensor(run, number, name, t->ndim, t->dims, t, wanted);
	pfree(t);
	return number;
}

/* heads (…,T,NH*HS): head i is (…,T,HS) */
static uint32
WriteHead(TapeRun *run, const char *name, const LlmValue *heads, int NH, int i)
{
	int HS = heads->dims[heads->ndim - 1] / NH, dims[LLM_MAX_DIMS];
	int64 rows = HS ? heads->numel / ((int64) NH * HS) : 0;
	uint32 number = TapeNext(run);
	LlmError err;
	Tensor *t;

	memcpy(dims, heads->dims, sizeof(int) * heads->ndim);
	dims[heads->ndim - 1] = HS;
	t = TensorNew(heads->ndim, dims);
	LLM_CHECK(llm_copy_rows(rows, HS, heads->floats + i * HS, NH * HS, TENSOR_DATA(t), HS, &err), &err);
	TensorCanonicalize(t);
	t->tape_run = run->key;
	t->tape_id = number;
	TapeWriteTensor(run, number, psprintf("%s.head.%d", name, i), t->ndim, dims, t, false);
	pfree(t);
	return number;
}

uint32 *
TapeWriteHeads(TapeRun *run, const char *name, uint32 first, const LlmTraced *traced, int *n)
{
	int NH = traced->probs.ndim == 4 ? traced->probs.dims[1] : 0;
	uint32 *outputs = palloc(sizeof(uint32) * (NH + 3));

	outputs[0] = first;
	*n = 1;
	if (NH == 0)
		return outputs;
	outputs[(*n)++] = TapeWriteValue(run, psprintf("%s.scores", name), &traced->scores, false);
	outputs[(*n)++] = TapeWriteValue(run, psprintf("%s.probs", name), &traced->probs, false);
	for (int i = 0; i < NH; i++)
		outputs[(*n)++] = WriteHead(run, name, &traced->value, NH, i);
	/* They are not differentiable, but a loss computed from them is no constant: llm_backward rejects it. */
	for (int i = 1; i < *n && TapeWanted(run, first); i++)
		TapeWant(run, outputs[i]);
	return outputs;
}
