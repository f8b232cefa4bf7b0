/* Who trains a model: one session at a time, and no hand-made change in between. */
#ifndef LLM_SRC_MODEL_TRAINING_LOCK_H
#define LLM_SRC_MODEL_TRAINING_LOCK_H

#include "postgres.h"

#include "storage/lock.h"

/*
 * The right to train a model, and those whose parameters it shares, until the transaction ends, or (session)
 * until TrainingUnlock, across transactions. Where another has it: ERROR that names it, or (wait) waits.
 * Returns the locks' keys, in the current memory context.
 */
typedef struct TrainingKeys
{
	int count;
	LOCKTAG keys[FLEXIBLE_ARRAY_MEMBER];
} TrainingKeys;
extern TrainingKeys *TrainingLock(const char *model, bool session, bool wait);
/* Gives back a session's right; safe in the middle of an error. */
extern void TrainingUnlock(const TrainingKeys *keys);
/*
 * Locks what training writes, until the transaction ends: the model's version rows and its parameters' rows,
 * shared sources included, and (right) the right to train. Where other transactions hold some of them: false,
 * and no row is locked; or (wait) waits, holding none of them meanwhile. False after waiting: row security
 * keeps this role from changing some.
 */
extern bool TrainingLockRows(const char *model, bool right, bool wait);
/* The ERROR for that false. */
extern void TrainingRowsHeld(const char *model) __attribute__((noreturn));
/* Does another transaction wait for this one? */
extern bool TrainingHasWaiters(void);

#endif
