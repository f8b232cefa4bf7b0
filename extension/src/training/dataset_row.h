/* A row of llm_dataset as inputs of a graph, checked against what the graph declares. */
#ifndef LLM_SRC_TRAINING_DATASET_ROW_H
#define LLM_SRC_TRAINING_DATASET_ROW_H

#include "postgres.h"

#include "engine/execute.h"
#include "src/model/model_cache.h"

typedef struct DatasetRow
{
	int64 id;
	const char *dataset;
	int length;    /* of tokens and target; -1: the graph reads neither of these columns */
	int n_columns; /* how many of the inputs are these columns */
	int n;
	LlmInput *in; /* (T) of the columns, then the named ones in the row's order; all without B */
} DatasetRow;

/* The sizes that rows of a batch agree on so far, of the names in the graph's shapes. */
typedef struct BatchSizes
{
	const LoadedModel *m;
	int rows;
	LlmSizes sizes;
} BatchSizes;

/*
 * Reads a row by its id with the active snapshot, in the current memory context, inside SPI_connect. ERROR if
 * it does not exist, is not well formed, or names what is no input of the graph.
 */
extern DatasetRow *DatasetRowRead(int64 id, const LoadedModel *m);
/* ERROR unless the row's tensors have the shapes that the graph and the rows before it demand. */
extern void DatasetRowFits(const DatasetRow *row, BatchSizes *batch);
/* ERROR unless the row has every input that node `loss` reads; positions are counted where there are tokens.
 */
extern void DatasetRowComplete(const DatasetRow *row, const BatchSizes *batch, int loss);
/* The row's input of this name, or NULL. */
extern const LlmInput *DatasetRowInput(const DatasetRow *row, const char *name);
/* True if the row's inputs are stacked along a first dimension B. */
extern bool IsStacked(const LlmNode *node);

#endif
