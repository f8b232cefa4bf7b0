/*
 * The library and the SQL of a database can be of different builds: another version was installed, or only
 * half of it. Each knows its build; calls from one to the other could go wrong.
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "src/base/build.h"

static const char *
Hint(const char *theirs)
{
	const Size length = strlen(LLM_VERSION);

	if (creating_extension)
		return "Install both from one source (make -C extension install), then open a new session: "
			   "a session keeps the library that it has loaded.";
	if (strncmp(theirs, LLM_VERSION, length) == 0 && theirs[length] == '-')
		return psprintf(
			"The versions are the same: as a superuser, \"PG_LLM_DSN=... pg-llm update '%s'\" makes the "
			"database anew with the SQL that is installed, and keeps its tables and models.",
			get_database_name(MyDatabaseId));
	return "ALTER EXTENSION pg_llm UPDATE brings the database to the installed version; "
		   "then open a new session, because a session keeps the library that it has loaded.";
}

/* While CREATE or ALTER EXTENSION runs, the installed files do not fit; afterwards the database does not. */
static void
Refuse(const char *what, const char *mine, const char *theirs)
{
	const char *whose = creating_extension ? "that is installed" : "of this database";

	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					   errmsg("pg_llm's library is of %s %s, the SQL %s of %s", what, mine, whose, theirs),
					   errhint("%s", Hint(theirs))));
}

void
CheckVersion(const char *version)
{
	/* A script of an older version may call functions of its own. */
	if (!creating_extension && strcmp(version, LLM_VERSION) != 0)
		Refuse("version", LLM_VERSION, version);
}

void
BuildInit(void)
{
	static char *build;

	DefineCustomStringVariable("pg_llm.build",
		"The build of the library, which that of a database's SQL must be.", NULL, &build, LLM_BUILD,
		PGC_INTERNAL, GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE, NULL, NULL, NULL);
}

/* _llm_check_build(build text) */
PG_FUNCTION_INFO_V1(llm_check_build);
Datum
llm_check_build(PG_FUNCTION_ARGS)
{
	const char *build = text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (strcmp(build, LLM_BUILD) != 0)
		Refuse("build", LLM_BUILD, build);
	PG_RETURN_VOID();
}
