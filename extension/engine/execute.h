/*
 * The one executor: computes a node of a model from named inputs. A forward of a whole text, a decode step
 * that continues from cached keys and values, and any node in between are the same run.
 */
#ifndef LLM_EXECUTE_H
#define LLM_EXECUTE_H

#include "engine/model.h"

typedef struct LlmInput
{
	const char *name;
	int ndim;
	int dims[LLM_MAX_DIMS];
	const float *floats; /* one of the two */
	const int32_t *integers;
} LlmInput;

typedef struct LlmValue
{
	int ndim;
	int dims[LLM_MAX_DIMS];
	size_t numel;
	const float *floats;
	const int32_t *integers;
} LlmValue;

typedef struct LlmExec LlmExec;

/*
 * Plans the computation of `target`. last_only: only the last position's row of it is wanted (where it has
 * the dimension T), and rows that nobody reads are not computed. capacity: positions the key/value caches
 * have room for; 0: no run continues another, and no keys are kept. The model must outlive the run.
 */
extern LlmCode llm_exec_open(const LlmModel *model, int target, bool last_only, int capacity,
	const LlmAllocator *memory, LlmExec **exec, LlmError *err);
/*
 * Computes target for T new positions after those of earlier runs; result lives until the next run or close.
 * After an error the run can be tried again, as if it had not been.
 */
extern LlmCode llm_exec_run(
	LlmExec *exec, const LlmInput *inputs, int n_inputs, LlmValue *result, LlmError *err);
/*
 * Where the target's value is to be written: memory of the caller for as many floats as the shape has, NULL
 * where there is none. It is asked for when a run comes to the target. Values that are views of others stay
 * where they are; the result says where.
 */
typedef float *(*LlmPlace)(void *context, const LlmValue *shape);
extern void llm_exec_place(LlmExec *exec, LlmPlace place, void *context);
/* May later runs continue, position by position? Else each must start over with the whole text. */
extern bool llm_exec_continues(const LlmExec *exec);
extern int llm_exec_length(const LlmExec *exec);
/* Sequence i of the batch becomes what sequence rows[i] was (beam search). After an error only close is left.
 */
extern LlmCode llm_exec_reorder(LlmExec *exec, const int *rows, int B, LlmError *err);
/* Gives back the memory of values and gradients that the next run would use again. */
extern void llm_exec_release(LlmExec *exec);
extern void llm_exec_close(LlmExec *exec);

/* Dropout in training: masks depend on (seed, step, micro_batch, node, element) alone. p 0 drops nothing. */
typedef struct LlmDropout
{
	float p; /* of nodes that state none of their own */
	uint64_t seed;
	uint32_t step, micro_batch;
} LlmDropout;

/*
 * From now on runs keep what llm_exec_backward needs, and drop as told. grads: the arrays that it will be
 * given, or NULL; where they are known, a loss over large logits never holds them all, and adds to grads in
 * the run already. After an error in a run or on the way back grads are then not to be used.
 */
extern void llm_exec_train(LlmExec *exec, const LlmDropout *dropout, float *const *grads);
/*
 * Gradients of the target, a single number, of the run before: grads[node] (one array per parameter, laid out
 * as its weight is, see model.h; NULL for other nodes) gains them. The values of a run that was not
 * traced are used up by it.
 */
extern LlmCode llm_exec_backward(LlmExec *exec, float *const *grads, LlmError *err);

#endif
