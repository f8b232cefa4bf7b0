/*
 * Paths of checkpoint files: <pg_llm.checkpoint_dir>/<cluster>-<database>/<id>-<model>-<random>/. The
 * extension makes every name, so that no argument can point outside the folder; and a database restored or
 * copied from another has a folder of its own, so that it never removes the other's files.
 *
 * A file made by a transaction that is rolled back is removed with it; a dropped file is removed when the
 * transaction commits. (A crash in between leaves a folder that no row of llm_checkpoint names.)
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "src/checkpoint/checkpoint.h"

static char *checkpoint_dir = NULL;

static bool
DirCheck(char **newval, void **extra, GucSource source)
{
	if (*newval == NULL || **newval == '\0')
		return true;
	canonicalize_path(*newval);
	if (!is_absolute_path(*newval))
		GUC_check_errdetail("Write the path from / on: the server resolves it in a folder of its own.");
	return is_absolute_path(*newval);
}

void
CheckpointSettings(void)
{
	DefineCustomStringVariable("pg_llm.checkpoint_dir",
		"Folder on the server in which llm_checkpoint_save makes files.",
		"Empty: checkpoints are rows. Roles in pg_write_server_files write there.", &checkpoint_dir, "",
		PGC_SUSET, 0, DirCheck, NULL, NULL);
}

/* ---- folders removed at the end of the transaction ---- */

typedef struct Pending
{
	struct Pending *next;
	SubTransactionId owner;
	bool at_commit; /* otherwise at abort */
	char folder[FLEXIBLE_ARRAY_MEMBER];
} Pending;

static Pending *pending = NULL;

/* Once the transaction has committed or aborted, nothing may raise an error. */
static void
RemoveFolder(const char *folder)
{
	static const char *const files[] = {
		"model.safetensors", "model.npz", "config.json", "tokenizer.json", "vocab.json", "merges.txt"};
	char path[MAXPGPATH];

	for (int i = 0; i < lengthof(files); i++)
	{
		snprintf(path, sizeof(path), "%s/%s", folder, files[i]);
		(void) unlink(path);
	}
	if (rmdir(folder) != 0 && errno != ENOENT)
		ereport(WARNING,
			(errcode_for_file_access(), errmsg("cannot remove checkpoint folder \"%s\": %m", folder)));
}

static void
Settle(Pending **at, bool remove)
{
	Pending *p = *at;

	*at = p->next;
	if (remove)
		RemoveFolder(p->folder);
	pfree(p);
}

static void
SubtransactionEnds(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	Pending **at = &pending;

	while (*at)
	{
		if ((*at)->owner == id && event == SUBXACT_EVENT_ABORT_SUB)
		{
			Settle(at, !(*at)->at_commit);
			continue;
		}
		if ((*at)->owner == id && event == SUBXACT_EVENT_COMMIT_SUB)
			(*at)->owner = parent;
		at = &(*at)->next;
	}
}

static void
TransactionEnds(XactEvent event, void *arg)
{
	if (pending && event == XACT_EVENT_PRE_PREPARE)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						   errmsg("a transaction that saved or deleted a checkpoint file cannot be prepared"),
						   errhint("Save it in a transaction of its own, or with location => 'database'.")));
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	while (pending)
		Settle(&pending, pending->at_commit == (event == XACT_EVENT_COMMIT));
}

/* Memory is allocated first: once the folder exists, no error may occur before it is in the list. */
static Pending *
PendingNew(const char *folder, bool at_commit)
{
	static bool registered = false;
	Pending *p = MemoryContextAlloc(TopMemoryContext, offsetof(Pending, folder) + strlen(folder) + 1);

	if (!registered)
	{
		RegisterXactCallback(TransactionEnds, NULL);
		RegisterSubXactCallback(SubtransactionEnds, NULL);
		registered = true;
	}
	p->owner = GetCurrentSubTransactionId();
	p->at_commit = at_commit;
	strcpy(p->folder, folder);
	return p;
}

static void
PendingAdd(Pending *p)
{
	p->next = pending;
	pending = p;
}

/* ---- names ---- */

/* This database's folder, whose name differs from that of any other database of this or another cluster. NULL
 * if pg_llm.checkpoint_dir is not set. */
static char *
DatabaseFolder(void)
{
	if (checkpoint_dir == NULL || checkpoint_dir[0] == '\0')
		return NULL;
	return psprintf(
		"%s/%016llx-%u", checkpoint_dir, (unsigned long long) GetSystemIdentifier(), MyDatabaseId);
}

/* Readable by everybody, as are files written by COPY TO. */
static bool
MakeFolder(const char *folder)
{
	if (mkdir(folder, 0755) != 0)
		return false;
	(void) chmod(folder, 0755); /* whatever the server's umask is */
	return true;
}

static void
CannotMake(const char *folder)
{
	ereport(ERROR,
		(errcode_for_file_access(), errmsg("cannot make folder \"%s\": %m", folder),
			errhint("pg_llm.checkpoint_dir must be a folder that the user who runs PostgreSQL may write.")));
}

char *
CheckpointFolderMake(int64 id, const char *model)
{
	char *parent = DatabaseFolder(), *folder, slug[41];
	Size length = Min(strlen(model), sizeof(slug) - 1);
	uint32 random;
	Pending *p;

	if (parent == NULL)
		ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("there is no folder for checkpoint files: pg_llm.checkpoint_dir is empty"),
				errhint(
					"Save with location => 'database', or have a superuser name a folder that the server may "
					"write: ALTER SYSTEM SET pg_llm.checkpoint_dir = '/path', then SELECT "
					"pg_reload_conf().")));
	for (Size i = 0; i < length; i++)
	{
		unsigned char c = (unsigned char) model[i];

		slug[i] = c < 128 && (isalnum(c) || c == '-' || c == '.') ? (char) c : '_';
	}
	slug[length] = '\0';
	if (!pg_strong_random(&random, sizeof(random)))
		random = (uint32) MyProcPid;
	folder = psprintf("%s/%lld-%s-%08x", parent, (long long) id, slug, random);
	if (strlen(folder) + 40 > MAXPGPATH)
		ereport(ERROR, (errcode(ERRCODE_NAME_TOO_LONG), errmsg("path \"%s\" is too long", folder),
						   errhint("Choose a shorter pg_llm.checkpoint_dir.")));
	if (!MakeFolder(parent) && errno != EEXIST)
		CannotMake(parent);
	fsync_fname(checkpoint_dir, true);
	p = PendingNew(folder, false);
	if (!MakeFolder(folder))
	{
		pfree(p);
		CannotMake(folder);
	}
	PendingAdd(p);
	fsync_fname(parent, true);
	return folder;
}

bool
CheckpointFolderDrop(int64 id, const char *file)
{
	char *parent = DatabaseFolder(), *start, *folder = pstrdup(file), *slash = strrchr(folder, '/');

	if (parent == NULL || slash == NULL || strlen(file) >= MAXPGPATH)
		return false;
	*slash = '\0';
	start = psprintf("%s/%lld-", parent, (long long) id);
	if (strncmp(folder, start, strlen(start)) != 0 || strchr(folder + strlen(start), '/') != NULL)
		return false;
	PendingAdd(PendingNew(folder, true));
	return true;
}
