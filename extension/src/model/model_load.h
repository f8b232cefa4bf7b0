/* A model's weights from the rows of llm_param. */
#ifndef LLM_SRC_MODEL_MODEL_LOAD_H
#define LLM_SRC_MODEL_MODEL_LOAD_H

#include "postgres.h"

#include "engine/model.h"

/* Called when a node's weight is in memory; false stops the loading. */
typedef bool (*ModelLoaded)(LlmModel *model, int node, void *context);

/*
 * Reads every parameter of the model's graph as the statement's snapshot sees it, into memory of
 * SessionAllocator that the caller frees, on error too. ERROR if parameters are missing or have the wrong
 * shape. loaded may be NULL.
 */
extern bool ModelLoadWeights(LlmModel *model, const char *name, ModelLoaded loaded, void *context);

#endif
