/*
 * Included by the file of every operation: shape inference, the executor's state, gradient flow, and the
 * rules that the table of facts requires.
 */
#ifndef LLM_OP_H
#define LLM_OP_H

#include "engine/axes.h"
#include "engine/gradient_flow.h"
#include "engine/infer.h"
#include "engine/plan.h"

typedef struct LlmOpRules
{
	/* Fills node->shape from its inputs' shapes, or fails with the reason why they do not fit. */
	LlmCode (*shape)(const LlmGraph *graph, LlmNode *node, LlmError *err);
	/*
	 * True if each position's row of the value depends only on the same position's rows of the inputs (on
	 * earlier ones too, if the reach says so). t: the value's axis of positions, or -1.
	 */
	bool (*rows)(const LlmExec *exec, const LlmNode *node, int t);
	/*
	 * Computes the node. in: its inputs, LLM_MAX_INPUTS of them; an op with any number of inputs reads them
	 * itself.
	 */
	LlmCode (*forward)(LlmExec *exec, int index, const LlmValue *in, LlmError *err);
	/* Adds the contributions of this node to the gradients of its inputs. */
	LlmCode (*backward)(Back *b, LlmError *err);
	/* See llm_op_cost (tape.h). */
	void (*cost)(const LlmNode *node, const LlmValue *x, size_t read, const LlmValue *value, int64_t *flops,
		int64_t *bytes);
} LlmOpRules;

extern const LlmOpRules llm_op_rules[LLM_OP_COUNT];

#define OP(id, name, least, most, attributes, ids, gradient, reach, per_value, per_input, fuses, kernel,     \
	shape, rows, forward, backward, cost)                                                                    \
	extern LlmCode llm_infer_##shape(const LlmGraph *graph, LlmNode *node, LlmError *err);                   \
	extern bool llm_rows_##rows(const LlmExec *exec, const LlmNode *node, int t);                            \
	extern LlmCode llm_forward_##forward(LlmExec *exec, int index, const LlmValue *in, LlmError *err);       \
	extern LlmCode llm_backward_##backward(Back *b, LlmError *err);                                          \
	extern void llm_cost_##cost(const LlmNode *node, const LlmValue *x, size_t read, const LlmValue *value,  \
		int64_t *flops, int64_t *bytes);
LLM_OPS(OP)
#undef OP

/* The axis of positions of input i, as in Slot. */
extern int llm_t_axis_of(const LlmExec *exec, const LlmNode *node, int i);
/* The function applied to each of `rows` rows of n elements along an axis; out may be x, dx may be dy. */
typedef LlmCode (*LlmAlong)(size_t rows, size_t n, const float *x, float *out, LlmError *err);
typedef LlmCode (*LlmAlongBack)(
	size_t rows, size_t n, const float *y, const float *dy, float *dx, LlmError *err);
/* Applies f to x along the node's attribute axis, by default the last; out may be x. */
extern LlmCode llm_apply_along(
	LlmExec *exec, const LlmNode *node, const LlmValue *x, LlmAlong f, float *out, LlmError *err);
/* Forward and gradient of a node along that axis. */
extern LlmCode llm_forward_along(LlmExec *exec, int index, const LlmValue *x, LlmAlong f, LlmError *err);
extern LlmCode llm_back_along(Back *b, LlmAlongBack f, float *dx, LlmError *err);

/*
 * The dropout probability of a node in this run, from its attribute `key` or from the run's default; and its
 * random stream.
 */
extern float llm_dropout_of(const LlmExec *exec, int index, const char *key, LlmStream *stream);
/*
 * The ids of an input as integers from 0 to size - 1, in a buffer to be dropped; NULL if one of them is not
 * such a number: err says which.
 */
extern int32_t *llm_ids_of(
	LlmExec *exec, const LlmNode *node, const LlmValue *ids, int size, Buffer **buffer, LlmError *err);
/* Fills node->shape from the attribute shape, and node->integers from dtype. */
extern LlmCode llm_infer_declared(const LlmGraph *graph, LlmNode *node, LlmError *err);
/* True if an attribute is the text of a whole number, as seeds are, which float64 cannot hold. */
extern bool llm_is_seed(const LlmAttr *attr);
/* The attribute size of a shape rule: a number or the name of a dimension. */
extern LlmCode llm_infer_size(LlmNode *node, LlmDim *size, LlmError *err);
/* The kernel function of an elementwise node with one input. */
extern LlmUnary llm_unary_of(const LlmNode *node);

#endif
