/* A model's rows of llm_graph as the engine's graph. */
#ifndef LLM_SRC_MODEL_GRAPH_ROWS_H
#define LLM_SRC_MODEL_GRAPH_ROWS_H

#include "postgres.h"

#include "engine/graph.h"

/*
 * Reads and checks a model's graph. All memory is palloc'd in the current context. Returns an empty graph if
 * there are no rows. read_only as for SPI: true reads with the statement's snapshot.
 */
extern LlmGraph *GraphRead(const char *model, bool read_only);

#endif
