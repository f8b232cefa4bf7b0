/* The tape's rows of a run as the engine walks them back. */
#ifndef LLM_SRC_TAPE_AUTOGRAD_H
#define LLM_SRC_TAPE_AUTOGRAD_H

#include "postgres.h"

#include "engine/tape.h"
#include "src/tensor/tensor.h"

/* What leads to one number: tensors as nodes in the order they were made. */
typedef struct Walk
{
	int64 run, target; /* ids */
	bool again;        /* its gradients were worked out before, and not all accumulated since */
	LlmGraph graph;
	int64 *ids;
	LlmValue *values;
	bool *wanted;     /* a leaf leads to it */
	float **grads;    /* of what is wanted */
	char **names;     /* of leaves */
	char **models;    /* of leaves that are a model's parameters */
	Tensor **waiting; /* of those: a gradient of another number, not accumulated yet */
} Walk;

/* Reads all that the gradients of tensor `target` need. ERROR where nothing leads from a leaf to it, or it is
 * not one number, or rows are missing or do not fit. */
extern Walk *WalkRead(int64 run, int64 target);
/* Does the graph fit its values? Then fills `wanted`. */
extern void WalkCheck(Walk *walk);
/* ERROR: row id of the tape is not what was recorded; what says how. */
extern void WalkBroken(int64 id, const char *what) __attribute__((noreturn));
/* Fills grads. */
extern void WalkBack(Walk *walk);
/* Writes llm_tensor_rt.grad of everything wanted; returns how many. wait: gradients of parameters wait for
 * llm_accumulate_grads. */
extern int64 WalkWrite(Walk *walk, bool wait);

#endif
