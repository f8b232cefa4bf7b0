/*
 * Training in memory: weights, gradients and AdamW's moments of a model, forward, backward and update. What
 * is to last is written back by the caller.
 */
#ifndef LLM_TRAIN_H
#define LLM_TRAIN_H

#include "engine/execute.h"

typedef struct LlmTrainer
{
	LlmModel *model; /* its weights change; they must have been loaded with model->training set */
	const LlmAllocator *memory;
	size_t floats; /* of all parameters, as they are laid out */
	float *store;  /* gradients, then first, then second moments */
	float **grad, **m,
		**v;         /* per node, laid out as its weight is (model.h); NULL where it is no param, or frozen */
	int64_t *offset; /* per node: its own count of steps less the model's; 0 */
	int *owner;      /* per node: itself, or the earlier node whose parameter it shares */
	bool spoilt;     /* the gradients are those of a step that failed */
	LlmExec *exec;
} LlmTrainer;

typedef struct LlmHyper
{
	double lr, beta1, beta2, eps, weight_decay;
	double clip; /* largest global norm of the gradient; 0 = any */
} LlmHyper;

/* Gradients and moments start at zero. loss is the node to make small. A graph that has nothing to train is
 * refused. */
extern LlmCode llm_trainer_open(
	LlmModel *model, int loss, const LlmAllocator *memory, LlmTrainer **trainer, LlmError *err);
extern void llm_trainer_close(LlmTrainer *trainer);
/*
 * node and the earlier `owner` are one parameter: their gradients add, and node follows owner's weights. All
 * of theirs is plain from now on. weights: what the model's own were loaded with. Where either is frozen both
 * are.
 */
extern LlmCode llm_trainer_tie(
	LlmTrainer *trainer, int node, int owner, const LlmAllocator *weights, LlmError *err);
/*
 * Forward and backward of one micro-batch; its gradient is added to those of the ones before. After an error
 * the next call begins with zeros: the step begins anew.
 */
extern LlmCode llm_trainer_gradients(LlmTrainer *trainer, const LlmInput *inputs, int n_inputs,
	const LlmDropout *dropout, float *loss, LlmError *err);
/*
 * One AdamW step with the mean of `micro_batches` gradients, then zero gradients. Matrices decay, vectors do
 * not, as in GPT-2. step counts from 1; a parameter whose own count differs has it in offset. norm gets the
 * gradient's length before clipping. A norm that is no number changes nothing and is an error.
 */
extern LlmCode llm_trainer_update(
	LlmTrainer *trainer, const LlmHyper *hyper, int64_t step, int micro_batches, double *norm, LlmError *err);

#endif
