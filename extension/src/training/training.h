/* A model in training: it is locked and loaded, trained in memory, written back and logged. */
#ifndef LLM_SRC_TRAINING_TRAINING_H
#define LLM_SRC_TRAINING_TRAINING_H

#include "postgres.h"

#include "engine/train.h"
#include "src/base/progress.h"
#include "src/model/model_cache.h"
#include "src/training/batch.h"
#include "src/training/train_run.h"

/* The state of a training; everything is in a memory context of its own. */
typedef struct Training
{
	MemoryContext context;
	LoadedModel *m; /* its weights are modified in place */
	LlmTrainer *trainer;
	int loss;                         /* the node that it minimises */
	int64 step;                       /* number of steps the model has been trained */
	char **store_model, **store_name; /* per node: its row of llm_param; NULL: no row of its own */
	bool *own;                        /* per node: true if no other model's training changes it */
} Training;

/* The figures of a step for the log. */
typedef struct Step
{
	double lr, norm, seconds;
	float loss;
	int64 tokens;
	uint32 data_crc; /* of what the step's rows held */
} Step;

/* For this transaction: takes the right to train and the row locks, then loads. See training_lock.h. */
extern Training *TrainingOpen(const char *model, bool wait, Progress *progress);
/* Loads weights and moments as the active snapshot sees them, without locks. Freed with the current memory
 * context. */
extern Training *TrainingLoad(const char *model);
extern void TrainingClose(Training *tr);
/*
 * One optimizer step over the `accumulation` micro-batches of the rows with these ids; loss and gradient are
 * the means over all of their targets, however those are spread over the micro-batches; a graph without
 * targets that are ids counts rows in their place. The step's position
 * in the learning rate schedule is counted from r->first_step. Increments tr->step.
 */
extern Step TrainingStep(Training *tr, const Recipe *r, const int64 *ids);
/* Its parts: the rows read, with the step's tokens and checksum; gradients, whose result is the loss; update.
 */
extern Batch **TrainingBatches(const Training *tr, const Recipe *r, const int64 *ids, Step *step);
extern float TrainingGradients(Training *tr, const Recipe *r, Batch **batches);
extern void TrainingUpdate(Training *tr, const Recipe *r, Step *step);
/* Of the next step: the key of a micro-batch's random numbers, and the settings of its update. */
extern LlmDropout TrainingDropout(const Training *tr, const Recipe *r, int micro_batch);
extern LlmHyper TrainingHyper(const Training *tr, const Recipe *r);
/* Writes the step just made as a row of llm_train_log. */
extern void TrainingLog(const Training *tr, const Recipe *r, const Step *step, const int64 *ids);
/* Writes weights and moments back to llm_param. */
extern void TrainingWrite(Training *tr);

/*
 * Trains up to step `last`, or until `enough` returns true after a step; each step is logged and uses a
 * memory context of its own. data NULL: the rows are ids[]. notice_every: steps between two NOTICEs; 0: none,
 * -1: a tenth of the run.
 */
typedef bool (*TrainingEnough)(void *context, int64 steps);
typedef struct TrainingPlan
{
	const Recipe *recipe;
	Dataset *data;
	int64 *ids; /* buffer for the ids of a step's rows */
	int64 last, notice_every;
	int threads; /* 0: the session's */
	TrainingEnough enough;
	void *context;
	Progress *progress;
} TrainingPlan;
extern Step TrainingSteps(Training *tr, const TrainingPlan *plan);

#endif
