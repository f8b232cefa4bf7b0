#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_authid.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "src/base/errors.h"
#include "src/base/memory.h"
#include "src/checkpoint/import_file.h"

void
ServerFileAllow(bool write)
{
	Oid role = write ? ROLE_PG_WRITE_SERVER_FILES : ROLE_PG_READ_SERVER_FILES;

	if (has_privs_of_role(GetUserId(), role))
		return;
	ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					   errmsg("permission denied to %s a file of the server", write ? "write" : "read"),
					   errdetail("Only roles with privileges of \"%s\" may do this.",
						   write ? "pg_write_server_files" : "pg_read_server_files"),
					   write ? errhint("A superuser can grant it: GRANT pg_write_server_files TO %s.",
								   GetUserNameFromId(GetUserId(), false))
							 : errhint("Import your own file over the connection, from Python: "
									   "pg_llm.load_model(conn, folder_or_file, model).")));
}

char *
ServerFilePath(Datum path, bool isnull)
{
	char *result = isnull ? "" : TextDatumGetCString(path);

	if (result[0] == '\0')
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("path must not be NULL or empty")));
	canonicalize_path(result);
	if (!is_absolute_path(result))
		ereport(ERROR,
			(errcode(ERRCODE_INVALID_NAME), errmsg("path \"%s\" is not absolute", result),
				errhint("The server resolves paths, in a folder of its own: write the path from / on.")));
	return result;
}

char
ServerFileKind(const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0)
	{
		if (errno != ENOENT && errno != ENOTDIR)
			ereport(ERROR, (errcode_for_file_access(), errmsg("cannot stat \"%s\": %m", path)));
		return '-';
	}
	return S_ISREG(st.st_mode) ? 'f' : S_ISDIR(st.st_mode) ? 'd' : '?';
}

/* Opens the file without blocking (a named pipe would block), and determines its size. */
static void
OpenDescriptor(ServerFile *file, struct stat *st)
{
	file->fd = OpenTransientFile(file->path, O_RDONLY | O_NONBLOCK | PG_BINARY);
	if (file->fd < 0)
	{
		bool denied = errno == EACCES;

		ereport(ERROR,
			(errcode_for_file_access(), errmsg("cannot open \"%s\": %m", file->path),
				denied ? errhint("The server reads it as the user that runs PostgreSQL: chmod o+r, or import "
								 "over the "
								 "connection, from Python: pg_llm.load_model(conn, folder_or_file, model).")
					   : 0));
	}
	if (fstat(file->fd, st) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("cannot stat \"%s\": %m", file->path)));
	if (!S_ISREG(st->st_mode))
		ereport(
			ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is not a regular file", file->path)));
}

void
ServerFileOpen(ServerFile *file, const char *path)
{
	struct stat st;

	*file = (ServerFile){.path = path, .fd = -1};
	OpenDescriptor(file, &st);
	file->size = (uint64) st.st_size;
}

void
ServerFileClose(ServerFile *file)
{
	if (file->fd >= 0)
		CloseTransientFile(file->fd);
	file->fd = -1;
}

/* Implements LlmSource.read. An ERROR may leave it by longjmp, so the memory of formats/ belongs to a memory
 * context. */
static LlmCode
ReadAt(void *context, uint64_t offset, void *buffer, size_t size, LlmError *err)
{
	ServerFile *file = context;
	struct stat st;

	if (file->fd < 0)
		OpenDescriptor(file, &st);
	while (size > 0)
	{
		ssize_t got;

		CHECK_FOR_INTERRUPTS();
		got = pread(file->fd, buffer, Min(size, SERVER_FILE_PIECE), (off_t) offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			ereport(ERROR, (errcode_for_file_access(), errmsg("cannot read \"%s\": %m", file->path)));
		if (got == 0)
			return llm_fail(err, LLM_FORMAT, "%s: became shorter while it was read", file->path);
		buffer = (char *) buffer + got;
		offset += (uint64_t) got;
		size -= (size_t) got;
	}
	return LLM_OK;
}

LlmSource
ServerFileSource(ServerFile *file)
{
	return (LlmSource){ReadAt, file, file->size, file->path, &CancelStop};
}

char *
ServerFileText(const char *path, Size limit)
{
	ServerFile file;
	LlmError err;
	char *text;

	if (ServerFileKind(path) == '-')
		return NULL;
	ServerFileOpen(&file, path);
	if (file.size > limit)
		ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("%s: %llu bytes, at most %zu are expected", path,
														  (unsigned long long) file.size, limit)));
	ReserveMemory(file.size);
	text = palloc(file.size + 1);
	if (ReadAt(&file, 0, text, file.size, &err) != LLM_OK)
		ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("%s", err.message)));
	text[file.size] = '\0';
	ServerFileClose(&file);
	return text;
}
