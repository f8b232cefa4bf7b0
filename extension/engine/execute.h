/*
 * The one executor: computes a node of a model from named inputs. A forward pass over a whole sequence, a
 * decode step that continues from cached keys and values, and the computation of any inner node are the same
 * run.
 */
#ifndef LLM_EXECUTE_H
#define LLM_EXECUTE_H

#include "engine/model.h"

typedef struct LlmInput
{
	const char *name;
	int ndim;
	int dims[LLM_MAX_DIMS];
	const float *floats; /* exactly one of the two is set */
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
 * Plans the computation of `target`. last_only: only the target's row at the last position is needed (if it
 * has the dimension T), and rows that nothing reads are not computed. capacity: the number of positions
 * allocated in the key/value caches; 0: no run continues another, and no keys are kept. The model must
 * outlive the executor.
 */
extern LlmCode llm_exec_open(const LlmModel *model, int target, bool last_only, int capacity,
	const LlmAllocator *memory, LlmExec **exec, LlmError *err);
/*
 * Computes target for T new positions after those of earlier runs; result is valid until the next run or
 * close. After an error the run can be repeated as if it had never started.
 */
extern LlmCode llm_exec_run(
	LlmExec *exec, const LlmInput *inputs, int n_inputs, LlmValue *result, LlmError *err);
/*
 * Provides memory for the target's value: an array of the caller for all floats of the shape, or NULL if it
 * has none. Called when a run reaches the target. A value that shares another value's memory stays there;
 * the result points to it.
 */
typedef float *(*LlmPlace)(void *context, const LlmValue *shape);
extern void llm_exec_place(LlmExec *exec, LlmPlace place, void *context);
/*
 * True if later runs can continue position by position; otherwise each run must start over with the whole
 * sequence.
 */
extern bool llm_exec_continues(const LlmExec *exec);
extern int llm_exec_length(const LlmExec *exec);
/*
 * Sequence i of the batch becomes the former sequence rows[i] (beam search). After an error the executor can
 * only be closed.
 */
extern LlmCode llm_exec_reorder(LlmExec *exec, const int *rows, int B, LlmError *err);
/* Frees the memory of values and gradients that the next run would otherwise reuse. */
extern void llm_exec_release(LlmExec *exec);
extern void llm_exec_close(LlmExec *exec);

/* The seed of random nodes outside of training; set by the extension. */
extern int llm_random_seed;

/*
 * Dropout and random nodes in training: they depend on (seed, step, micro_batch, node, element) alone. p 0
 * drops nothing.
 */
typedef struct LlmDropout
{
	float p; /* of nodes without a p of their own */
	uint64_t seed;
	uint32_t step, micro_batch;
} LlmDropout;

/* Random nodes of the next runs draw what a training's micro-batch with this key draws; nothing is dropped.
 */
extern void llm_exec_draw(LlmExec *exec, const LlmDropout *key);
/*
 * Switches to training: runs keep the values that llm_exec_backward needs and apply `dropout`. grads: the
 * arrays that llm_exec_backward will receive, or NULL. If they are known, a loss over large logits is
 * computed in chunks of rows and accumulates into grads during the forward pass, so the full logits are
 * never held in memory. After an error in a run or in the backward pass, the contents of grads are invalid.
 */
extern void llm_exec_train(LlmExec *exec, const LlmDropout *dropout, float *const *grads);
/*
 * How the values that the backward pass reads are kept until then. A node with the attribute `recompute` is
 * not kept: the backward pass computes its value again when it first needs it, with the same kernels in the
 * same order and the same random numbers, so that no bit depends on it. recompute: of all nodes that need a
 * gradient, only the values through which everything passes are kept, such as the residual stream between
 * two parts of a layer. bf16: what is kept is rounded to bf16, the nearest (ties to even), after the forward
 * pass has read it, so that loss and forward pass have the same bits, and gradients are near. Values that
 * select (ids, the input of topk, max, where …) are kept as they are. Called after llm_exec_train, which
 * keeps everything in float32.
 */
typedef struct LlmKeeping
{
	bool recompute, bf16;
} LlmKeeping;

extern void llm_exec_keep(LlmExec *exec, const LlmKeeping *keeping);
/* The gradients of the next training run are those of weight × target; called after llm_exec_train. */
extern void llm_exec_weigh(LlmExec *exec, float weight);
/*
 * The backward pass of the previous run: adds the gradient of the target, a single number, to grads[node]
 * (one array per parameter in the layout of its weight, see model.h; NULL for other nodes). The values of a
 * run that was not traced are freed on the way.
 */
extern LlmCode llm_exec_backward(LlmExec *exec, float *const *grads, LlmError *err);

#endif
