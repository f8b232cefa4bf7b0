/*
 * Data that all sessions of a server hold in memory once: a file that one session makes and every session
 * maps read-only. It lies in base/pgsql_tmp, under a name that the server clears away when it starts and base
 * backups leave out; nothing has to be preloaded and no shared memory set up.
 *
 * Reading order: shared_key.c (what a copy is of, and who may share it), shared_copy.c (finding, waiting,
 * making), shared_files.c (names, and clearing away what nobody needs), then the two kinds of data:
 * model/shared_weights.c and tokenizer/tokenizer_compile.c.
 */
#ifndef LLM_SRC_BASE_SHARED_COPY_H
#define LLM_SRC_BASE_SHARED_COPY_H

#include "postgres.h"

#include "storage/fd.h"

/* What begins on a page of its own in a copy. */
#define SHARED_PAGE 4096
#define SHARED_ALIGN(size) TYPEALIGN64(SHARED_PAGE, size)

typedef enum SharedKind
{
	SHARED_MODEL = 'm',
	SHARED_TOKENIZER = 't'
} SharedKind;

/* A file's name, in parts. */
typedef struct SharedName
{
	uint32 run; /* of the server: other numbers are leftovers of a crash */
	Oid database;
	char kind;
	uint64 name; /* hash of the model's or tokenizer's */
	int64 version;
	uint64 identity; /* hash of SharedKey.identity */
	bool making;     /* not complete: its maker holds an exclusive lock on it */
} SharedName;

typedef struct SharedKey
{
	const char *model;
	const char *identity; /* text of all that the contents depend on; compared byte by byte */
	uint64 layout;
	SharedName file;
} SharedKey;

/* A mapped copy; all zeros: none. */
typedef struct SharedCopy
{
	int fd; /* its shared lock says that the file is used */
	char *map;
	Size map_size;
	const char *data; /* behind the file's head, on a page's start */
} SharedCopy;

/* ---- shared_key.c ---- */

/*
 * The key of a model's (or tokenizer's) version that the active snapshot sees. layout: what of this build the
 * contents depend on. False where no copy may be shared: the setting is off, this transaction has changed
 * what models read, or the version is not a committed one. Palloc'd.
 */
extern bool SharedKeyOf(SharedKind kind, const char *model, int64 version, uint64 layout, SharedKey *key);
/* Is it the version that a new transaction would see? */
extern bool SharedKeyIsLatest(const SharedKey *key);

/* ---- shared_copy.c ---- */

typedef struct SharedFile SharedFile;
/* Writes all data of the file by SharedWrite; false where that said so. May raise. */
typedef bool (*SharedFill)(SharedFile *file, void *context);
/* False: no room, or no right to write. at counts from the start of the data. */
extern bool SharedWrite(SharedFile *file, Size at, const void *data, Size size);

/*
 * Maps the copy of this key; made now if there is none, or waited for while another session makes it. size:
 * of the data at most, where that is known before they are written, else 0. False: there is none and none
 * could be made, so the caller keeps private memory.
 */
extern bool SharedGet(const SharedKey *key, Size size, SharedFill fill, void *context, SharedCopy *copy);
extern void SharedRelease(SharedCopy *copy);

/* ---- shared_files.c ---- */

extern uint64 SharedHash(const void *data, Size size);
/* This run of the server; a crash begins another. */
extern uint32 SharedRun(void);
extern void SharedPath(const SharedName *name, bool making, char path[MAXPGPATH]);
/* Opens a file of the folder, which is made where it is missing; -1 and errno. */
extern int SharedOpenFile(const char *path, int flags);
/* Is this open file the one that the path names? */
extern bool SharedIsAt(int fd, const char *path);
/* Removes every file that no session can have use for. */
extern void SharedSweep(void);
/* This transaction gives the model this version: its commit removes copies of others. */
extern void SharedOutdate(const char *model, int64 version);

#endif
