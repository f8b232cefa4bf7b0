/* Version numbers of models: what says whether a copy in memory is still what the tables hold. */
#ifndef LLM_SRC_MODEL_VERSION_H
#define LLM_SRC_MODEL_VERSION_H

#include "postgres.h"

/* The version of a model or tokenizer that the active snapshot sees; 0 where there is none. */
extern int64 LlmModelVersion(const char *model);
/*
 * Raised when changes of this session are rolled back, and with each CREATE EXTENSION. A copy made while a
 * command was changing rows may hold what no version names; it is good for the epoch it was made in alone.
 */
extern uint64 LlmEpoch(void);
/* Has this transaction written to a table that models read? */
extern bool LlmChanging(void);

#endif
