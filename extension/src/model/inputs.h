/* SQL arguments as the executor's inputs, and the nodes of a model that SQL functions use. */
#ifndef LLM_SRC_MODEL_INPUTS_H
#define LLM_SRC_MODEL_INPUTS_H

#include "postgres.h"

#include "fmgr.h"

#include "engine/execute.h"
#include "src/model/model_cache.h"
#include "src/tensor/tensor.h"

/* An int[] argument: one or two dimensions, no NULLs, at least one element. `what` names it in errors. */
extern LlmInput IntegerInput(const char *what, Datum array);
/* The same for argument n; NULL is an ERROR. */
extern LlmInput ArrayArgument(FunctionCallInfo fcinfo, int n, const char *what);
/* A tensor's elements as integers; ERROR, which begins with `what`, unless all are whole numbers below 2^24.
 */
extern const int32 *WholeNumbers(const char *what, const Tensor *t);
extern Size InputNumel(const LlmInput *in);
/* The input tokens (B,T) as an int[]; 0 if there is none. */
extern Datum TokensArray(const LlmInput *in, int n);
/*
 * The inputs for a sequence from SQL arguments: tokens, targets (argument -1: none) of the same shape,
 * positions. Returns their count.
 */
extern int ForwardInputs(
	FunctionCallInfo fcinfo, const LoadedModel *m, int tokens, int targets, int positions, LlmInput *in);
/* The model of a call and its inputs, which are checked before weights are read; the numbers are arguments'.
 */
typedef struct ForwardCall
{
	FunctionCallInfo fcinfo;
	int tokens, targets, positions;
	LlmInput in[3];
	int n;
} ForwardCall;
extern LoadedModel *ForwardModel(ForwardCall *call, int model);
/* Index of a node by name; ERROR with a hint if the graph has no such node. */
extern int NodeOf(const LoadedModel *m, const char *node);
/* The same for a node the callers rely on ("logits", "loss"), which must be computed. */
extern int OutputOf(const LoadedModel *m, const char *node);
/* What training minimises: the node "training_loss", or "loss" where the graph has no such node. */
extern int TrainingLossOf(const LoadedModel *m);
/* ERROR if a sequence of this length exceeds the model's positions. */
extern void CheckLength(const LoadedModel *m, int64 length);
/* Positions first … first + T - 1 as an input. */
extern LlmInput PositionsInput(int first, int T);
/* tokens (T) become (1,T), as the graph's (B,T). */
extern LlmInput Batched(LlmInput in);
/* The last dimension of the node "logits". */
extern int VocabularySize(const LoadedModel *m);

#endif
