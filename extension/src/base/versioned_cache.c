#include "src/base/versioned_cache.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "src/base/changes.h"
#include "src/base/settings.h"

/* Each mapped copy keeps a file open, so a session maps at most this many of each kind. */
#define MAPPED_MAX 32

static VersionedCopy *copies = NULL;
static uint64 clock_of_uses = 0;

/* ---- identity of the snapshot ---- */

/* Two statements with the same mark see the same rows. */
typedef struct SnapshotMark
{
	LocalTransactionId transaction;
	SubTransactionId subtransaction;
	CommandId command;
	uint64 completions;
	TransactionId xmin, xmax;
	uint32 xcnt;
	Oid user; /* not part of the snapshot, but rights are checked again for another role */
} SnapshotMark;

uint64
SnapshotNumber(void)
{
	static SnapshotMark last;
	static uint64 number = 0;
	Snapshot snapshot = GetActiveSnapshot();
	SnapshotMark mark;

	memset(&mark, 0, sizeof(mark)); /* compared byte by byte, padding included */
#if PG_VERSION_NUM >= 170000
	mark.transaction = MyProc->vxid.lxid;
#else
	mark.transaction = MyProc->lxid;
#endif
	mark.subtransaction = GetCurrentSubTransactionId();
	mark.command = snapshot->curcid;
	mark.completions = snapshot->snapXactCompletionCount;
	mark.xmin = snapshot->xmin;
	mark.xmax = snapshot->xmax;
	mark.xcnt = snapshot->xcnt;
	mark.user = GetUserId();
	if (number == 0 || memcmp(&mark, &last, sizeof(mark)) != 0)
		number++;
	last = mark;
	return number;
}

/* ---- the list ---- */

static void
Free(VersionedCopy *copy)
{
	copy->cache->release(copy);
	SharedRelease(&copy->shared);
	MemoryContextDelete(copy->context);
}

static void
Forget(VersionedCopy *copy)
{
	VersionedCopy **link = &copies;

	while (*link != copy)
		link = &(*link)->next;
	*link = copy->next;
	copy->outdated = true;
	if (copy->pins == 0)
		Free(copy);
}

/* Frees the least recently used unpinned copy: of a cache's mapped copies, or of all private copies. */
static bool
Evict(const VersionedCache *mapped_of)
{
	VersionedCopy *oldest = NULL;

	for (VersionedCopy *c = copies; c; c = c->next)
		if (c->pins == 0 && (mapped_of ? c->cache == mapped_of && c->shared.map : c->shared.map == NULL) &&
			(oldest == NULL || c->used < oldest->used))
			oldest = c;
	if (oldest)
		Forget(oldest);
	return oldest != NULL;
}

bool
VersionedEvict(void)
{
	return Evict(NULL);
}

static void
MakeRoom(const VersionedCache *cache)
{
	int mapped = 0;

	for (const VersionedCopy *c = copies; c; c = c->next)
		mapped += c->cache == cache && c->shared.map;
	if (mapped >= MAPPED_MAX)
		Evict(cache);
}

/* ---- loading ---- */

static VersionedCopy *
Load(const VersionedCache *cache, const char *name, int64 version, bool may_share, void *argument)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context =
		AllocSetContextCreate(TopMemoryContext, "pg_llm versioned copy", ALLOCSET_DEFAULT_SIZES);
	VersionedCopy *copy = MemoryContextAllocZero(context, cache->size);

	copy->cache = cache;
	copy->context = context;
	copy->version = version;
	copy->epoch = ChangeEpoch();
	PG_TRY();
	{
		copy->name = MemoryContextStrdup(context, name);
		copy->visible = VisibleRows(cache->rows, name);
		copy->alone = ChangePending() || !pg_llm_share_weights;
		cache->load(copy, may_share && VisibleAll(cache->rows), argument);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		Free(copy);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return copy;
}

static void
Unpin(void *arg)
{
	VersionedCopy *copy = arg;

	if (--copy->pins == 0 && copy->outdated)
		Free(copy);
}

static VersionedCopy *
Pin(VersionedCopy *copy, MemoryContext pin)
{
	MemoryContextCallback *callback = MemoryContextAlloc(pin, sizeof(MemoryContextCallback));

	copy->pins++;
	callback->func = Unpin;
	callback->arg = copy;
	MemoryContextRegisterResetCallback(pin, callback);
	return copy;
}

VersionedCopy *
VersionedLoad(const VersionedCache *cache, const char *name, void *argument, MemoryContext pin)
{
	VersionedCopy *copy = Load(cache, name, 0, false, argument);

	copy->outdated = true; /* it was never in a list */
	return Pin(copy, pin);
}

/* ---- use ---- */

/* True if the reason for the copy to be private or mapped no longer holds. */
static bool
Misplaced(const VersionedCopy *copy)
{
	return copy->shared.map ? !pg_llm_share_weights : copy->alone && !ChangePending() && pg_llm_share_weights;
}

/* False if the copy must be loaded again, which decides what this role gets, if anything. */
static bool
Good(VersionedCopy *copy, uint64 snapshot)
{
	if (copy->epoch != ChangeEpoch() || Misplaced(copy))
		return false;
	/* rights and policies may change within a snapshot */
	if (copy->snapshot == snapshot && VisibleAll(copy->cache->rows))
		return true;
	return copy->version != 0 && copy->version == ModelVersion(copy->name) &&
		   VisibleStill(copy->cache->rows, copy->name, &copy->visible);
}

VersionedCopy *
VersionedGet(const VersionedCache *cache, const char *name, void *argument, MemoryContext pin)
{
	uint64 snapshot = SnapshotNumber();
	VersionedCopy *copy = copies;

	while (copy && (copy->cache != cache || strcmp(copy->name, name) != 0))
		copy = copy->next;
	if (copy && !Good(copy, snapshot))
	{
		Forget(copy);
		copy = NULL;
	}
	if (copy == NULL)
	{
		int64 version = ModelVersion(name);

		MakeRoom(cache);
		copy = Load(cache, name, version, true, argument);
		copy->next = copies;
		copies = copy;
	}
	/* under row security, a policy may give another result within the same snapshot */
	copy->snapshot = copy->version == 0 || copy->visible.limited ? 0 : snapshot;
	copy->used = ++clock_of_uses;
	return Pin(copy, pin);
}
