/*
 * Files on the server: who may access them, which names are accepted, and reading one through the LlmSource
 * of formats/. Reads are plain preads in pieces with a cancel check between them, never a memory map: a file
 * that shrinks in the meantime is an ERROR, not a SIGBUS.
 */
#ifndef LLM_SRC_CHECKPOINT_IMPORT_FILE_H
#define LLM_SRC_CHECKPOINT_IMPORT_FILE_H

#include "postgres.h"

#include "formats/stream.h"

/* Bytes read between two checks for a cancel request. */
#define SERVER_FILE_PIECE (1024 * 1024)

typedef struct ServerFile
{
	const char *path;
	int fd; /* -1: closed; the next read opens it again */
	uint64 size;
} ServerFile;

/* ERROR 42501 unless the role is in pg_read_server_files (or _write_, for writing). */
extern void ServerFileAllow(bool write);
/* A text argument as an absolute path, palloc'd; NULL, empty and relative paths are rejected. */
extern char *ServerFilePath(Datum path, bool isnull);
/* The kind of the path: 'f' regular file, 'd' folder, '-' missing, '?' anything else. */
extern char ServerFileKind(const char *path);

/* Opens a regular file; ERROR if there is none. path must outlive the file. */
extern void ServerFileOpen(ServerFile *file, const char *path);
extern void ServerFileClose(ServerFile *file);
extern LlmSource ServerFileSource(ServerFile *file);
/* The contents of a small text file, in the server's encoding; NULL if there is none. */
extern char *ServerFileText(const char *path, Size limit);

#endif
