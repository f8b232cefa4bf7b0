/*
 * The module: settings and errors of a session.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "engine/ops.h"
#include "engine/pool.h"
#include "kernels/kernels.h"
#include "src/checkpoint/checkpoint.h"
#include "src/base/machine.h"
#include "src/base/memory.h"
#include "src/pg_llm.h"
#include "src/tape/tape.h"

PG_MODULE_MAGIC;

int pg_llm_display_limit = 0;
int pg_llm_threads = 0;
int pg_llm_isa = -1;
bool pg_llm_share_weights = true;
static char *pg_llm_default_model;

static const struct config_enum_entry isa_options[] = {{"auto", -1, false}, {"scalar", LLM_ISA_SCALAR, false},
	{"avx2", LLM_ISA_AVX2, false}, {"avx512", LLM_ISA_AVX512, false}, {NULL, 0, false}};

static bool
IsaCheck(int *newval, void **extra, GucSource source)
{
	if (*newval >= 0 && llm_kernels_for((LlmIsa) *newval) == NULL)
	{
		GUC_check_errdetail("This machine runs at most \"%s\".", llm_kernels_for(llm_isa_best())->name);
		return false;
	}
	return true;
}

static void
IsaAssign(int newval, void *extra)
{
	llm_set_isa(newval < 0 ? llm_isa_best() : (LlmIsa) newval);
}

/* Polled by the engine between tiles: does the server want this statement to end? */
static bool
StopWanted(void)
{
	return InterruptPending && (QueryCancelPending || ProcDiePending);
}

static bool
CancelRequested(void *context)
{
	return StopWanted();
}

const LlmStop LlmCancel = {CancelRequested, NULL};

static void
ThreadsAssign(int newval, void *extra)
{
	llm_pool_configure(newval ? newval : MachineThreads(), StopWanted);
}

/* Blocks of so many queries are what gradients are summed in. */
static bool
AttentionChunkCheck(int *newval, void **extra, GucSource source)
{
	if (*newval % LLM_BLOCK == 0)
		return true;
	GUC_check_errdetail("It must be a multiple of %d.", LLM_BLOCK);
	GUC_check_errhint("%d and %d are its neighbours that are.", *newval / LLM_BLOCK * LLM_BLOCK,
		(*newval / LLM_BLOCK + 1) * LLM_BLOCK);
	return false;
}

/*
 * Only for the session that asks: pg_dump reads tensors through their text form, so a limit stored with a
 * database, a role or the server would put summaries where a backup needs the weights.
 */
static bool
DisplayLimitCheck(int *newval, void **extra, GucSource source)
{
	bool stored = (source > PGC_S_DYNAMIC_DEFAULT && source < PGC_S_CLIENT) || source == PGC_S_TEST;

	if (*newval != 0 && stored)
		GUC_check_errdetail(
			"It can only be SET in a session: pg_dump would write summaries in place of tensors.");
	return *newval == 0 || !stored;
}

void _PG_init(void);

void
_PG_init(void)
{
	MemoryInit(); /* may refuse to go on */
	DefineCustomIntVariable("pg_llm.display_limit", "Tensors with more elements are shown as a summary.",
		"0 shows every element. A summary cannot be read back; COPY never writes one.", &pg_llm_display_limit,
		0, 0, INT_MAX, PGC_USERSET, 0, DisplayLimitCheck, NULL, NULL);
	DefineCustomIntVariable("pg_llm.threads", "Threads the kernels use.",
		"0 takes as many as this process may run at once. The result does not depend on it.", &pg_llm_threads,
		0, 0, 1024, PGC_USERSET, 0, NULL, ThreadsAssign, NULL);
	DefineCustomEnumVariable("pg_llm.isa", "Instruction set the kernels use.",
		"For tests: every level gives the same bits.", &pg_llm_isa, -1, isa_options, PGC_USERSET, 0, IsaCheck,
		IsaAssign, NULL);
	DefineCustomIntVariable("pg_llm.attention_chunk",
		"Queries of a head whose scores attention holds at once.",
		"A multiple of 128. More of them take more memory; the result does not depend on it.",
		&llm_attention_chunk, LLM_BLOCK, LLM_BLOCK, 1 << 20, PGC_USERSET, 0, AttentionChunkCheck, NULL, NULL);
	DefineCustomStringVariable("pg_llm.default_model", "The model that functions use when none is named.",
		"Set it for a database: ALTER DATABASE name SET pg_llm.default_model = 'my_model'.",
		&pg_llm_default_model, "gpt2-small", PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("pg_llm.share_weights", "Uses one copy of a model in memory for all sessions.",
		"Off: this session keeps copies of its own. The result does not depend on it.", &pg_llm_share_weights,
		true, PGC_USERSET, 0, NULL, NULL, NULL);
	TapeInit();
	CheckpointSettings();
	CopySettings();
	MarkGUCPrefixReserved("pg_llm");
}

/* ---- errors ---- */

static int
SqlState(LlmCode code)
{
	switch (code)
	{
		case LLM_SHAPE:
			return ERRCODE_ARRAY_SUBSCRIPT_ERROR;
		case LLM_FORMAT:
			return ERRCODE_INVALID_BINARY_REPRESENTATION;
		case LLM_RANGE:
			return ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
		case LLM_MISSING:
			return ERRCODE_UNDEFINED_OBJECT;
		case LLM_LIMIT:
			return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		case LLM_CANCELED:
			return ERRCODE_QUERY_CANCELED;
		default:
			return ERRCODE_INVALID_PARAMETER_VALUE;
	}
}

void
LlmRaise(const LlmError *err)
{
	if (err->code == LLM_CANCELED)
		CHECK_FOR_INTERRUPTS(); /* normally says the reason better: timeout, user, shutdown */
	if (err->code == LLM_NO_MEMORY)
		MemoryRaise(err);
	ereport(ERROR,
		(errcode(SqlState(err->code)), errmsg("%s", err->message),
			err->detail[0] ? errdetail("%s", err->detail) : 0, err->hint[0] ? errhint("%s", err->hint) : 0));
}

/* ---- the extension's schema ---- */

static Oid cached_namespace = InvalidOid;
static Oid cached_tensor_type = InvalidOid;

/* DROP EXTENSION drops the type: whatever is cached goes with it. */
static void
ForgetOids(Datum arg, int cacheid, uint32 hashvalue)
{
	cached_namespace = cached_tensor_type = InvalidOid;
}

static Oid
ExtensionSchema(void)
{
	Relation rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	Oid schema = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum("pg_llm"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return schema;
}

Oid
LlmNamespace(void)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterSyscacheCallback(TYPEOID, ForgetOids, (Datum) 0);
		registered = true;
	}
	if (!OidIsValid(cached_namespace))
		cached_namespace = ExtensionSchema();
	if (!OidIsValid(cached_namespace))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("extension pg_llm is not in this database"),
						   errhint("Run CREATE EXTENSION pg_llm.")));
	return cached_namespace;
}

const char *
LlmSchema(void)
{
	return quote_identifier(get_namespace_name(LlmNamespace()));
}

Oid
LlmTensorType(void)
{
	if (!OidIsValid(cached_tensor_type))
		cached_tensor_type = GetSysCacheOid2(
			TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("tensor"), ObjectIdGetDatum(LlmNamespace()));
	if (!OidIsValid(cached_tensor_type))
		ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("type tensor is missing from extension pg_llm")));
	return cached_tensor_type;
}
