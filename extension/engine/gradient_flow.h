/*
 * Where gradients go: the rule of an operation takes the gradient of a node's value and hands contributions
 * to its inputs, by one of the functions here.
 */
#ifndef LLM_GRADIENT_FLOW_H
#define LLM_GRADIENT_FLOW_H

#include "engine/plan.h"

/* What a gradient rule is given: the values of the node's inputs, its own value and that one's gradient. */
typedef struct Back
{
	LlmExec *exec;
	float *const *grads;
	const LlmNode *node;
	int index;
	LlmValue in[LLM_MOST_INPUTS]; /* the first of its inputs */
	const LlmValue *out;          /* its value */
	const float *dy;
} Back;

typedef LlmCode (*LlmWrite)(Back *b, float *dx, LlmError *err);

extern LlmValue llm_back_input(const Back *b, int i);
/* Does input i lead to a parameter? Otherwise nothing is to be handed to it. */
extern bool llm_back_wants(const Back *b, int i);
/*
 * Memory for a contribution to input i: a parameter's own gradient, which the rule adds to, or (always where
 * `write`, because the rule overwrites) a buffer, zeroed unless written. NULL: err says why.
 */
extern float *llm_back_open(Back *b, int i, bool write, Buffer **buffer, LlmError *err);
/* Ends what llm_back_open began: after success (code LLM_OK) the contribution counts. Returns code or its own
 * failure. */
extern LlmCode llm_back_close(Back *b, int i, Buffer *buffer, LlmCode code, LlmError *err);
/* Adds terms (the shape of the node's value) to input i's gradient, summed over axes that were broadcast. */
extern LlmCode llm_back_give(Back *b, int i, const float *terms, LlmError *err);
/* Input i's gradient gains what `write` writes, where it is wanted. */
extern LlmCode llm_back_write(Back *b, int i, LlmWrite write, LlmError *err);

#endif
