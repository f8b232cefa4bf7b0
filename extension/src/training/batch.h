/* Batches of a dataset's rows, determined by seed and step alone. */
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
	int64 epoch; /* the epoch whose shuffle is in `order`; -1 for none */
	int32 *order;
} Dataset;

typedef struct Batch
{
	int B, T;
	int32 *tokens, *targets; /* (B,T); shorter rows end in token 0 with target -1 */
	int64 scored;            /* number of targets that count in the loss */
} Batch;

/* The ids of a dataset's rows in order, in the current memory context; ERROR if there are none. */
extern Dataset *DatasetOpen(const char *name, uint64 seed);
/* Picks rows place … place + n - 1 of the endless sequence of epochs, each a fresh shuffle of all rows. */
extern void DatasetPick(Dataset *d, int64 place, int n, int64 *ids);
/*
 * Reads rows by id with the active snapshot, and checks them against the model's vocabulary and (counted) its
 * positions; ERROR if a row no longer exists.
 */
extern Batch *BatchRead(const int64 *ids, int n, const LoadedModel *m, bool counted);

#endif
