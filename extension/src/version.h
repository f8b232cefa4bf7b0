/* Version numbers of models: what says whether a copy in memory is still what the tables hold. */
#ifndef LLM_SRC_VERSION_H
#define LLM_SRC_VERSION_H

#include "postgres.h"

/* The version of a model or tokenizer that the active snapshot sees; 0 where there is none. */
extern int64 LlmModelVersion(const char *model);

#endif
