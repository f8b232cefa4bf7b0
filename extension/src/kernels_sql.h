/* What the kernels over tensors and those over bytea share. */
#ifndef LLM_SRC_KERNELS_SQL_H
#define LLM_SRC_KERNELS_SQL_H

#include "postgres.h"

#include "fmgr.h"

/* Elements of an int[] of any dimensions, without NULLs. */
extern int32 *IntArrayElements(Datum array, const char *what, int64 *n);
/* ERROR unless id is within 0 … size-1, or -100 where a row may be left out. */
extern void CheckTarget(int32 id, int size, bool may_be_left_out);
/* The n-th argument, or when NULL a number from random(). */
extern uint64 SeedArgument(FunctionCallInfo fcinfo, int n);

#endif
