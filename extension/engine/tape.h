/*
 * What a run leaves to be looked at, and the way back over values computed before: the seam between the one
 * executor and a tape kept as rows.
 */
#ifndef LLM_TAPE_H
#define LLM_TAPE_H

#include "engine/execute.h"

/*
 * From now on runs keep every value, attention's scores and probabilities too, and ops are timed. Nothing is
 * dropped: a traced run gives the bits of an untraced one.
 */
extern void llm_exec_trace(LlmExec *exec);

typedef struct LlmTraced
{
	LlmValue value;         /* floats NULL: a parameter that is kept packed */
	LlmValue scores, probs; /* of attention, (B,NH,queries,keys); numel 0: none */
	int64_t flops, bytes;   /* as llm_op_cost counts them */
	double microseconds;
	bool ran; /* the target needs it; else nothing above is set */
} LlmTraced;

/* What the last run made of a node; values live until the next run or close. */
extern void llm_exec_traced(const LlmExec *exec, int node, LlmTraced *out);

/*
 * Floating-point operations (a multiplication and its addition are two) and bytes of inputs read and of the
 * value written. Of the node op and attrs are read; first: its first input (NULL: it has none); read:
 * elements of all its inputs together.
 */
extern void llm_op_cost(const LlmNode *node, const LlmValue *first, size_t read, const LlmValue *value,
	int64_t *flops, int64_t *bytes);

/* Pairs of query and key that a head of an attention node looks at: the last `queries` of `keys` positions.
 */
extern int64_t llm_attention_pairs(const LlmNode *node, int64_t queries, int64_t keys);

/*
 * The way back over values computed before: nodes in graph->order, each node's value given (leaves:
 * LLM_OP_PARAM = wants a gradient, LLM_OP_INPUT = constant; ids and targets as integers). grads[node]: NULL,
 * or zeroed memory of its value's size that gains the gradient of `target` (one number) with respect to it;
 * leaves and intermediate nodes alike. Branches that lead to no PARAM are not walked. dropout as the run had
 * it, NULL where nothing was dropped. Same rules, same bits as llm_exec_backward.
 *
 * Of a node only name, op, n_inputs, inputs, attrs are read: shapes are those of the values. Operations whose
 * values do not fit one another are refused.
 */
extern LlmCode llm_tape_backward(const LlmGraph *graph, const LlmValue *values, int target,
	const LlmDropout *dropout, float *const *grads, const LlmAllocator *memory, LlmError *err);

#endif
