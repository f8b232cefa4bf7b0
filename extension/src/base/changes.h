/*
 * Version numbers of models and tokenizers, which say whether a copy in memory is still what the tables hold;
 * and row triggers that do their work once per command and model.
 */
#ifndef LLM_SRC_BASE_CHANGES_H
#define LLM_SRC_BASE_CHANGES_H

#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"

/* The version of a model or tokenizer that the active snapshot sees; 0 where there is none. */
extern int64 LlmModelVersion(const char *model);
/*
 * Raised when changes of this session are rolled back, and with each CREATE EXTENSION. A copy made while a
 * command was changing rows may hold what no version names; it is good for the epoch it was made in alone.
 */
extern uint64 LlmEpoch(void);
/* Has this transaction written to a table that models read? */
extern bool LlmChanging(void);

/* ---- triggers ---- */

#define CHANGE_VERSION 1
#define CHANGE_GRAPH 2

/* A table that models read is being changed. */
extern void NoteChange(void);
/* True the first time in this command that `what` is to be done for the model. */
extern bool ChangeFirst(int what, const char *model);
/* While on, statements run by a trigger itself do not count as new commands. */
extern void ChangePause(bool on);
/* What the trigger was called for; ERROR when a query calls the function. */
extern TriggerData *ChangeTrigger(FunctionCallInfo fcinfo);
/* The text of a column of the changed row; NULL where the table has none. */
extern char *ChangedModel(TriggerData *trigger, HeapTuple tuple, const char *column);

#endif
