/*
 * Traced runs, which keep every value, and the backward pass over values computed earlier: the interface
 * between the executor and a tape stored as rows.
 */
#ifndef LLM_TAPE_H
#define LLM_TAPE_H

#include "engine/execute.h"

/*
 * From now on runs keep every value, and attention's scores and probabilities, and measure the time of each
 * op. Training dropout is not applied. A traced run gives the same bits as an untraced one.
 */
extern void llm_exec_trace(LlmExec *exec);

typedef struct LlmTraced
{
	LlmValue value;         /* floats NULL: a parameter kept in packed panels only */
	LlmValue scores, probs; /* of attention, (B,NH,queries,keys); numel 0: none */
	int64_t flops, bytes;   /* as llm_op_cost counts them */
	double microseconds;
	bool ran; /* the target depends on it; otherwise nothing above is set */
} LlmTraced;

/* The last run's values of a node; they are valid until the next run or close. */
extern void llm_exec_traced(const LlmExec *exec, int node, LlmTraced *out);

/*
 * Counts floating-point operations (a multiplication and its addition are two) and the bytes of the inputs
 * read and of the value written. Only the node's op and attrs are used; first: its first input (NULL: it has
 * none); read: the elements of all its inputs together.
 */
extern void llm_op_cost(const LlmNode *node, const LlmValue *first, size_t read, const LlmValue *value,
	int64_t *flops, int64_t *bytes);

/* Pairs of query and key in one head of an attention node, for the last `queries` of `keys` positions. */
extern int64_t llm_attention_pairs(const LlmNode *node, int64_t queries, int64_t keys);

/*
 * The backward pass over values computed earlier: nodes in graph->order, each node's value given (leaves:
 * LLM_OP_PARAM = needs a gradient, LLM_OP_INPUT = constant; ids and targets as integers). grads[node]: NULL,
 * or zeroed memory of its value's size, to which the gradient of `target` (one number) with respect to that
 * node is added; leaves and intermediate nodes alike. Branches without any PARAM are skipped. dropout: as in
 * the forward pass, NULL if none was applied. Same rules, same bits as llm_exec_backward.
 *
 * Only name, op, n_inputs, inputs and attrs of a node are read: shapes are those of the values. Operations
 * whose values do not fit one another are refused.
 */
extern LlmCode llm_tape_backward(const LlmGraph *graph, const LlmValue *values, int target,
	const LlmDropout *dropout, float *const *grads, const LlmAllocator *memory, LlmError *err);

#endif
