/*
 * ones_like, zeros_like: ones or zeros in the shape of the input.
 */
#include "engine/ops/op.h"

LlmCode
llm_forward_ones_like(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	LlmCode code = llm_run_result(exec, index, err);

	return code == LLM_OK ? llm_fill(in->numel, 1, llm_result_of(exec, index), err) : code;
}

LlmCode
llm_forward_zeros_like(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	LlmCode code = llm_run_result(exec, index, err);

	return code == LLM_OK ? llm_fill(in->numel, 0, llm_result_of(exec, index), err) : code;
}
