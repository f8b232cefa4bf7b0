/* Batches of a dataset's rows, determined by seed and step alone. */
#ifndef LLM_SRC_TRAINING_BATCH_H
#define LLM_SRC_TRAINING_BATCH_H

#include "postgres.h"

#include "engine/execute.h"
#include "formats/crc32.h"
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
	int n,
		n_positions; /* inputs; how many of them are positions that the rows do not hold: 0 or 1, the last */
	int n_columns;   /* how many are the columns tokens and target, the first */
	LlmInput *in;    /* (B,…); rows of fewer tokens than others end in token 0 with target -1 */
	int64 weight;    /* of its mean loss: targets that count, or rows if no targets are ids */
	int64 tokens;    /* targets that count, or tokens if no targets are ids */
} Batch;

/* The ids of a dataset's rows in order, in the current memory context; ERROR if there are none. */
extern Dataset *DatasetOpen(const char *name, uint64 seed);
/* Picks rows place … place + n - 1 of the endless sequence of epochs, each a fresh shuffle of all rows. */
extern void DatasetPick(Dataset *d, int64 place, int n, int64 *ids);
/*
 * Reads rows by id with the active snapshot, in the current memory context, and checks them against the graph
 * of node `loss`. positions: (T), or NULL to count them, up to the model's. ERROR if a row no longer exists,
 * lacks an input, has one too many, or does not fit the graph or the other rows.
 */
extern Batch *BatchRead(const int64 *ids, int n, const LoadedModel *m, int loss, const LlmInput *positions);
/* Adds what the rows held; the same for tokens and targets as for arrays of them. */
extern void BatchChecksum(const Batch *b, LlmCrc32 *crc);

#endif
