/*
 * Memory of a session: what PostgreSQL's contexts and the engine's blocks take together stays within a limit.
 */
#include "postgres.h"

#include "utils/guc.h"
#include "utils/memutils.h"

#include "src/machine.h"
#include "src/memory.h"
#include "src/model_cache.h"
#include "src/pg_llm.h"

int pg_llm_memory_limit_mb = 0;

void
MemoryInit(void)
{
	DefineCustomIntVariable("pg_llm.memory_limit", "Memory one session may hold for tensors and models.",
		"The default is half of the machine's or control group's memory. Copies shared by all sessions do "
		"not count.",
		&pg_llm_memory_limit_mb, MachineMemoryMB() / 2, 16, INT_MAX, PGC_SUSET, GUC_UNIT_MB, NULL, NULL,
		NULL);
}

static size_t session_bytes = 0;
/* So many were within such a limit when PostgreSQL's own contexts, which take time to count, were counted
 * last; 0 once these may have grown. */
static size_t granted_bytes = 0;
static int granted_limit_mb = 0;

/* What the session holds; models that nobody uses at the moment make room first. */
static bool
HasRoom(Size size, Size *held)
{
	Size limit = (Size) pg_llm_memory_limit_mb * 1024 * 1024;

	do
	{
		*held = session_bytes + MemoryContextMemAllocated(TopMemoryContext, true);
		if (size <= limit && *held <= limit - size)
			return true;
	} while (size <= limit && ModelEvict());
	return false;
}

void
LlmReserve(Size size)
{
	Size held;

	granted_bytes = 0;
	if (size >= 65536 && !HasRoom(size, &held))
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY),
						   errmsg("this needs %zu MB more, and the session holds %zu MB of its %d MB",
							   size >> 20, held >> 20, pg_llm_memory_limit_mb),
						   errhint("Use smaller tensors, or have the superuser raise pg_llm.memory_limit.")));
}

static void *
SessionAlloc(void *context, size_t size)
{
	Size held;
	void *block;

	if (size >= 65536 && (session_bytes + size > granted_bytes || pg_llm_memory_limit_mb != granted_limit_mb))
	{
		if (!HasRoom(size, &held))
			return NULL;
		granted_bytes = session_bytes + size;
		granted_limit_mb = pg_llm_memory_limit_mb;
	}
	if (posix_memalign(&block, 64, size ? size : 1) != 0)
		return NULL;
	MachineHugePages(block, size);
	session_bytes += size;
	return block;
}

static void
SessionRelease(void *context, void *block, size_t size)
{
	if (block == NULL)
		return;
	free(block);
	session_bytes -= size;
}

LlmAllocator *
LlmSessionAllocator(void)
{
	static LlmAllocator session = {SessionAlloc, SessionRelease, NULL};

	return &session;
}

/* ---- bound to a memory context ---- */

typedef struct ContextBlock
{
	MemoryContextCallback callback;
	struct ContextBlock *prev, *next;
	void *block;
	size_t size;
} ContextBlock;

static void
ContextBlockFree(void *arg)
{
	ContextBlock *b = arg;

	SessionRelease(NULL, b->block, b->size);
	b->block = NULL;
}

/*
 * Blocks hang on the memory context by a reset callback, so that an error frees them. The bookkeeping is
 * palloc'd before the block is made: nothing can be lost between the two.
 */
static void *
ContextAlloc(void *context, size_t size)
{
	ContextBlock *list = context;
	/* Beside its list: whatever context is current may go before the list does. */
	ContextBlock *b = MemoryContextAllocZero(GetMemoryChunkContext(list), sizeof(ContextBlock));

	b->block = SessionAlloc(NULL, size);
	if (b->block == NULL)
	{
		pfree(b);
		return NULL;
	}
	b->size = size;
	b->next = list->next;
	b->prev = list;
	if (list->next)
		list->next->prev = b;
	list->next = b;
	return b->block;
}

static void
ContextRelease(void *context, void *block, size_t size)
{
	ContextBlock *list = context;

	if (block == NULL)
		return;
	for (ContextBlock *b = list->next; b != NULL; b = b->next)
		if (b->block == block)
		{
			b->prev->next = b->next;
			if (b->next)
				b->next->prev = b->prev;
			ContextBlockFree(b);
			pfree(b);
			return;
		}
}

static void
ContextFreeAll(void *arg)
{
	ContextBlock *list = arg;

	for (ContextBlock *b = list->next; b != NULL; b = b->next)
		ContextBlockFree(b);
	list->next = NULL;
}

LlmAllocator *
LlmContextAllocator(void)
{
	LlmAllocator *allocator = palloc(sizeof(LlmAllocator));
	ContextBlock *list = palloc0(sizeof(ContextBlock));

	granted_bytes = 0; /* what the statement has gathered since the last call counts */
	list->callback.func = ContextFreeAll;
	list->callback.arg = list;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &list->callback);
	*allocator = (LlmAllocator){ContextAlloc, ContextRelease, list};
	return allocator;
}
