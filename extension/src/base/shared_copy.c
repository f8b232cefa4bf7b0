/*
 * Finding, waiting for and making a shared copy. Sessions coordinate only through the file system: a flock()
 * is released when its holder exits for whatever reason, and rename() publishes a file only once it is
 * complete.
 *
 *   file            complete and never written again; each session that maps it holds a shared lock
 *   file.new        under construction; its maker holds an exclusive lock
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "src/base/shared_copy.h"
#include "src/base/wait.h"

/* Bytes written between two checks for interrupts. */
#define CHUNK ((Size) 8 << 20)
/* A maker that makes no progress for this long may itself be waiting for this session: go on without it. */
#define PATIENCE_MS 5000
#define POLL_MS 5

typedef struct Head
{
	char magic[8];
	uint64 size;     /* of the whole file */
	uint64 identity; /* length of the text after the head */
} Head;

static const char magic[8] = "pg_llm\1";

struct SharedFile
{
	int fd;
	Size start, end; /* of the data */
	int error;       /* errno of the write that failed */
};

typedef enum Found
{
	FOUND,  /* mapped; or locked and ready to be written */
	ABSENT, /* retry */
	BUSY,   /* another session is writing it */
	FAILED
} Found;

static Size
HeadSize(const SharedKey *key)
{
	return SHARED_ALIGN(sizeof(Head) + strlen(key->identity));
}

/* ---- mapping ---- */

void
SharedRelease(SharedCopy *copy)
{
	if (copy->map == NULL)
		return;
	munmap(copy->map, copy->map_size);
	close(copy->fd);
	ReleaseExternalFD();
	*copy = (SharedCopy){0};
}

