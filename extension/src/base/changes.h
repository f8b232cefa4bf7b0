/* Row triggers that do their work once per command and model (version.c). */
#ifndef LLM_SRC_BASE_CHANGES_H
#define LLM_SRC_BASE_CHANGES_H

#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"

#define CHANGE_VERSION 1
#define CHANGE_GRAPH 2

/* True the first time in this command that `what` is to be done for the model. */
extern bool ChangeFirst(int what, const char *model);
/* While on, statements run by a trigger itself do not count as new commands. */
extern void ChangePause(bool on);
/* What the trigger was called for; ERROR when a query calls the function. */
extern TriggerData *ChangeTrigger(FunctionCallInfo fcinfo);
/* The text of a column of the changed row; NULL where the table has none. */
extern char *ChangedModel(TriggerData *trigger, HeapTuple tuple, const char *column);

#endif
