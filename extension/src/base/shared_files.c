/*
 * The files of shared copies: their names, and which of them can be removed. A removed file stays in memory
 * until the last session that maps it unmaps it, so removal never disturbs a session.
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/pg_shmem.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#if PG_VERSION_NUM >= 160000
#include "common/file_utils.h"
#endif

#include "src/base/shared_copy.h"
#include "src/base/spi.h"

#define FOLDER "base/" PG_TEMP_FILES_DIR
#define PREFIX PG_TEMP_FILE_PREFIX "_pg_llm."
#define MAKING ".new"
/* Seconds for which a copy that no session maps is kept for the next session. */
#define KEPT 3600

uint64
SharedHash(const void *data, Size size)
{
	return hash_bytes_extended(data, (int) size, 0);
}

uint32
SharedRun(void)
{
	/* a random number, drawn at each start and at each recovery from a crash */
	return (uint32) ((PGShmemHeader *) UsedShmemSegAddr)->dsm_control;
}

void
SharedPath(const SharedName *n, bool making, char path[MAXPGPATH])
{
	snprintf(path, MAXPGPATH, FOLDER "/" PREFIX "%08x.%u.%c%016llx.%lld.%016llx%s", n->run, n->database,
		n->kind, (unsigned long long) n->name, (long long) n->version, (unsigned long long) n->identity,
		making ? MAKING : "");
}

static bool
ParseName(const char *file, SharedName *n)
{
	unsigned long long name, identity;
	long long version;
	int end = 0;

	if (strncmp(file, PREFIX, strlen(PREFIX)) != 0 ||
		sscanf(file + strlen(PREFIX), "%x.%u.%c%llx.%lld.%llx%n", &n->run, &n->database, &n->kind, &name,
			&version, &identity, &end) != 6)
		return false;
	n->name = name;
	n->version = version;
	n->identity = identity;
	n->making = strcmp(file + strlen(PREFIX) + end, MAKING) == 0;
	return true;
}

int
SharedOpenFile(const char *path, int flags)
{
	int fd = BasicOpenFilePerm(path, flags | O_CLOEXEC, 0600);

	if (fd < 0 && errno == ENOENT && (flags & O_CREAT))
	{
		(void) MakePGDirectory(FOLDER); /* exists by now, or the open below reports why not */
		fd = BasicOpenFilePerm(path, flags | O_CLOEXEC, 0600);
	}
	return fd;
}

bool
SharedIsAt(int fd, const char *path)
{
	struct stat open_file, named;

	return fstat(fd, &open_file) == 0 && stat(path, &named) == 0 && open_file.st_dev == named.st_dev &&
		   open_file.st_ino == named.st_ino;
}

/* Removes a file unless a session holds a lock on it. */
static void
RemoveUnused(const char *path)
{
	int fd = SharedOpenFile(path, O_RDONLY);

	if (fd < 0)
		return;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0 && SharedIsAt(fd, path))
		unlink(path);
	close(fd);
}

/* ---- sweeping ---- */

typedef struct Versions
{
	int64 *numbers;
	uint64 count;
} Versions;

/* Reads all version numbers that are valid now in this database. */
static Versions
LatestVersions(void)
{
	static SpiQuery read_versions = {.text = "SELECT version FROM %s.llm_model_version", .columns = "l"};
	MemoryContext caller = CurrentMemoryContext;
	Versions v;
	bool null;

	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	SpiRun(&read_versions, NULL, NULL, true, 0);
	v.count = SPI_processed;
	v.numbers = MemoryContextAllocHuge(caller, sizeof(int64) * (v.count + 1));
	for (uint64 i = 0; i < v.count; i++)
		v.numbers[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null));
	SPI_finish();
	PopActiveSnapshot();
	return v;
}

static bool
IsValid(const SharedName *n, const Versions *latest)
{
	if (n->run != SharedRun())
		return false;
	if (n->database != MyDatabaseId)
		return SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(n->database));
	for (uint64 i = 0; i < latest->count; i++)
		if (latest->numbers[i] == n->version)
			return true;
	return false;
}

void
SharedSweep(void)
{
	Versions latest = LatestVersions();
	DIR *folder = AllocateDir(FOLDER);
	struct dirent *entry;

	while ((entry = ReadDirExtended(folder, FOLDER, DEBUG1)) != NULL)
	{
		char path[MAXPGPATH];
		struct stat status;
		SharedName n;

		if (!ParseName(entry->d_name, &n))
			continue;
		snprintf(path, sizeof(path), FOLDER "/%s", entry->d_name);
		if (!n.making && !IsValid(&n, &latest))
			unlink(path);
		else if (n.making || (stat(path, &status) == 0 && status.st_mtime < time(NULL) - KEPT))
			RemoveUnused(path);
	}
	FreeDir(folder);
	pfree(latest.numbers);
}

/* ---- copies that a transaction invalidates ---- */

typedef struct Outdated
{
	struct Outdated *next;
	uint64 name;
	int64 version; /* the new one */
} Outdated;

static Outdated *outdated = NULL; /* in TopTransactionContext */

static const Outdated *
FindOutdated(uint64 name)
{
	for (const Outdated *o = outdated; o; o = o->next)
		if (o->name == name)
			return o;
	return NULL;
}

/* Runs after the commit, where nothing may raise an error. */
static void
RemoveOutdated(void)
{
	DIR *folder = opendir(FOLDER);
	struct dirent *entry;

	while (folder && (entry = readdir(folder)) != NULL)
	{
		char path[MAXPGPATH];
		const Outdated *o;
		SharedName n;

		if (!ParseName(entry->d_name, &n) || n.making || n.database != MyDatabaseId ||
			(o = FindOutdated(n.name)) == NULL || o->version == n.version)
			continue;
		snprintf(path, sizeof(path), FOLDER "/%s", entry->d_name);
		unlink(path);
	}
	if (folder)
		closedir(folder);
}

static void
TransactionEnds(XactEvent event, void *arg)
{
	if (outdated == NULL || event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PARALLEL_PRE_COMMIT ||
		event == XACT_EVENT_PRE_PREPARE)
		return;
	if (event == XACT_EVENT_COMMIT)
		RemoveOutdated();
	outdated = NULL;
}

void
SharedOutdate(const char *model, int64 version)
{
	static bool registered = false;
	uint64 name = SharedHash(model, strlen(model));
	Outdated *o = (Outdated *) FindOutdated(name);

	if (!registered)
	{
		RegisterXactCallback(TransactionEnds, NULL);
		registered = true;
	}
	if (o == NULL)
	{
		o = MemoryContextAlloc(TopTransactionContext, sizeof(Outdated));
		*o = (Outdated){outdated, name, version};
		outdated = o;
	}
	o->version = version;
}
