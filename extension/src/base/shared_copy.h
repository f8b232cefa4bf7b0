/*
 * Data that all sessions of a server share in memory: one session writes a file and every session maps it
 * read-only. The file is in base/pgsql_tmp, under a name that the server removes when it starts and that base
 * backups skip; the library need not be preloaded and no shared memory is set up.
 *
 * Reading order: shared_key.c (what a copy contains, and who may share it), shared_copy.c (finding, waiting,
 * making), shared_files.c (names, and removal of unused files), then the two kinds of data:
 * model/shared_weights.c and tokenizer/tokenizer_compile.c.
 */
#ifndef LLM_SRC_BASE_SHARED_COPY_H
#define LLM_SRC_BASE_SHARED_COPY_H

#include "postgres.h"

#include "storage/fd.h"

/* Parts of a copy that start on a page boundary are aligned to this. */
#define SHARED_PAGE 4096
#define SHARED_ALIGN(size) TYPEALIGN64(SHARED_PAGE, size)

typedef enum SharedKind
{
	SHARED_MODEL = 'm',
	SHARED_TOKENIZER = 't'
} SharedKind;

/* The parts of a file's name. */
typedef struct SharedName
{
	uint32 run; /* of the server's current start: other values are leftovers of a crash */
	Oid database;
	char kind;
	uint64 name; /* hash of the model's or tokenizer's name */
	int64 version;
	uint64 identity; /* hash of SharedKey.identity */
	bool making;     /* not complete yet: its maker holds an exclusive lock on it */
} SharedName;

typedef struct SharedKey
{
	const char *model;
	const char *identity; /* text of everything the contents depend on; compared byte by byte */
	uint64 layout;
	SharedName file;
} SharedKey;

/* A mapped copy; all zeros if there is none. */
typedef struct SharedCopy
{
	int fd; /* its shared lock marks the file as in use */
	char *map;
	Size map_size;
	const char *data; /* after the file's head, page-aligned */
} SharedCopy;

/* ---- shared_key.c ---- */

/*
 * The key of the version of a model (or tokenizer) that the active snapshot sees. layout: the properties of
 * this build on which the contents depend. False if no copy may be shared: the setting is off, this
 * transaction has changed tables that models read, or the version is not a committed one. Palloc'd.
 */
extern bool SharedKeyOf(SharedKind kind, const char *model, int64 version, uint64 layout, SharedKey *key);
/* True if a new transaction would see the same version. */
extern bool SharedKeyIsLatest(const SharedKey *key);

/* ---- shared_copy.c ---- */

typedef struct SharedFile SharedFile;
/* Writes all data of the file with SharedWrite; returns false if SharedWrite did. May raise. */
typedef bool (*SharedFill)(SharedFile *file, void *context);
/* False if the disk is full or the file may not be written. at is an offset from the start of the data. */
extern bool SharedWrite(SharedFile *file, Size at, const void *data, Size size);

/*
 * Maps the copy with this key; makes it if there is none, or waits while another session makes it. size: an
 * upper bound of the data's size if it is known in advance, else 0. False if there is no copy and none could
 * be made; the caller then uses private memory.
 */
extern bool SharedGet(const SharedKey *key, Size size, SharedFill fill, void *context, SharedCopy *copy);
extern void SharedRelease(SharedCopy *copy);

/* ---- shared_files.c ---- */

extern uint64 SharedHash(const void *data, Size size);
/* Identifies the current start of the server; a crash begins another. */
extern uint32 SharedRun(void);
extern void SharedPath(const SharedName *name, bool making, char path[MAXPGPATH]);
/* Opens a file of the folder, which is created if it is missing; -1 and errno on failure. */
extern int SharedOpenFile(const char *path, int flags);
/* True if the path still refers to this open file. */
extern bool SharedIsAt(int fd, const char *path);
/* Removes every file that no session can use any more. */
extern void SharedSweep(void);
/*
 * Notes that this transaction gives the model this version: its commit removes the copies of other versions.
 */
extern void SharedOutdate(const char *model, int64 version);

#endif
