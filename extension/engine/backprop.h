/*
 * Inside of the way back: shared by backprop*.c only. A rule takes the gradient of a node's value and hands
 * contributions to its inputs, by one of the functions here.
 */
#ifndef LLM_BACKPROP_H
#define LLM_BACKPROP_H

#include "engine/plan.h"

/* A node's way back: its inputs' values, its own value and gradient. */
typedef struct Back
{
	LlmExec *exec;
	float *const *grads;
	const LlmNode *node;
	int index;
	LlmValue in[3];      /* the first of its inputs */
	const LlmValue *out; /* its value */
	const float *dy;
} Back;

typedef LlmCode (*LlmRule)(Back *b, LlmError *err);
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

/* The rules: elementwise and products (backprop_arith.c), … */
extern LlmCode llm_back_matmul(Back *b, LlmError *err);
extern LlmCode llm_back_add(Back *b, LlmError *err);
extern LlmCode llm_back_sub(Back *b, LlmError *err);
extern LlmCode llm_back_mul(Back *b, LlmError *err);
extern LlmCode llm_back_div(Back *b, LlmError *err);
extern LlmCode llm_back_unary(Back *b, LlmError *err);
/* … layers (backprop_layers.c), … */
extern LlmCode llm_back_embedding(Back *b, LlmError *err);
extern LlmCode llm_back_softmax(Back *b, LlmError *err);
extern LlmCode llm_back_layernorm(Back *b, LlmError *err);
extern LlmCode llm_back_attention(Back *b, LlmError *err);
extern LlmCode llm_back_dropout(Back *b, LlmError *err);
extern LlmCode llm_back_cross_entropy(Back *b, LlmError *err);
/* … and what reduces, moves or joins elements (backprop_view.c). */
extern LlmCode llm_back_reduce(Back *b, LlmError *err);
extern LlmCode llm_back_reshape(Back *b, LlmError *err);
extern LlmCode llm_back_transpose(Back *b, LlmError *err);
extern LlmCode llm_back_slice(Back *b, LlmError *err);
extern LlmCode llm_back_concat(Back *b, LlmError *err);
extern LlmCode llm_back_total(Back *b, LlmError *err);

#endif
