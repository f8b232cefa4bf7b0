/*
 * The rows of llm_model_version, read and written without SQL: no privilege is needed, no trigger, rule or
 * policy applies, and no name is looked up that a role could redirect to an object of its own. So every role
 * that may change a table that models read can raise the version, and no code runs with rights the role does
 * not have.
 */
#ifndef LLM_SRC_MODEL_VERSION_ROW_H
#define LLM_SRC_MODEL_VERSION_ROW_H

#include "postgres.h"

#include "nodes/lockoptions.h"
#include "nodes/pg_list.h"

/* Gives the model a new version number; the row it replaces stays locked until the transaction ends. Returns
 * the number. */
extern int64 VersionRaise(const char *model);
/* Locks a model's row as an UPDATE would. False if another transaction holds it and the policy is not to
 * wait. */
extern bool VersionLock(const char *model, LockWaitPolicy policy);
/* All models that have a version, ordered by name. */
extern List *VersionModels(void);
/* True if llm_param has rows of the model, whether or not the role may see them. */
extern bool VersionHasParams(const char *model);
/* The model and those that use its parameters as their own, ordered by name. */
extern List *VersionSharers(const char *model);

#endif
