#include "src/base/arguments.h"

#include "utils/builtins.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "src/base/memory.h"

char *
TextArgument(FunctionCallInfo fcinfo, int n, const char *what)
{
	text *t;

	if (PG_ARGISNULL(n))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be NULL", what)));
	t = DetoastWhole(PG_GETARG_DATUM(n));
	ReserveMemory(VARSIZE(t));
	return text_to_cstring(t);
}

/* No table can hold a longer name: refuse it before the lookup, and keep it out of error messages. */
char *
CheckName(char *name, const char *what)
{
	if (strlen(name) > MAX_NAME)
		ereport(ERROR, (errcode(ERRCODE_NAME_TOO_LONG),
						   errmsg("%s is a name of %zu bytes, longer than the %d that names may have", what,
							   strlen(name), MAX_NAME)));
	return name;
}

char *
NameArgument(FunctionCallInfo fcinfo, int n, const char *what)
{
	return CheckName(TextArgument(fcinfo, n, what), what);
}