static Found
MapOpen(const SharedKey *key, int fd, SharedCopy *copy)
{
	struct stat status;
	const Head *head;
	Size length = strlen(key->identity), all;
	char *map;

	if (flock(fd, LOCK_SH | LOCK_NB) != 0)
		return errno == EWOULDBLOCK ? BUSY : FAILED;
	if (fstat(fd, &status) != 0)
		return FAILED;
	if (status.st_nlink == 0)
		return ABSENT;
	all = status.st_size;
	if (all < HeadSize(key))
		return FAILED;
	map = mmap(NULL, all, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return FAILED;
	head = (const Head *) map;
	if (memcmp(head->magic, magic, sizeof(magic)) != 0 || head->size != all || head->identity != length ||
		memcmp(map + sizeof(Head), key->identity, length) != 0)
	{
		munmap(map, all);
		return FAILED;
	}
	futimens(fd, NULL); /* marks the file as just used, for SharedSweep */
	*copy = (SharedCopy){fd, map, all, map + HeadSize(key)};
	return FOUND;
}

static Found
MapFile(const SharedKey *key, SharedCopy *copy)
{
	char path[MAXPGPATH];
	Found found;
	int fd;

	SharedPath(&key->file, false, path);
	if (!AcquireExternalFD())
		return FAILED;
	fd = SharedOpenFile(path, O_RDONLY);
	found = fd >= 0 ? MapOpen(key, fd, copy) : errno == ENOENT ? ABSENT : FAILED;
	if (found != FOUND)
	{
		if (fd >= 0)
			close(fd);
		ReleaseExternalFD();
	}
	return found;
}

/* ---- making ---- */

bool
SharedWrite(SharedFile *file, Size at, const void *data, Size size)
{
	const char *from = data;
	off_t to = file->start + at;

	file->end = Max(file->end, to + size);
	while (size > 0)
	{
		ssize_t done;

		CHECK_FOR_INTERRUPTS();
		done = pwrite(file->fd, from, Min(size, CHUNK), to);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
		{
			file->error = done < 0 ? errno : ENOSPC;
			return false;
		}
		from += done;
		to += done;
		size -= done;
	}
	return true;
}

/*
 * Reserves the file's size, so that a full disk is detected before the work is done. Half of the free space
 * stays free, because a server that cannot write its log stops. (Pages are never written through a mapping,
 * where a full disk would kill the session.) Returns an errno, 0 for success.
 */
static int
Reserve(int fd, Size size)
{
	struct statvfs disk;
	int code = 0;

	if (fstatvfs(fd, &disk) == 0 && (uint64) disk.f_bavail * disk.f_frsize / 2 < size)
		return ENOSPC;
#ifdef HAVE_POSIX_FALLOCATE
	do
	{
		CHECK_FOR_INTERRUPTS();
		code = posix_fallocate(fd, 0, size);
	} while (code == EINTR);
#endif
	return code;
}

/* Creates the file and locks it for this session alone. */
static Found
BeginFile(const SharedKey *key, const char *path, int *fd)
{
	char complete[MAXPGPATH];
	struct stat status;
	Found found = FOUND;

	SharedPath(&key->file, false, complete);
	*fd = SharedOpenFile(path, O_RDWR | O_CREAT);
	if (*fd < 0)
		return FAILED;
	if (flock(*fd, LOCK_EX | LOCK_NB) != 0)
		found = errno == EWOULDBLOCK ? BUSY : FAILED;
	else if (!SharedIsAt(*fd, path))
		found = ABSENT; /* published or removed in the meantime */
	else if (fstat(*fd, &status) != 0 || status.st_size > 0 || access(complete, F_OK) == 0)
	{
		unlink(path); /* left by a maker that died, or created too late */
		found = ABSENT;
	}
	if (found != FOUND)
		close(*fd);
	return found;
}

static bool
FillFile(const SharedKey *key, int fd, Size size, SharedFill fill, void *context)
{
	SharedFile file = {fd, HeadSize(key), HeadSize(key)};
	Size length = strlen(key->identity);
	Head head = {.identity = length};

	file.error = Reserve(fd, HeadSize(key) + size);
	if (file.error == 0 && fill(&file, context))
	{
		memcpy(head.magic, magic, sizeof(magic));
		head.size = file.end;
		file.start = 0;
		if (ftruncate(fd, head.size) == 0 && SharedWrite(&file, 0, &head, sizeof(head)) &&
			SharedWrite(&file, sizeof(head), key->identity, length))
			return true;
	}
	errno = file.error;
	return false;
}

static Found
MakeFile(const SharedKey *key, Size size, SharedFill fill, void *context)
{
	char path[MAXPGPATH], complete[MAXPGPATH];
	volatile bool made = false;
	Found found;
	int fd;

	SharedPath(&key->file, true, path);
	SharedPath(&key->file, false, complete);
	if (!AcquireExternalFD())
		return FAILED;
	found = BeginFile(key, path, &fd);
	if (found == FOUND)
	{
		PG_TRY();
		{
			made = FillFile(key, fd, size, fill, context) && rename(path, complete) == 0;
			if (!made)
				ereport(LOG, (errmsg("pg_llm: no copy of \"%s\" for all sessions (%zu MB): %m", key->model,
								  size >> 20),
								 errdetail("Each session that uses it keeps a private copy in memory.")));
		}
		PG_FINALLY();
		{
			if (!made)
				unlink(path);
			close(fd);
			ReleaseExternalFD();
		}
		PG_END_TRY();
		return made ? FOUND : FAILED;
	}
	ReleaseExternalFD();
	return found;
}

/* ---- waiting ---- */

/* Progress of the maker, and since when it has not changed. */
typedef struct Progress
{
	struct timespec written;
	ino_t file;
	TimestampTz since;
} Progress;

/* Sleeps briefly; false if the maker has made no progress for too long. */
static bool
WaitForMaker(const SharedKey *key, Progress *p)
{
	TimestampTz now = GetCurrentTimestamp();
	char path[MAXPGPATH];
	struct stat status;

	SharedPath(&key->file, true, path);
	if (stat(path, &status) == 0 &&
		(status.st_ino != p->file || memcmp(&status.st_mtim, &p->written, sizeof(p->written)) != 0))
		*p = (Progress){status.st_mtim, status.st_ino, now};
	if (p->since == 0)
		p->since = now;
	if (now - p->since > PATIENCE_MS * INT64CONST(1000))
		return false;
	(void) WaitLatch(
		MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, POLL_MS, WaitEventFor(WAIT_COPY));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return true;
}

bool
SharedGet(const SharedKey *key, Size size, SharedFill fill, void *context, SharedCopy *copy)
{
	Progress progress = {0};
	bool made = false;

	for (;;)
	{
		Found found = MapFile(key, copy);

		if (made) /* even if it is outdated by now */
			SharedSweep();
		if (found == FOUND || found == FAILED)
			return found == FOUND;
		if (found == ABSENT && (made || !SharedKeyIsLatest(key)))
			return false;
		if (found == ABSENT)
			found = MakeFile(key, size, fill, context);
		if (found == FAILED)
			return false;
		made = found == FOUND;
		if (found == BUSY && !WaitForMaker(key, &progress))
			return false;
		CHECK_FOR_INTERRUPTS();
	}
}
