/*
 * Writes a file on the server so that a reader never sees it incomplete: a temporary file in the same folder,
 * fsync, rename. If the work ends early (an error, a cancel, the end of the session), the temporary file is
 * removed.
 */
#ifndef LLM_SRC_CHECKPOINT_EXPORT_FILE_H
#define LLM_SRC_CHECKPOINT_EXPORT_FILE_H

#include "postgres.h"

#include "formats/stream.h"

/* Calls produce(sink, arg) and publishes its output at path. */
extern void WriteServerFile(const char *path, void (*produce)(const LlmSink *sink, void *arg), void *arg);

#endif
