/* A model in training: locked and loaded, stepped in memory, written back, logged. */
#ifndef LLM_SRC_TRAINING_H
#define LLM_SRC_TRAINING_H

#include "postgres.h"

#include "engine/train.h"
#include "src/model_cache.h"

/* What one training call needs; everything in its own memory context. */
typedef struct Training
{
	MemoryContext context;
	LoadedModel *m;
	LlmTrainer *trainer;
	int64 step;                       /* of the model, before this call */
	char **store_model, **store_name; /* per node: the llm_param row it lives in */
} Training;

/* Arguments of llm_train_run, resolved by SQL. */
typedef struct Recipe
{
	LlmHyper hyper;
	double lr_max, min_lr, dropout_p;
	int64 warmup, n_steps;
	int batch_size, accumulation;
	uint64 seed;
} Recipe;

/* What the log tells of a step. */
typedef struct Step
{
	double lr, norm, seconds;
	float loss;
	int64 tokens;
	uint32 data_crc; /* of the tokens and targets it saw */
} Step;

/* Locks the model, then loads its weights and moments into the current memory context. */
extern Training *TrainingOpen(const char *model);
/*
 * One optimizer step, the nth of n_steps by the schedule, over `accumulation` micro-batches of the rows with
 * these ids; the loss is their mean. Counts tr->step up.
 */
extern Step TrainingStep(Training *tr, const Recipe *r, int64 nth, const int64 *ids);
/* The step just made, as a row of llm_train_log. */
extern void TrainingLog(const Training *tr, const Recipe *r, const Step *step, const int64 *ids, int rows);
/* Weights and moments back to llm_param. */
extern void TrainingWrite(Training *tr);

#endif
