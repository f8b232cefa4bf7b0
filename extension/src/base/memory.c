/*
 * Memory of a session: the sum of PostgreSQL's memory contexts and the engine's blocks stays within the
 * session's limit, and the sum over all sessions within the server's limit.
 */
#include "postgres.h"

#include <limits.h>

#include "access/detoast.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "src/base/errors.h"
#include "src/base/machine.h"
#include "src/base/memory.h"
#include "src/base/server_memory.h"

int pg_llm_memory_limit_mb = 0;

#define MEGABYTE ((Size) 1 << 20)
/* Smaller requests are added up to a megabyte: checking the limits takes longer than the allocations. */
#define MIN_REPORTED ((Size) 65536)

static void TransactionEnds(XactEvent event, void *arg);
static bool FreeSpare(void);

static MemoryEvict evict = NULL;

void
MemoryOnPressure(MemoryEvict callback)
{
	evict = callback;
}

static bool
Evict(void)
{
	return FreeSpare() || (evict != NULL && evict());
}

/* ---- settings ---- */

static GucSource accepted; /* source of the last accepted value of a limit */

static bool
LimitCheck(int *newval, void **extra, GucSource source)
{
	accepted = source;
	return true;
}

static bool
GivenByClient(const char *name)
{
	const struct config_generic *setting = NULL;

#if PG_VERSION_NUM >= 160000
	setting = find_option(name, false, true, ERROR);
#else
	for (int i = 0; i < GetNumConfigOptions(); i++)
		if (pg_strcasecmp(get_guc_variables()[i]->name, name) == 0)
			setting = get_guc_variables()[i];
#endif
	return setting && setting->reset_source == PGC_S_CLIENT;
}

/*
 * Before the library is loaded, a client can set any value when it connects, including these limits.
 * PostgreSQL rejects it once the settings are defined, but the server's configured value that it replaced is
 * lost.
 */
static void
DefineLimit(const char *name, const char *what, const char *more, int *value, int preset, int least,
	GucContext context)
{
	static const char *hidden = NULL; /* loading may be retried after a refusal */

	if (hidden == NULL)
	{
		bool given = GivenByClient(name);

		DefineCustomIntVariable(
			name, what, more, value, preset, least, INT_MAX, context, GUC_UNIT_MB, LimitCheck, NULL, NULL);
		if (given && accepted == PGC_S_DEFAULT)
			hidden = name;
	}
	if (hidden)
		ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("this session may not set \"%s\"", hidden),
				errdetail("The value that was refused hides the server's own."),
				errhint("Connect again without it.")));
}

void
MemoryInit(void)
{
	DefineLimit("pg_llm.memory_limit", "Memory one session may hold for tensors and models.",
		"The default is half of the machine's or control group's memory. Copies shared by all sessions do "
		"not count.",
		&pg_llm_memory_limit_mb, MachineMemoryMB() / 2, 16, PGC_SUSET);
	DefineLimit("pg_llm.server_memory_limit",
		"Memory all sessions of the server may hold together for tensors and models.",
		"The default is three quarters of the machine's or control group's memory; 0 is no limit. It is one "
		"for all sessions: ALTER SYSTEM sets it. llm_memory() shows what each session holds.",
		&pg_llm_server_memory_limit_mb, MachineMemoryMB() / 4 * 3, 0, PGC_SIGHUP);
	RegisterXactCallback(TransactionEnds, NULL);
}

/* ---- memory held by the session ---- */

static size_t session_bytes = 0; /* the engine's blocks */
/* PostgreSQL's own contexts at the last count (counting takes time), plus what was reserved in them since,
 * plus kept_bytes. */
static Size other_bytes = 0;
static Size kept_bytes = 0; /* freed memory that malloc still held when the last statement ended */
static Size most_bytes = 0; /* peak of what this statement has requested */
/* Up to this many session_bytes were within granted_limit_mb at the last count of the contexts; 0 when the
 * contexts may have grown since. */
static size_t granted_bytes = 0;
static int granted_limit_mb = 0;

/* ---- at the end of a statement ---- */

/*
 * PostgreSQL frees the memory of a statement or a transaction after the extension's last code has run, and
 * the other sessions must learn of it. The last thing that a server process does before it waits for the next
 * message is to reset MessageContext, so a reset callback there sees the final state.
 */
static bool statement_asked = false, transaction_asked = false;

static void
TellWhatIsLeft(void)
{
	Size held = session_bytes + MemoryContextMemAllocated(TopMemoryContext, true);

	if (most_bytes > held + MEGABYTE) /* otherwise malloc can have kept only a little */
		kept_bytes = Max(MachineOwnMemory(), held) - held;
	if (MessageContext) /* about to be freed */
		held -= MemoryContextMemAllocated(MessageContext, true);
	other_bytes = held - session_bytes + kept_bytes;
	ServerMemoryTell(held + kept_bytes);
}

