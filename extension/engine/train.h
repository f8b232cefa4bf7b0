/*
 * Training in memory: weights, gradients and AdamW moments of a model; forward pass, backward pass and
 * update. Storing the result is up to the caller.
 */
#ifndef LLM_TRAIN_H
#define LLM_TRAIN_H

#include "engine/execute.h"

typedef struct LlmTrainer
{
	LlmModel *model; /* its weights change; they must have been loaded with model->training set */
	const LlmAllocator *memory;
	size_t floats; /* of all parameters, in their layouts */
	float *store;  /* gradients, then first moments, then second moments */
	float **grad, **m,
		**v;         /* per node, in the layout of its weight (model.h); NULL if it is no param, or frozen */
	int64_t *offset; /* per node: its own step count minus the model's, usually 0 */
	int *owner;      /* per node: itself, or the earlier node whose parameter it shares */
	LlmKeeping keeping; /* of the values between forward and backward pass; set by the caller */
	bool spoilt;        /* the gradients come from a step that failed */
	LlmExec *exec;
} LlmTrainer;

typedef struct LlmHyper
{
	double lr, beta1, beta2, eps, weight_decay;
	double clip; /* largest global norm of the gradient; 0 = any */
} LlmHyper;

/*
 * Gradients and moments start at zero. `loss` is the node to minimise. A graph without trainable parameters
 * is refused.
 */
extern LlmCode llm_trainer_open(
	LlmModel *model, int loss, const LlmAllocator *memory, LlmTrainer **trainer, LlmError *err);
extern void llm_trainer_close(LlmTrainer *trainer);
/*
 * Ties node to the earlier node `owner`: they are one parameter, their gradients are summed, and node's
 * weights follow owner's. Their weights, gradients and moments are row-major from now on. weights: the
 * allocator that the model's own were loaded with. If either is frozen, both are.
 */
extern LlmCode llm_trainer_tie(
	LlmTrainer *trainer, int node, int owner, const LlmAllocator *weights, LlmError *err);
/*
 * Forward and backward pass of one micro-batch; adds weight times its gradient to those of the previous ones.
 * A loss that is a mean over n_i of a step's n targets, in k micro-batches, has weight n_i k / n, so that the
 * mean of the gradients is the gradient of the mean over the whole step. loss is not weighted. After an error
 * the next call starts from zero gradients: the step begins again.
 */
extern LlmCode llm_trainer_gradients(LlmTrainer *trainer, const LlmInput *inputs, int n_inputs,
	const LlmDropout *dropout, float weight, float *loss, LlmError *err);
/*
 * One AdamW step with the mean of `micro_batches` gradients, which then become zero. Matrices decay, vectors
 * do not, as in GPT-2. step counts from 1; offset holds the difference for a parameter with its own count.
 * norm is set to the norm of the gradient before clipping. A norm that is NaN or infinite changes nothing
 * and is an error.
 */
extern LlmCode llm_trainer_update(
	LlmTrainer *trainer, const LlmHyper *hyper, int64_t step, int micro_batches, double *norm, LlmError *err);

#endif
