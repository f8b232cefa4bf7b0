/*
 * How gradients reach the inputs: a gradient rule receives the gradient with respect to a node's value and
 * accumulates the gradients with respect to its inputs through these functions.
 */
#ifndef LLM_GRADIENT_FLOW_H
#define LLM_GRADIENT_FLOW_H

#include "engine/plan.h"

/*
 * The arguments of a gradient rule: the node, the values of its inputs, its own value and the gradient with
 * respect to that.
 */
typedef struct Back
{
	LlmExec *exec;
	float *const *grads;
	const LlmNode *node;
	int index;
	LlmValue in[LLM_MAX_INPUTS]; /* the first inputs */
	const LlmValue *out;         /* the node's value */
	const float *dy;
} Back;

typedef LlmCode (*LlmWrite)(Back *b, float *dx, LlmError *err);

extern LlmValue llm_back_input(const Back *b, int i);
/* True if input i depends on a trained parameter; otherwise it needs no gradient. */
extern bool llm_back_wants(const Back *b, int i);
/*
 * Memory for a contribution to the gradient of input i: the parameter's own gradient, to which the rule
 * adds, or a zeroed buffer. With `write`, because the rule overwrites, always a buffer, and not zeroed.
 * NULL: err says why.
 */
extern float *llm_back_open(Back *b, int i, bool write, Buffer **buffer, LlmError *err);
/*
 * Finishes what llm_back_open began: if code is LLM_OK, the contribution is added. Returns code or its own
 * error.
 */
extern LlmCode llm_back_close(Back *b, int i, Buffer *buffer, LlmCode code, LlmError *err);
/*
 * The same for the first n inputs, whose gradients a norm's kernels compute together: the first input's is
 * overwritten, the others, of parameters of the norm, are added to. Contributions that are not needed are
 * discarded. After an error, too, llm_back_close_all must follow.
 */
extern LlmCode llm_back_open_all(Back *b, int n, float **to, Buffer **buffers, LlmError *err);
extern LlmCode llm_back_close_all(Back *b, int n, Buffer **buffers, LlmCode code, LlmError *err);
/*
 * Adds terms (of the shape of the node's value) to the gradient of input i, summed over the axes that were
 * broadcast.
 */
extern LlmCode llm_back_add(Back *b, int i, const float *terms, LlmError *err);
/* Adds to the gradient of input i, if it needs one, what `write` writes. */
extern LlmCode llm_back_write(Back *b, int i, LlmWrite write, LlmError *err);

#endif
