/* What a file is, by its first bytes: for the error where it is no checkpoint. */
#ifndef LLM_FORMATS_FILE_KIND_H
#define LLM_FORMATS_FILE_KIND_H

#include "formats/stream.h"

/* Adds the hint "This is …" to an error; if the kind is not known, the other hint. Returns the error's code.
 */
extern LlmCode llm_hint_kind(const LlmSource *source, const char *otherwise, LlmError *err);

#endif
