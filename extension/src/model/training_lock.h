/* Locks for training a model: one session at a time, with no hand-made change in between. */
#ifndef LLM_SRC_MODEL_TRAINING_LOCK_H
#define LLM_SRC_MODEL_TRAINING_LOCK_H

#include "postgres.h"

#include "storage/lock.h"

/*
 * Takes the right to train a model and those whose parameters it shares, until the transaction ends, or
 * (session) across transactions until TrainingUnlock. If another session has it: an ERROR that names that
 * session, or (wait) waits. Returns the locks' keys, in the current memory context.
 */
typedef struct TrainingKeys
{
	int count;
	LOCKTAG keys[FLEXIBLE_ARRAY_MEMBER];
} TrainingKeys;
extern TrainingKeys *TrainingLock(const char *model, bool session, bool wait);
/* Releases a session's right to train; safe during error handling. */
extern void TrainingUnlock(const TrainingKeys *keys);
/*
 * Locks all rows that training writes until the transaction ends: the model's version rows and its
 * parameters' rows, shared sources included, and (right) the right to train. If other transactions hold some
 * of the rows: returns false with no row locked, or (wait) waits while holding none of them. False after
 * waiting means that row security keeps this role from changing some of them.
 */
extern bool TrainingLockRows(const char *model, bool right, bool wait);
/* Raises the ERROR for a false from TrainingLockRows. */
extern void TrainingRowsHeld(const char *model) __attribute__((noreturn));
/* True if another transaction waits for this one. */
extern bool TrainingHasWaiters(void);

#endif
