/*
 * Writing a file of the server so that a reader never sees half of it: a temporary file beside it, fsync,
 * rename. Whatever ends the work early (an error, a cancel, the end of the session) removes the temporary.
 */
#ifndef LLM_SRC_CHECKPOINT_EXPORT_FILE_H
#define LLM_SRC_CHECKPOINT_EXPORT_FILE_H

#include "postgres.h"

#include "formats/stream.h"

/* Calls produce(sink, arg) and puts what it wrote at path. */
extern void WriteServerFile(const char *path, void (*produce)(const LlmSink *sink, void *arg), void *arg);

#endif