static void
StatementEnded(void *arg)
{
	statement_asked = false;
	transaction_asked = IsTransactionOrTransactionBlock();
	(void) FreeSpare();
	TellWhatIsLeft();
	if (ServerMemoryScarce()) /* so idle caches never take more than half of the limit */
	{
		while (Evict())
			;
		MachineTrim();
		most_bytes = SIZE_MAX;
		TellWhatIsLeft();
	}
	most_bytes = 0;
}

static void
TellWhenEnded(void)
{
	static MemoryContextCallback callback = {StatementEnded};

	if (!statement_asked && MessageContext)
		MemoryContextRegisterResetCallback(MessageContext, &callback);
	statement_asked = true;
}

static void
TransactionEnds(XactEvent event, void *arg)
{
	if (transaction_asked && MessageContext)
		TellWhenEnded();
	else if (transaction_asked) /* a background worker, which receives no messages */
		StatementEnded(NULL);
}

/* ---- requests ---- */

/* Why the last request was refused. */
static struct
{
	bool server; /* the server's limit was hit, not the session's own */
	Size needed, held;
} refused;

/* True if the request fits within both limits. Cached models that are not in use are evicted first. */
static bool
HasRoom(Size size, Size later)
{
	Size limit = (Size) pg_llm_memory_limit_mb * MEGABYTE, held;
	bool in_session;

	transaction_asked = true;
	TellWhenEnded();
	do
	{
		held = session_bytes + MemoryContextMemAllocated(TopMemoryContext, true);
		other_bytes = held - session_bytes + kept_bytes;
		most_bytes = Max(most_bytes, held + size);
		in_session = size <= limit && held <= limit - size;
		if (in_session && ServerMemoryAsk(held + kept_bytes + size + later))
			return true;
	} while (size <= limit && Evict());
	ServerMemoryTell(held + kept_bytes);
	refused.server = in_session;
	refused.needed = size + later;
	refused.held = in_session ? ServerMemoryHeld() : held;
	return false;
}

/* True if the request is small and the current batch has not reached a megabyte. */
static bool
IsLittle(Size size)
{
	static Size together = 0;

	together += size;
	if (size < MIN_REPORTED && together < MEGABYTE)
		return true;
	together = 0;
	return false;
}

#define UP_TO_MB(size) (((size) + MEGABYTE - 1) / MEGABYTE)
#define SERVER_HINT                                                                                          \
	errhint("Try again when other sessions are done, use smaller tensors, or have the superuser raise "      \
			"pg_llm.server_memory_limit. SELECT * FROM llm_memory() shows what each session holds.")

void
ReserveResult(Size size, Size later)
{
	granted_bytes = 0;
	if (IsLittle(size))
		return;
	if (HasRoom(size, later))
		other_bytes += size + later;
	else if (refused.server)
		ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
				errmsg("this needs %zu MB more, and all sessions of the server hold %zu MB of their %d MB",
					UP_TO_MB(refused.needed), UP_TO_MB(refused.held), pg_llm_server_memory_limit_mb),
				SERVER_HINT));
	else
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY),
						   errmsg("this needs %zu MB more, and the session holds %zu MB of its %d MB",
							   size >> 20, refused.held >> 20, pg_llm_memory_limit_mb),
						   errhint("Use smaller tensors, or have the superuser raise pg_llm.memory_limit.")));
}

void
ReserveMemory(Size size)
{
	ReserveResult(size, 0);
}

void
CopyMemory(void *to, const void *from, Size size)
{
	for (Size at = 0; at < size; at += LLM_POLL_BYTES)
	{
		CHECK_FOR_INTERRUPTS();
		memcpy((char *) to + at, (const char *) from + at, Min(LLM_POLL_BYTES, size - at));
	}
}

/*
 * A longer stored value is read in parts of this size into huge pages, which take a fraction of the time to
 * fault in and, after a cancel, to free. For a shorter one the copy of each part would cost more than that.
 */
#define DETOAST_AT_ONCE ((Size) 24 << 20)
#define DETOAST_CHUNK ((Size) 8 << 20)

struct varlena *
DetoastSlice(Datum datum, Size first, Size size)
{
	struct varlena *value = (struct varlena *) DatumGetPointer(datum), *whole;
	struct varatt_external pointer = {0};

	ReserveMemory(size);
	if (VARATT_IS_EXTERNAL_ONDISK(value))
		VARATT_EXTERNAL_GET_POINTER(pointer, value);
	/* a compressed value would be decompressed from its start for each part */
	if (pointer.va_rawsize == 0 || VARATT_EXTERNAL_IS_COMPRESSED(pointer) || size <= DETOAST_AT_ONCE)
		return PG_DETOAST_DATUM_SLICE(datum, first, size);
	whole = palloc(VARHDRSZ + size);
	MachineHugePages(whole, VARHDRSZ + size);
	SET_VARSIZE(whole, VARHDRSZ + size);
	for (Size at = 0; at < size; at += DETOAST_CHUNK)
	{
		Size n = Min(DETOAST_CHUNK, size - at);
		struct varlena *part = PG_DETOAST_DATUM_SLICE(datum, first + at, n);

		memcpy(VARDATA(whole) + at, VARDATA(part), n);
		pfree(part);
	}
	return whole;
}

