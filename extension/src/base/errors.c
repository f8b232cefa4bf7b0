/*
 * Raises errors of the engine as PostgreSQL errors.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "src/base/errors.h"
#include "src/base/memory.h"

bool
StopWanted(void)
{
	return InterruptPending && (QueryCancelPending || ProcDiePending);
}

static bool
CancelRequested(void *context)
{
	return StopWanted();
}

const LlmStop CancelStop = {CancelRequested, NULL};

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
RaiseError(const LlmError *err)
{
	if (err->code == LLM_CANCELED)
		CHECK_FOR_INTERRUPTS(); /* usually raises the more precise error: timeout, user request or shutdown */
	if (err->code == LLM_NO_MEMORY)
		MemoryRaise(err);
	ereport(ERROR,
		(errcode(SqlState(err->code)), errmsg("%s", err->message),
			err->detail[0] ? errdetail("%s", err->detail) : 0, err->hint[0] ? errhint("%s", err->hint) : 0));
}
