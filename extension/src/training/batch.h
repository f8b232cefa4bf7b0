/* Batches of a dataset's rows, chosen by seed and step alone. */
#ifndef LLM_SRC_TRAINING_BATCH_H
#define LLM_SRC_TRAINING_BATCH_H

#include "postgres.h"

#include "engine/execute.h"
#include "src/model/model_cache.h"

typedef struct Dataset
{
	const char *name;
	int64 *ids;
	int64 count;
	uint64 seed;
	int64 epoch; /* whose order `order` holds; -1 none */
	int32 *order;
} Dataset;

typedef struct Batch
{
	int B, T;
	int32 *tokens, *targets; /* (B,T); shorter rows end in token 0 with target -1 */
	int64 scored;            /* targets that count */
} Batch;

/* The ids of a dataset's rows in order, in the current memory context; ERROR where there are none. */
extern Dataset *DatasetOpen(const char *name, uint64 seed);
/* Row numbers place … place + n - 1 of the endless sequence of epochs, each a fresh shuffle of all rows. */
extern void DatasetPick(Dataset *d, int64 place, int n, int64 *ids);
/*
 * Rows by id, by the active snapshot, checked against the model's vocabulary and (counted) its positions;
 * ERROR where one is gone.
 */
extern Batch *BatchRead(const int64 *ids, int n, const LoadedModel *m, bool counted);

#endif
