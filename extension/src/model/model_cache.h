/* The session's models, with the graph checked and the weights packed and shared with other sessions if
 * possible. */
#ifndef LLM_SRC_MODEL_MODEL_CACHE_H
#define LLM_SRC_MODEL_MODEL_CACHE_H

#include "postgres.h"

#include "engine/model.h"
#include "src/base/versioned_cache.h"

typedef struct LoadedModel
{
	VersionedCopy copy;
	const char *name;
	LlmModel model;
} LoadedModel;

/*
 * The model as the statement's snapshot sees it, loaded if needed, and kept at least until `pin` is reset or
 * deleted. ERROR if there is no such model, or if parameters are missing or have the wrong shape.
 */
extern LoadedModel *ModelOf(const char *name, MemoryContext pin);
/*
 * ModelOf, which calls check(model, argument) before it reads weights that are not in memory: only the graph
 * is there then, and an ERROR of a wrong argument comes at once.
 */
typedef void (*ModelCheck)(LoadedModel *m, void *argument);
extern LoadedModel *ModelChecked(const char *name, ModelCheck check, void *argument, MemoryContext pin);
/* A private copy whose weights may be changed; freed with `pin`. */
extern LoadedModel *ModelForTraining(const char *name, MemoryContext pin);

#endif
