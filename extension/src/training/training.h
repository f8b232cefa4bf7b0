/* A model in training: locked and loaded, stepped in memory, written back, logged. */
#ifndef LLM_SRC_TRAINING_TRAINING_H
#define LLM_SRC_TRAINING_TRAINING_H

#include "postgres.h"

#include "engine/train.h"
#include "src/model/model_cache.h"
#include "src/training/batch.h"
#include "src/training/train_run.h"

/* What training holds; everything in a memory context of its own. */
typedef struct Training
{
	MemoryContext context;
	LoadedModel *m; /* its weights change */
	LlmTrainer *trainer;
	int64 step;                       /* of the model: how many it has behind it */
	char **store_model, **store_name; /* per node: the llm_param row it lives in; NULL: no row of its own */
	bool *own;                        /* per node: no other model's training changes it */
} Training;

/* What the log tells of a step. */
typedef struct Step
{
	double lr, norm, seconds;
	float loss;
	int64 tokens;
	uint32 data_crc; /* of the tokens and targets it saw */
} Step;

/* For this transaction: takes the right to train and the rows' locks, then loads. See training_lock.h. */
extern Training *TrainingOpen(const char *model, bool wait);
/* Loads weights and moments as the active snapshot sees them, without locks. Freed with the current memory
 * context. */
extern Training *TrainingLoad(const char *model);
extern void TrainingClose(Training *tr);
/*
 * One optimizer step over the `accumulation` micro-batches of rows with these ids; the loss is their mean.
 * Its place in the schedule is r->first_step's distance. Counts tr->step up.
 */
extern Step TrainingStep(Training *tr, const Recipe *r, const int64 *ids);
/* The step just made, as a row of llm_train_log. */
extern void TrainingLog(const Training *tr, const Recipe *r, const Step *step, const int64 *ids);
/* Weights and moments back to llm_param. */
extern void TrainingWrite(Training *tr);

/*
 * Steps up to `last`, or until `enough` says so after one of them; each logged, in memory of its own. data
 * NULL: the rows are ids[]. notice_every: steps between two NOTICEs, 0 none, -1 a tenth of the run.
 */
typedef bool (*TrainingEnough)(void *context, int64 steps);
typedef struct TrainingPlan
{
	const Recipe *recipe;
	Dataset *data;
	int64 *ids; /* room for a step's rows */
	int64 last, notice_every;
	int threads; /* 0: the session's */
	TrainingEnough enough;
	void *context;
} TrainingPlan;
extern Step TrainingSteps(Training *tr, const TrainingPlan *plan);

#endif
