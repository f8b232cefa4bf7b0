/*
 * The rows of llm_model_version, read and written without SQL: no privilege is needed, no trigger, rule or
 * policy applies, and no name is looked up that a role could give to something of its own. So whoever may
 * change what a model reads can raise its version, and nothing runs with rights that he does not have.
 */
#ifndef LLM_SRC_MODEL_VERSION_ROW_H
#define LLM_SRC_MODEL_VERSION_ROW_H

#include "postgres.h"

#include "nodes/lockoptions.h"
#include "nodes/pg_list.h"

/* A new number for the model; what it replaces is locked until the transaction ends. Returns the number. */
extern int64 VersionRaise(const char *model);
/* Locks a model's row as an UPDATE would. False: somebody holds it, and the policy is not to wait. */
extern bool VersionLock(const char *model, LockWaitPolicy policy);
/* Every model that has a version, in the order of their names. */
extern List *VersionModels(void);
/* Has llm_param rows of the model, whoever may see them? */
extern bool VersionHasParams(const char *model);
/* The model and those that use parameters of it as their own, in the order of their names. */
extern List *VersionSharers(const char *model);

#endif
