/* Raw bytea buffers of little-endian float32 as arguments and results (kernels_bytea.c). */
#ifndef LLM_SRC_KERNELS_BYTEA_H
#define LLM_SRC_KERNELS_BYTEA_H

#include "postgres.h"

#include "fmgr.h"

/* The n-th argument's floats; name says in errors which buffer it is. */
extern const float *ByteaFloats(FunctionCallInfo fcinfo, int n, const char *name, int64 *count);
/* The same, of exactly rows * columns floats. */
extern const float *ByteaMatrix(FunctionCallInfo fcinfo, int n, const char *name, int64 rows, int64 columns);
/* A result of so many floats, not set. */
extern bytea *ByteaNew(int64 rows, int64 columns, float **x);
/* Every NaN the same, as in tensors. */
extern Datum ByteaResult(bytea *raw);
/* ERROR unless n floats are whole rows of C, and unless n_head divides C. */
extern void CheckRows(const char *what, int64 n, int64 C);
extern void CheckHeads(int n_head, int64 C);

#endif
