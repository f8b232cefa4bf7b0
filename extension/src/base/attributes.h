/* Reads an operation's attributes from jsonb. */
#ifndef LLM_SRC_BASE_ATTRIBUTES_H
#define LLM_SRC_BASE_ATTRIBUTES_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "engine/graph.h"

/* Converts {"a": 1, "b": [1, "x"], "c": [[1, 2], [3, 4]]} to the node's attributes, palloc'd; node->name is
 * used in errors. */
extern void GraphReadAttrs(Jsonb *attrs, LlmNode *node);

#endif
