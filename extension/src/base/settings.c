/*
 * The settings of a session, except the memory limits, which are in memory.c.
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "engine/execute.h"
#include "engine/parallel.h"
#include "engine/pool.h"
#include "kernels/kernels.h"
#include "src/base/errors.h"
#include "src/base/machine.h"
#include "src/base/settings.h"

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

static void
ThreadsAssign(int newval, void *extra)
{
	llm_pool_configure(newval ? newval : MachineThreads(), StopWanted);
}

/* Gradients of attention are summed in blocks of this many queries. */
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
 * May be set only within a session: pg_dump reads tensors through their text form, so a limit stored for a
 * database, a role or the server would put summaries into a dump in place of the weights.
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

void
SettingsInit(void)
{
	DefineCustomIntVariable("pg_llm.display_limit", "Tensors with more elements are shown as a summary.",
		"0 shows every element. A summary cannot be read back; COPY never writes one.", &pg_llm_display_limit,
		0, 0, INT_MAX, PGC_USERSET, 0, DisplayLimitCheck, NULL, NULL);
	DefineCustomIntVariable("pg_llm.threads", "Threads the kernels use.",
		"0 uses as many as this process may run at once. The result does not depend on it.", &pg_llm_threads,
		0, 0, 1024, PGC_USERSET, 0, NULL, ThreadsAssign, NULL);
	DefineCustomEnumVariable("pg_llm.isa", "Instruction set the kernels use.",
		"For tests: every level computes the same bits.", &pg_llm_isa, -1, isa_options, PGC_USERSET, 0,
		IsaCheck, IsaAssign, NULL);
	DefineCustomIntVariable("pg_llm.attention_chunk",
		"Queries of a head whose scores attention holds at once.",
		"A multiple of 128. More queries use more memory; the result does not depend on it.",
		&llm_attention_chunk, LLM_BLOCK, LLM_BLOCK, 1 << 20, PGC_USERSET, 0, AttentionChunkCheck, NULL, NULL);
	DefineCustomStringVariable("pg_llm.default_model", "The model that functions use when none is named.",
		"Set it for a database: ALTER DATABASE name SET pg_llm.default_model = 'my_model'.",
		&pg_llm_default_model, "gpt2-small", PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_llm.seed", "Seed of random nodes of a graph outside of training.",
		"The same seed gives the same values; training uses the seed of its own call.", &llm_random_seed, 0,
		0, INT_MAX, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("pg_llm.share_weights", "Uses one copy of a model in memory for all sessions.",
		"Off: this session keeps copies of its own. The result does not depend on it.", &pg_llm_share_weights,
		true, PGC_USERSET, 0, NULL, NULL, NULL);
}

/* llm_default_model() → text; in C, so that the call loads the library, which defines the setting */
PG_FUNCTION_INFO_V1(llm_default_model);
Datum
llm_default_model(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(pg_llm_default_model));
}