struct varlena *
DetoastWhole(Datum datum)
{
	struct varlena *value = (struct varlena *) DatumGetPointer(datum);

	return VARATT_IS_EXTENDED(value) ? DetoastSlice(datum, 0, toast_raw_datum_size(datum) - VARHDRSZ) : value;
}

void
MemoryRaise(const LlmError *err)
{
	if (refused.server)
		ereport(
			ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("%s", err->message),
					   errdetail("This needs %zu MB more, and all sessions of the server hold %zu MB of "
								 "their %d MB.",
						   UP_TO_MB(refused.needed), UP_TO_MB(refused.held), pg_llm_server_memory_limit_mb),
					   SERVER_HINT));
	ereport(ERROR,
		(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("%s", err->message),
			err->detail[0] ? errdetail("%s", err->detail) : 0,
			err->hint[0] ? errhint("%s", err->hint)
						 : errhint("A session may hold %d MB (pg_llm.memory_limit, set by the superuser).",
							   pg_llm_memory_limit_mb)));
}

/* ---- the engine's blocks ---- */

/* True if the size fits within the limits without another count of the contexts. */
static bool
IsGranted(size_t size)
{
	return session_bytes + size <= granted_bytes && pg_llm_memory_limit_mb == granted_limit_mb &&
		   ServerMemoryAsk(session_bytes + size + other_bytes);
}

/*
 * Blocks that were released and are kept until the statement ends, the oldest first. The next step of a
 * training allocates the same sizes again; new memory would come from the kernel, which clears each page.
 */
#define MIN_SPARE ((Size) 262144)
#define MAX_SPARE 512
#define SPARE_SHARE 16 /* of the session's limit */

static struct
{
	void *block;
	size_t size;
} spare[MAX_SPARE];
static int n_spare = 0;
static size_t spare_bytes = 0; /* counted as session_bytes, too */

static void
ForgetSpare(int i)
{
	spare_bytes -= spare[i].size;
	n_spare--;
	memmove(&spare[i], &spare[i + 1], (n_spare - i) * sizeof(spare[0]));
}

static void
FreeOldest(void)
{
	void *block = spare[0].block;

	session_bytes -= spare[0].size;
	ForgetSpare(0);
	free(block);
}

static bool
FreeSpare(void)
{
	bool any = n_spare > 0;

	while (n_spare > 0)
		FreeOldest();
	return any;
}

/* True if the block is kept. */
static bool
KeepSpare(void *block, size_t size)
{
	size_t most = (size_t) pg_llm_memory_limit_mb * MEGABYTE / SPARE_SHARE;

	if (size < MIN_SPARE || size > most / 4)
		return false;
	while (n_spare == MAX_SPARE || (n_spare > 0 && spare_bytes + size > most))
		FreeOldest();
	spare[n_spare].block = block;
	spare[n_spare++].size = size;
	spare_bytes += size;
	transaction_asked = true;
	TellWhenEnded();
	return true;
}

/* A kept block of exactly this size, or NULL. */
static void *
TakeSpare(size_t size)
{
	for (int i = n_spare - 1; i >= 0 && size >= MIN_SPARE; i--)
		if (spare[i].size == size)
		{
			void *block = spare[i].block;

			ForgetSpare(i);
			return block;
		}
	return NULL;
}

static void *
SessionAlloc(void *context, size_t size)
{
	void *block = TakeSpare(size);

	if (block)
		return block;
	if (!IsLittle(size) && !IsGranted(size))
	{
		if (!HasRoom(size, 0))
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
	if (block == NULL || KeepSpare(block, size))
		return;
	free(block);
	session_bytes -= size;
	if (size >= MIN_REPORTED)
		ServerMemoryTell(session_bytes + other_bytes);
}

LlmAllocator *
SessionAllocator(void)
{
	static LlmAllocator session = {SessionAlloc, SessionRelease, NULL};

	return &session;
}

/* ---- the same, bound to a memory context ---- */

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
 * A reset callback ties the blocks to the memory context, so that an error frees them. The bookkeeping is
 * palloc'd before the block is allocated, so no block can leak between the two steps.
 */
static void *
ContextAlloc(void *context, size_t size)
{
	ContextBlock *list = context;
	/* In the list's context: the current context may be reset before the list is. */
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
ContextAllocator(void)
{
	LlmAllocator *allocator = palloc(sizeof(LlmAllocator));
	ContextBlock *list = palloc0(sizeof(ContextBlock));

	granted_bytes = 0; /* count the contexts again: the statement may have grown them */
	list->callback.func = ContextFreeAll;
	list->callback.arg = list;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &list->callback);
	*allocator = (LlmAllocator){ContextAlloc, ContextRelease, list};
	return allocator;
}
