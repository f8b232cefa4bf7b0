/*
 * What json.c and json_string.c share.
 */
#ifndef LLM_FORMATS_JSON_INTERNAL_H
#define LLM_FORMATS_JSON_INTERNAL_H

#include "formats/json.h"

/* The error for a byte that cannot stand at json->at. */
extern LlmCode llm_json_unexpected(LlmJson *json, const char *expected, LlmError *err);
/* Reads the string whose opening quote is at json->at into text and length. */
extern LlmCode llm_json_read_string(LlmJson *json, LlmError *err);
/* Whether a stop was asked for; at: how far reading has come. */
extern bool llm_json_stopped(LlmJson *json, size_t at);

#endif
