/* The settings of a training run: a row of llm_train_run, checked. */
#ifndef LLM_SRC_TRAINING_TRAIN_RUN_H
#define LLM_SRC_TRAINING_TRAIN_RUN_H

#include "postgres.h"

#include "engine/train.h"

typedef struct Recipe
{
	LlmHyper hyper; /* lr is set for each step */
	double lr_max, min_lr, dropout_p;
	int64 run, first_step; /* -1 until the run has begun */
	int64 warmup, n_steps;
	int batch_size, accumulation;
	uint64 seed;
	LlmKeeping keeping;
	char *model, *dataset;  /* dataset NULL: the caller names the rows */
	const int32 *positions; /* NULL: 0 … T-1 */
	int n_positions;
} Recipe;

/* Reads a value of type llm_train_run; ERROR if a number is out of range. Allocated in the current memory
 * context. */
extern Recipe *RecipeOfRow(Datum row);
/* The row of a run that has begun; ERROR if there is none. */
extern Recipe *RecipeOfRun(int64 run);
/* Begins or resumes the run of this training: sets r->run and r->first_step. quiet: no NOTICE that it
 * resumes. */
extern void RecipeBegin(Recipe *r, Datum row, int64 step, bool resume, bool quiet);

#endif
