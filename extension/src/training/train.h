/* Arguments shared by the training calls. */
#ifndef LLM_SRC_TRAINING_TRAIN_H
#define LLM_SRC_TRAINING_TRAIN_H

#include "postgres.h"

#include "fmgr.h"

/* grad_workers or prune_workers: 1 or more, or 0 if NULL. */
extern int ThreadsArgument(FunctionCallInfo fcinfo, int n, const char *name);
/* notice_every: -1 if NULL. */
extern int64 NoticeArgument(FunctionCallInfo fcinfo, int n);

#endif
