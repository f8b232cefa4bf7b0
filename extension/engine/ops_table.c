/*
 * The rules of every operation: the functions of ops/ that the table of facts names.
 */
#include "engine/ops/op.h"

const LlmOpRules llm_op_rules[LLM_OP_COUNT] = {
#define OP(id, name, least, most, attributes, ids, gradient, reach, per_value, per_input, fuses, kernel,     \
	shape, rows, forward, backward, cost)                                                                    \
	{llm_infer_##shape, llm_rows_##rows, llm_forward_##forward, llm_backward_##backward, llm_cost_##cost},
	LLM_OPS(OP)
#undef OP
};
