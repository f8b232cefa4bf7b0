/* Text arguments of SQL functions. */
#ifndef LLM_SRC_BASE_ARGUMENTS_H
#define LLM_SRC_BASE_ARGUMENTS_H

#include "postgres.h"

#include "fmgr.h"

/* The longest name that the tables' CHECK constraints allow. */
#define MAX_NAME 1000

/* Argument n as text; ERROR if it is NULL, in which `what` names the argument. */
extern char *TextArgument(FunctionCallInfo fcinfo, int n, const char *what);
/* The same for a name; ERROR also if it is longer than MAX_NAME. */
extern char *NameArgument(FunctionCallInfo fcinfo, int n, const char *what);
/* Returns the name; ERROR if it is longer than MAX_NAME. */
extern char *CheckName(char *name, const char *what);

#endif
