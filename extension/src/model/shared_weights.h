/* A model's packed weights in memory that all sessions share. */
#ifndef LLM_SRC_MODEL_SHARED_WEIGHTS_H
#define LLM_SRC_MODEL_SHARED_WEIGHTS_H

#include "postgres.h"

#include "engine/model.h"
#include "src/base/shared_copy.h"

/*
 * Points model->weights into the shared copy of this version, which is made where there is none. False: the
 * weights are untouched, for the caller to load privately. The graph must be the version's, and the role
 * must be one that may read all its rows (visible.h). Raises what loading raises; then private weights
 * may be left for the caller to free.
 */
extern bool SharedWeights(LlmModel *model, const char *name, int64 version, SharedCopy *copy);

#endif
