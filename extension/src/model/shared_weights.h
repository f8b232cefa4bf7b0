/* A model's packed weights in memory shared by all sessions. */
#ifndef LLM_SRC_MODEL_SHARED_WEIGHTS_H
#define LLM_SRC_MODEL_SHARED_WEIGHTS_H

#include "postgres.h"

#include "engine/model.h"
#include "src/base/shared_copy.h"

/*
 * Points model->weights into the shared copy of this version, which is made if there is none. False: the
 * weights are unchanged, and the caller loads them privately. The graph must be that of the version, and the
 * role must be permitted to read all its rows (visible.h). Raises the errors that loading raises; private
 * weights may then be left for the caller to free.
 */
extern bool SharedWeights(LlmModel *model, const char *name, int64 version, SharedCopy *copy);

#endif
