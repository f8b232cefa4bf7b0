/* Steps of llm_train_log computed again, in memory: nothing is locked and nothing is written. */
#ifndef LLM_SRC_TRAINING_REPLAY_H
#define LLM_SRC_TRAINING_REPLAY_H

#include "postgres.h"

#include "src/training/training.h"

/* A row of llm_train_log. */
typedef struct Logged
{
	int64 run, step;
	float loss;
	double norm;
	int64 *ids;
	int n_ids;
	uint32 data_crc;
} Logged;

/* The rows with these ids (bigint[]) by step, in the current memory context. */
extern Logged *ReplayLog(Datum ids, int *count);
/* Sets weights, moments and steps to a checkpoint's, which is of this model. */
extern void ReplayCheckpoint(Training *tr, int64 id);
/* ERROR unless this is the next step of the training, with as many rows as its recipe has. */
extern void ReplayCheck(const Training *tr, const Recipe *r, const Logged *logged);
/* ERROR if the step's rows do not hold what they held. */
extern void ReplayCheckData(const Step *step, const Logged *logged);
/* True if loss and gradient norm are the logged ones to the last bit. */
extern bool ReplayMatches(const Step *step, const Logged *logged);

#endif
