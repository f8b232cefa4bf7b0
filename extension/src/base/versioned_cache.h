/*
 * A session's cache of things that are read from rows with a name and a version: its models and its
 * tokenizers. A copy is valid exactly if its version is the one that the statement's own snapshot sees, so
 * UPDATEs by hand, rollbacks and REPEATABLE READ need no further care. Copies in use are pinned; an outdated
 * one is freed with its last pin.
 */
#ifndef LLM_SRC_BASE_VERSIONED_CACHE_H
#define LLM_SRC_BASE_VERSIONED_CACHE_H

#include "postgres.h"

#include "src/base/shared_copy.h"
#include "src/base/visible.h"

/* The head of a cached object. */
typedef struct VersionedCopy
{
	struct VersionedCopy *next;
	const struct VersionedCache *cache;
	char *name;
	int64 version;
	uint64 epoch;    /* see ChangeEpoch */
	uint64 snapshot; /* number of the snapshot against which it was last checked; 0 for none */
	uint64 used;     /* the copy with the smallest value is evicted first */
	Visible visible; /* the rows it was read from */
	int pins;
	bool outdated; /* no longer in the list; the last pin frees it */
	bool alone;    /* private because of the setting, or made in the transaction that changed the rows */
	MemoryContext context;
	SharedCopy shared; /* shared by all sessions; if unused, the copy owns its memory */
} VersionedCopy;

/* A kind of cached object, whose struct begins with a VersionedCopy. */
typedef struct VersionedCache
{
	VisibleKind rows;
	Size size; /* of the object; it is zeroed before load */
	/*
	 * Reads the object's rows with the active snapshot, in the caller's memory context: memory owned by the
	 * copy is allocated in copy->context and by SessionAllocator(), or is in copy->shared if may_share
	 * permits it. ERROR if there are no rows. argument is the one passed to VersionedGet or VersionedLoad.
	 */
	void (*load)(VersionedCopy *copy, bool may_share, void *argument);
	/* Frees what the copy allocated by SessionAllocator(), also for a half-loaded copy. */
	void (*release)(VersionedCopy *copy);
} VersionedCache;

/* A number for the active snapshot and role: while it stays the same, the same rows are visible. */
extern uint64 SnapshotNumber(void);
/* The copy of this name, loaded where needed, and kept at least until `pin` is reset or deleted. */
extern VersionedCopy *VersionedGet(
	const VersionedCache *cache, const char *name, void *argument, MemoryContext pin);
/* A private copy for this caller alone, freed with `pin`. */
extern VersionedCopy *VersionedLoad(
	const VersionedCache *cache, const char *name, void *argument, MemoryContext pin);
/* Frees the least recently used private copy; false if all are in use. For MemoryOnPressure. */
extern bool VersionedEvict(void);

#endif
