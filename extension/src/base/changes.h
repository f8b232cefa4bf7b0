/*
 * Version numbers of models and tokenizers, which tell whether a copy in memory still matches the tables; and
 * helpers for row triggers that do their work once per command and model.
 */
#ifndef LLM_SRC_BASE_CHANGES_H
#define LLM_SRC_BASE_CHANGES_H

#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"

/* The version of a model or tokenizer that the active snapshot sees; 0 if there is none. */
extern int64 ModelVersion(const char *model);
/*
 * Incremented when changes of this session are rolled back, and with each CREATE EXTENSION. A copy made while
 * a command was changing rows may hold a state that no version number identifies; it is valid only in the
 * epoch in which it was made.
 */
extern uint64 ChangeEpoch(void);
/* True if this transaction has written to a table that models read. */
extern bool ChangePending(void);

/* ---- triggers ---- */

#define CHANGE_VERSION 1
#define CHANGE_GRAPH 2

/* Records that this transaction changes a table that models read. */
extern void NoteChange(void);
/* True the first time in this command that `what` is due for the model. */
extern bool ChangeFirst(int what, const char *model);
/* While on, statements executed by a trigger do not count as new commands. */
extern void ChangePause(bool on);
/* The trigger's context; ERROR if the function is called from a query. */
extern TriggerData *ChangeTrigger(FunctionCallInfo fcinfo);
/* The text of a column of the changed row; NULL if the table has no such column. */
extern char *ChangedModel(TriggerData *trigger, HeapTuple tuple, const char *column);

#endif
