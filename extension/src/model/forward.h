/* SQL arguments to the executor's inputs and back. */
#ifndef LLM_SRC_MODEL_FORWARD_H
#define LLM_SRC_MODEL_FORWARD_H

#include "postgres.h"

#include "fmgr.h"

#include "engine/execute.h"
#include "src/model/model_cache.h"
#include "src/tensor/tensor.h"

/* What the tables' CHECK constraints allow. */
#define MAX_NAME 1000

/* Text arguments: NULL is an error that names the argument, and so is a name that is too long. */
extern char *TextArgument(FunctionCallInfo fcinfo, int n, const char *what);
extern char *NameArgument(FunctionCallInfo fcinfo, int n, const char *what);
/* An int[] argument: one or two dimensions, no NULLs, at least one element. what names it in errors. */
extern LlmInput IntegerInput(const char *what, Datum array);
/*
 * The inputs of a text from SQL arguments: tokens, targets (argument -1: none) of the same shape, positions.
 * Returns how many.
 */
extern int ForwardInputs(
	FunctionCallInfo fcinfo, const LoadedModel *m, int tokens, int targets, int positions, LlmInput *in);
/* Index of a node by name; ERROR with a hint where the graph has none. */
extern int NodeOf(const LoadedModel *m, const char *node);
/* The same for a node the callers rely on ("logits", "loss"), which must be computed. */
extern int OutputOf(const LoadedModel *m, const char *node);
/* ERROR when a text of this length goes past the model's positions. */
extern void CheckLength(const LoadedModel *m, int64 length);
/* Positions first … first + T - 1 as an input. */
extern LlmInput PositionsInput(int first, int T);
/* Runs a node once, nothing cached. The value lives in the current memory context. */
extern LlmValue RunNode(const LoadedModel *m, int node, const LlmInput *inputs, int n);
/* The same for SQL, every row of it; drop_batch leaves out a leading dimension of 1. */
extern Tensor *RunTensor(const LoadedModel *m, int node, const LlmInput *inputs, int n, bool drop_batch);
/* A copy as SQL value; drop_batch leaves out a leading dimension of 1. */
extern Tensor *TensorOfValue(const LlmValue *value, bool drop_batch);

#endif
