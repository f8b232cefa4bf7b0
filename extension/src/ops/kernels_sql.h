/* Shared by the kernels over tensors and those over bytea. */
#ifndef LLM_SRC_OPS_KERNELS_SQL_H
#define LLM_SRC_OPS_KERNELS_SQL_H

#include "postgres.h"

#include "fmgr.h"

#include "engine/sql_layers.h"
#include "kernels/kernels.h"
#include "src/tensor/tensor.h"

/* Elements of an int[] of any dimensions, without NULLs. */
extern int32 *IntArrayElements(Datum array, const char *what, int64 *n);
/* ERROR unless id is within 0 … size-1, or is -100 and a row may be left out. */
extern void CheckTarget(int32 id, int size, bool may_be_left_out);
/* The same for n ids, none left out. */
extern void CheckIds(const int32 *ids, int64 n, int size);
/* Logits (…,V); ERROR unless they have one row for each of `rows` targets, and each target is within V. */
extern Tensor *LogitsOf(Datum datum, const int32 *targets, int64 rows);
/* f of each element, recorded under its name. */
extern Tensor *TensorUnary(LlmUnary f, const char *name, Tensor *x);
/* ERROR unless t has the dimensions of the argument named `of`. */
extern void CheckShape(
	const char *op, const char *name, const Tensor *t, const char *of, int ndim, const int *dims);
/* ERROR unless a row can hold results with the shapes of `like`. */
extern void CheckRow(int n, Tensor *const *like);
/* A row of tensors with canonical NaNs. */
extern Datum TensorRow(FunctionCallInfo fcinfo, Tensor **tensors, int n);
/* t with axis and the last one swapped; t itself if they are the same. */
extern Tensor *SwapWithLast(Tensor *t, int axis);
/* ERROR if an argument of AdamW is NULL: an UPDATE with a NULL result would lose the weights. */
extern void AdamWNotNull(FunctionCallInfo fcinfo);
/* lr, beta1, beta2, eps and weight_decay of a step counted from 1, checked. */
extern LlmAdamW AdamWArguments(const double number[5], int step);
extern void CheckClip(double clip);
/* out (n) = x, scaled down to the norm `clip` if it is longer. */
extern void GradClip(int64 n, const float *x, double clip, float *out);
/*
 * The attention layer of pg_llm_attention, recorded step by step: x (T,C) or (B,T,C) and its four weights.
 * Shapes were checked.
 */
extern Tensor *RecordedAttention(Tensor *const in[5], int n_head, bool causal);
/* The n-th argument, or if NULL a number from random(). */
extern uint64 SeedArgument(FunctionCallInfo fcinfo, int n);
/* The headers of the first five arguments, x and a layer's four weights, and their shapes. */
extern void LayerShapes(FunctionCallInfo fcinfo, Tensor *in[5], LlmShape shape[5]);

#endif
