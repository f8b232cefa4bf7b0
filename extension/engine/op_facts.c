/*
 * See op_facts.h.
 */
#include "engine/op_facts.h"

#include <string.h>

#include "engine/reduce.h"
#include "kernels/kernels.h"

const LlmOpFacts llm_op_facts[LLM_OP_COUNT] = {
#define OP(id, name, least, most, attributes, ids, gradient, reach, per_value, per_input, fuses, kernel,     \
	shape, rows, forward, backward, cost)                                                                    \
	{name, least, most, attributes, ids, gradient, reach, per_value, per_input, fuses, kernel},
	LLM_OPS(OP)
#undef OP
};

LlmOp
llm_op_find(const char *name)
{
	int op = 0;

	while (op < LLM_OP_COUNT && strcmp(llm_op_facts[op].name, name) != 0)
		op++;
	return (LlmOp) op;
}

const char *
llm_op_name(LlmOp op)
{
	return llm_op_facts[op].name;
}
