/* Shared by the two files of attention. */
#ifndef LLM_OPS_ATTENTION_H
#define LLM_OPS_ATTENTION_H

#include "engine/ops/op.h"

/* The inputs are qkv, or q, k and v, or q, k, v and a bias: the number of the first form, the place of the
 * bias. */
#define ATTENTION_QKV 1
#define ATTENTION_BIAS 3

/* True if queries and keys are of the same sequence, so that a mask, a window and a cache make sense. */
extern bool llm_attends_to_itself(const LlmGraph *graph, const LlmNode *node);

#endif
