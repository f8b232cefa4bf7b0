#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"

#include "src/checkpoint/export_file.h"
#include "src/checkpoint/import_file.h"

typedef struct Writer
{
	char *temporary;
	int fd;
} Writer;

static LlmCode
Append(void *context, const void *bytes, size_t size, LlmError *err)
{
	Writer *writer = context;

	while (size > 0)
	{
		ssize_t done;

		CHECK_FOR_INTERRUPTS();
		errno = 0;
		done = write(writer->fd, bytes, Min(size, SERVER_FILE_PIECE));
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
		{
			if (errno == 0)
				errno = ENOSPC; /* a short write without a reason is a full disk */
			ereport(ERROR, (errcode_for_file_access(), errmsg("cannot write \"%s\": %m", writer->temporary)));
		}
		bytes = (const char *) bytes + done;
		size -= (size_t) done;
	}
	return LLM_OK;
}

static void
RemoveTemporary(int code, Datum arg)
{
	unlink(((Writer *) DatumGetPointer(arg))->temporary);
}

static void
Create(Writer *writer, const char *path)
{
	uint32 random;

	if (!pg_strong_random(&random, sizeof(random)))
		random = (uint32) MyProcPid;
	writer->temporary = psprintf("%s.%08x.tmp", path, random);
	writer->fd = OpenTransientFile(writer->temporary, O_WRONLY | O_CREAT | O_EXCL | PG_BINARY);
	if (writer->fd < 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("cannot create \"%s\": %m", writer->temporary),
						   errhint("The server writes it as the user that runs PostgreSQL.")));
	/* The server's umask would hide the file from other users; COPY TO lets them read its files, too. */
	(void) fchmod(writer->fd, 0644);
}

void
WriteServerFile(const char *path, void (*produce)(const LlmSink *sink, void *arg), void *arg)
{
	Writer writer = {0};
	LlmSink sink = {Append, &writer};
	char kind = ServerFileKind(path);

	if (kind == 'd' || kind == '?')
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						   errmsg("\"%s\" is %s", path, kind == 'd' ? "a folder" : "not a regular file"),
						   kind == 'd' ? errhint("Add the file's name to the path.") : 0));
	Create(&writer, path);
	PG_ENSURE_ERROR_CLEANUP(RemoveTemporary, PointerGetDatum(&writer));
	{
		produce(&sink, arg);
		if (CloseTransientFile(writer.fd) != 0)
			ereport(ERROR, (errcode_for_file_access(), errmsg("cannot close \"%s\": %m", writer.temporary)));
		durable_rename(writer.temporary, path, ERROR); /* fsyncs the file first, and the folder after */
	}
	PG_END_ENSURE_ERROR_CLEANUP(RemoveTemporary, PointerGetDatum(&writer));
}
