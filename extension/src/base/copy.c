/*
 * COPY TO output is read back later, so it holds whole tensors, whatever pg_llm.display_limit is.
 *
 * The flag "a COPY TO is running" is a setting, so that parallel workers inherit it and an error resets it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "nodes/params.h"
#include "tcop/pquery.h"
#include "tcop/utility.h"
#include "utils/guc.h"

#include "src/base/copy.h"

bool pg_llm_copying = false;
static ProcessUtility_hook_type next_hook = NULL;

static bool
IsCopyTo(PlannedStmt *statement)
{
	Node *utility = statement->utilityStmt;

	return utility != NULL && IsA(utility, CopyStmt) && !((CopyStmt *) utility)->is_from;
}

static void
SetCopying(GucAction action)
{
	set_config_option("pg_llm.copying", "on", PGC_SUSET, PGC_S_SESSION, action, true, 0, false);
}

static void
RunUtility(PlannedStmt *statement, const char *query, bool read_only, ProcessUtilityContext context,
	ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	ProcessUtility_hook_type next = next_hook ? next_hook : standard_ProcessUtility;
	int level;

	if (!IsCopyTo(statement))
	{
		next(statement, query, read_only, context, params, environment, dest, completion);
		return;
	}
	level = NewGUCNestLevel();
	SetCopying(GUC_ACTION_SAVE);
	next(statement, query, read_only, context, params, environment, dest, completion);
	AtEOXact_GUC(true, level);
}

/*
 * The COPY command that loads this library has already passed the hook. Inside a function (which has an error
 * context, as has a statement with parameters) it cannot be distinguished from another statement.
 */
static bool
MayBeCopying(void)
{
	if (!IsTransactionState() || ActivePortal == NULL)
		return false;
	return (ActivePortal->stmts != NIL && IsCopyTo(linitial_node(PlannedStmt, ActivePortal->stmts))) ||
		   (error_context_stack != NULL && error_context_stack->callback != ParamsErrorCallback);
}

void
CopySettings(void)
{
	DefineCustomBoolVariable("pg_llm.copying", "A COPY TO runs: tensors are written whole.", NULL,
		&pg_llm_copying, false, PGC_SUSET,
		GUC_NO_SHOW_ALL | GUC_NO_RESET_ALL | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE, NULL, NULL, NULL);
	next_hook = ProcessUtility_hook;
	ProcessUtility_hook = RunUtility;
	if (MayBeCopying())
		SetCopying(GUC_ACTION_LOCAL);
}
