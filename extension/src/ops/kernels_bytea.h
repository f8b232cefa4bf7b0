/* Raw bytea buffers of little-endian float32 as arguments and results (kernels_bytea.c). */
#ifndef LLM_SRC_OPS_KERNELS_BYTEA_H
#define LLM_SRC_OPS_KERNELS_BYTEA_H

#include "postgres.h"

#include "fmgr.h"

#include "engine/sql_layers.h"

/*
 * The number of floats in the n-th argument, which is not read yet; `name` identifies the buffer in errors.
 */
extern int64 ByteaCount(FunctionCallInfo fcinfo, int n, const char *name);
/* ERROR unless they are rows * columns. */
extern void ByteaCheck(FunctionCallInfo fcinfo, int n, const char *name, int64 rows, int64 columns);
/* The floats themselves. */
extern const float *ByteaFloats(FunctionCallInfo fcinfo, int n);
/* A result of rows * columns floats, not initialised. */
extern bytea *ByteaNew(int64 rows, int64 columns, float **x);
/* Makes every NaN the canonical one, as in tensors. */
extern Datum ByteaResult(bytea *raw);
/* ERROR unless n floats are whole rows of C. */
extern void CheckRows(const char *what, int64 n, int64 C);
/* ERROR unless the first five arguments are x (T,C) and weights that fit it, and n_head divides C. */
extern void CheckAttention(FunctionCallInfo fcinfo, int n_head, int64 T, int64 C);
/* The weights among these arguments. */
extern LlmAttentionWeights AttentionWeights(FunctionCallInfo fcinfo);

#endif
