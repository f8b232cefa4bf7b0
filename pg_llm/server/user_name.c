// Preloaded into initdb, which insists on the name of its user and, given -U, uses it for nothing: containers
// run with user ids that no passwd file knows.
#include <pwd.h>
#include <unistd.h>

struct passwd *
getpwuid(uid_t uid)
{
	static struct passwd user = {
		.pw_name = "pg_llm",
		.pw_passwd = "",
		.pw_gecos = "",
		.pw_dir = "/",
		.pw_shell = "/bin/sh",
	};

	user.pw_uid = uid;
	user.pw_gid = getegid();
	return &user;
}
