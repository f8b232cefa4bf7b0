/* The session's models: graph checked, weights packed, shared with other sessions where possible. */
#ifndef LLM_SRC_MODEL_MODEL_CACHE_H
#define LLM_SRC_MODEL_MODEL_CACHE_H

#include "postgres.h"

#include "engine/model.h"
#include "src/base/shared_copy.h"
#include "src/base/visible.h"

typedef struct LoadedModel
{
	struct LoadedModel *next;
	char *name;
	int64 version;
	uint64 epoch;
	Visible visible; /* of which rows it is */
	uint64 used;     /* for giving up the one unused longest */
	int pins;
	bool outdated; /* no longer in the list; the last pin frees it */
	bool alone;    /* private by the setting, or made in the transaction that changed it */
	MemoryContext context;
	SharedCopy shared; /* where the weights lie, unless they are this session's own */
	LlmModel model;
} LoadedModel;

/*
 * The model as the statement's snapshot sees it, loaded where needed, and kept at least until `pin` is reset
 * or deleted. ERROR where there is no such model, or parameters are missing or misshapen.
 */
extern LoadedModel *ModelOf(const char *name, MemoryContext pin);
/* A copy of one's own whose weights may be changed; gone with `pin`. */
extern LoadedModel *ModelForTraining(const char *name, MemoryContext pin);
/* Gives up the private copy unused longest; false when all are in use. */
extern bool ModelEvict(void);

#endif
