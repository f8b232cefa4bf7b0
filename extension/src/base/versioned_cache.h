/*
 * What a session keeps in memory of rows that have a name and a version: its models and its tokenizers. A
 * copy is good exactly when its version is the one that the statement's own snapshot sees, so UPDATEs by
 * hand, rollbacks and REPEATABLE READ need no further care. Copies in use are pinned; an outdated one is
 * freed with its last pin.
 */
#ifndef LLM_SRC_BASE_VERSIONED_CACHE_H
#define LLM_SRC_BASE_VERSIONED_CACHE_H

#include "postgres.h"

#include "src/base/shared_copy.h"
#include "src/base/visible.h"

/* The head of a cached thing. */
typedef struct VersionedCopy
{
	struct VersionedCopy *next;
	const struct VersionedCache *cache;
	char *name;
	int64 version;
	uint64 epoch;    /* see LlmEpoch */
	uint64 snapshot; /* the number of the snapshot that it was last compared with; 0: none */
	uint64 used;     /* the copy with the least is evicted first */
	Visible visible; /* which rows it was read from */
	int pins;
	bool outdated; /* in no list any more; the last pin frees it */
	bool alone;    /* private by the setting, or made in the transaction that changed the rows */
	MemoryContext context;
	SharedCopy shared; /* the memory shared by all sessions; none: the copy owns its memory */
} VersionedCopy;

/* A kind of cached thing, which begins with a VersionedCopy. */
typedef struct VersionedCache
{
	VisibleKind rows;
	Size size; /* of the thing; it is zeroed before load */
	/*
	 * Reads it as the active snapshot sees its rows, in the caller's memory context: what the copy owns goes
	 * into copy->context and LlmSessionAllocator(), or into copy->shared where may_share says so. ERROR where
	 * there are no rows. argument: the caller's of VersionedGet or VersionedLoad.
	 */
	void (*load)(VersionedCopy *copy, bool may_share, void *argument);
	/* Frees what the copy holds of LlmSessionAllocator(), also of a half-loaded one. */
	void (*release)(VersionedCopy *copy);
} VersionedCache;

/* The number of the active snapshot and role: while it stays the same, the same rows are seen. */
extern uint64 SnapshotNumber(void);
/* The copy of this name, loaded where needed, and kept at least until `pin` is reset or deleted. */
extern VersionedCopy *VersionedGet(
	const VersionedCache *cache, const char *name, void *argument, MemoryContext pin);
/* A private copy for this caller alone, freed with `pin`. */
extern VersionedCopy *VersionedLoad(
	const VersionedCache *cache, const char *name, void *argument, MemoryContext pin);
/* Frees the private copy unused longest; false when all are in use. For MemoryOnPressure. */
extern bool VersionedEvict(void);

#endif
