/* Attributes of an operation from SQL. */
#ifndef LLM_SRC_BASE_ATTRIBUTES_H
#define LLM_SRC_BASE_ATTRIBUTES_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "engine/graph.h"

/* {"a": 1, "b": [1, "x"], "c": [[1, 2], [3, 4]]} to the node's attributes, palloc'd; node->name is for
 * errors. */
extern void GraphReadAttrs(Jsonb *attrs, LlmNode *node);

#endif
