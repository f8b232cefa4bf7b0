/* A run's tape as a graph for the engine's backward pass. */
#ifndef LLM_SRC_TAPE_AUTOGRAD_H
#define LLM_SRC_TAPE_AUTOGRAD_H

#include "postgres.h"

#include "engine/tape.h"
#include "src/tensor/tensor.h"

/* The operations that lead to one scalar: tensors as nodes, in the order of their creation. */
typedef struct Backward
{
	int64 run, target; /* ids */
	bool again;        /* its gradients were computed before and are not all accumulated yet */
	LlmGraph graph;
	int64 *ids;
	LlmValue *values;
	bool *wanted;     /* depends on a leaf */
	float **grads;    /* of the wanted nodes */
	char **names;     /* of leaves */
	char **models;    /* of leaves that are a model's parameters */
	Tensor **waiting; /* of those: the gradient of another scalar, not accumulated yet */
} Backward;

/* Reads everything that the gradients of tensor `target` need. ERROR if it depends on no leaf, is not a
 * scalar, or rows are missing or inconsistent. */
extern Backward *BackwardRead(int64 run, int64 target);
/* Checks that the graph matches its values, then fills `wanted`. */
extern void BackwardCheck(Backward *pass);
/* ERROR: row `id` of the tape is not what was recorded; `what` describes the difference. */
extern void TapeBroken(int64 id, const char *what) __attribute__((noreturn));
/* Runs the backward pass, which fills grads. */
extern void BackwardRun(Backward *pass);
/* Writes llm_tensor_rt.grad of all wanted nodes; returns their count. wait: parameters' gradients are kept
 * for llm_accumulate_grads. */
extern int64 BackwardWrite(Backward *pass, bool wait);

#endif
