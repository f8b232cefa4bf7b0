/*
 * Shared by json.c and json_string.c.
 */
#ifndef LLM_FORMATS_JSON_INTERNAL_H
#define LLM_FORMATS_JSON_INTERNAL_H

#include "formats/json.h"

/* The error for a byte that is not valid at json->at. */
extern LlmCode llm_json_unexpected(LlmJson *json, const char *expected, LlmError *err);
/* Reads the string whose opening quote is at json->at into text and length. */
extern LlmCode llm_json_read_string(LlmJson *json, LlmError *err);
/* True if a stop was requested; at: the current position. */
extern bool llm_json_stopped(LlmJson *json, size_t at);

#endif
