/*
 * The table of facts: names are unique and can be found. With an argument it is printed, one line per
 * operation: its name, the fewest and the most inputs (-1: any number), its attributes.
 */
#include "engine/op_facts.h"
#include "test.h"

int
main(int argc, char **argv)
{
	for (int op = 0; op < LLM_OP_COUNT; op++)
	{
		const LlmOpFacts *facts = &llm_op_facts[op];

		CHECK(llm_op_find(facts->name) == (LlmOp) op && llm_op_name((LlmOp) op) == facts->name);
		CHECK(facts->least <= facts->most && facts->ids < facts->most && facts->attributes);
		if (argc > 1)
			printf("%s\t%d\t%d\t%s\n", facts->name, facts->least,
				facts->most == LLM_ANY_NUMBER ? -1 : facts->most, facts->attributes);
	}
	CHECK(llm_op_find("conv") == LLM_OP_COUNT);
	return 0;
}
