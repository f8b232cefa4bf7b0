"""The students of a class: a role without powers each, with a database of its own, limits and a password.

A student is whole or not there at all. The role is made first, without the right to log in and with a comment
that says so; the last step, one transaction, gives login, password and membership in the class. What an
interrupted command leaves is no student, and the next command with that name removes it.
"""

from __future__ import annotations

import contextlib
import secrets
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pg_llm import catalog
from pg_llm.errors import KitError
from pg_llm.server import database as databases
from pg_llm.server import rights
from pg_llm.server.connect import maintenance, open_database

CLASS = "llm_class"  # a role without login, whose members are the students
HALF = "pg_llm: not a student yet, or no longer"  # the comment on a role that is being made or removed
LOCK = 0x636C617373  # "class": one command at a time changes the students
# The owner of a database may set these for whoever enters it; what a connection asks for itself wins.
PINNED = (
    "-c search_path=pg_catalog,pg_temp -c role=none -c default_transaction_read_only=off "
    "-c statement_timeout={timeout} -c lock_timeout={lock}"
)
LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that looks like another

# Only a superuser, or whoever made the class, grants membership: a student cannot forge it. That role itself
# is a member with the option to admit others.
STUDENTS = """
    SELECT r.rolname, r.rolconnlimit, r.rolcreatedb,
        (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid),
        (SELECT array_agg(d.datname::text ORDER BY d.datname) FROM pg_database d WHERE d.datdba = r.oid),
        (SELECT sum(pg_database_size(d.oid))::bigint FROM pg_database d WHERE d.datdba = r.oid
            AND (has_database_privilege(d.oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE')))
    FROM pg_roles r
    WHERE EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid AND m.roleid = to_regrole(%s))
      AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid AND m.roleid = to_regrole(%s)
          AND m.admin_option)
      AND NOT r.rolsuper AND shobj_description(r.oid, 'pg_authid') IS DISTINCT FROM %s
    ORDER BY r.rolname
"""
# What a role owns, or is granted, in other databases than its own: a large object in `postgres`, say.
ELSEWHERE = """
    SELECT DISTINCT d.datname FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid
    WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = %s AND d.datdba <> %s AND d.datallowconn
"""


@dataclass(frozen=True)
class Limits:
    """What a student may use: connections at once, memory of a session for tensors, time of a statement.

    The student can raise the time, which is there for statements that were forgotten, not the others.
    createdb: may create databases, so that each notebook gets one.
    """

    connections: int = 6
    memory: str = "1GB"
    timeout: str = "30min"
    createdb: bool = False


@dataclass(frozen=True)
class Student:
    """A student of the class. databases: those that the student owns; bytes: their size, where known."""

    name: str
    connections: int
    createdb: bool
    sessions: int
    databases: tuple[str, ...]
    bytes: int | None

    @property
    def complete(self) -> bool:
        """False if the student has dropped the own database; `pg-llm class reset` makes it again."""
        return self.name in self.databases


def listed() -> list[Student]:
    """The students of the class, ordered by name."""
    with maintenance() as conn:
        return _students(conn)


def add(
    names: Iterable[str], limits: Limits | None = None, say: Callable[[str], object] = print
) -> Iterator[tuple[str, str]]:
    """Makes students, and yields name and password of each as soon as it is whole.

    Who is in the class already is passed over. Errors: KitError, before anybody is made, for names that
    cannot be a student's; KitError and psycopg.Error in between leave those made before.
    """
    limits, wanted = limits or Limits(), checked(names)
    _keep_attempts(say)
    with _changing() as conn:
        for name in wanted:
            if _is_half(conn, name):
                _unmake(conn, name)
        known = {each.name for each in _students(conn)}
        for name in wanted:
            if name not in known:
                _refuse_taken(conn, name)
        _warn_of_connections(conn, len(known | set(wanted)) * limits.connections, say)
        for name in wanted:
            if name in known:
                say(f"{name} is in the class already; a new password: pg-llm class password")
                continue
            word = _word()
            _make(conn, name, word, limits, say)
            yield name, word


def remove(names: Sequence[str], force: bool = False) -> None:
    """Removes students with all their databases; attempts stay in the gradebook. Errors: KitError.

    force: ends their sessions.
    """
    with _changing() as conn:
        known = {each.name: each for each in _students(conn)}
        for name in names:
            if name not in known and not _is_half(conn, name):
                raise KitError(_no_student(name, known))
        if not force:
            _refuse_connected([known[name] for name in names if name in known], "remove")
        for name in names:
            _unmake(conn, name)


def password(name: str) -> str:
    """Gives a student a new password and returns it; open sessions go on. Errors: KitError."""
    with _changing() as conn:
        _known(conn, name)
        word = _word()
        conn.execute(_set_password(conn, name, word))
        return word


def reset(name: str, force: bool = False) -> None:
    """Gives a student a new database in place of the own one, with nothing kept but the attempts.

    force: ends the sessions in it. Errors: KitError, and the database is as it was.
    """
    with _changing() as conn:
        student = _known(conn, name)
        if not force:
            _refuse_connected([student], "reset")
        fresh = f"{_shortened(name)}_new_{uuid.uuid4().hex[:6]}"
        try:
            _database_for(conn, name, fresh)
            with _acting_for(conn, name):
                if student.complete:
                    _drop_database(conn, name)
                rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                conn.execute(rename.format(sql.Identifier(fresh), sql.Identifier(name)))
        except BaseException:
            if databases.database_exists(name):  # else the new one is all that the student has
                with _acting_for(conn, name):
                    _drop_database(conn, fresh)
            raise


def share(database: str) -> None:
    """Opens one database for the class: students read the teacher's rows, and read and change their own.

    database: made from the template if missing. Call it again after students were added: each has a schema
    there. Errors: KitError, psycopg.Error.
    """
    from importlib import resources

    script = resources.files("pg_llm.course").joinpath("shared.sql").read_text(encoding="utf-8")
    with _changing() as conn:
        if not _students(conn):
            raise KitError("the class has no students yet: pg-llm class add NAME…")
        if not databases.database_exists(database):
            databases.create_database(database)
        owner = rights.stranger(conn, database)
        if owner:
            raise KitError(f"database {database} belongs to role {owner}; choose one of yours, or a new name")
    with contextlib.closing(enter(database)) as inside:
        catalog.namespace(inside)
        try:
            inside.execute(script.encode())
        except psycopg.errors.InsufficientPrivilege as error:
            raise KitError(
                f"{error.diag.message_primary}: only the superuser who owns its tables shares it"
            ) from None


def checked(names: Iterable[str]) -> list[str]:
    """The names, each once, composed as NFC. Errors: KitError for what no role or database can be called."""
    found = list(dict.fromkeys(unicodedata.normalize("NFC", name).strip() for name in names))
    if not found:
        raise KitError("no names: NAME… or --roster FILE was expected")
    alike: dict[str, str] = {}
    for name in found:
        size = len(name.encode())
        if not 0 < size <= 63:
            raise KitError(f"the name of a student has 1 to 63 bytes, {name!r} has {size}")
        if not name.isprintable() or name.startswith("-"):
            raise KitError(f"{name!r} cannot be a student's name: it has control characters or begins with -")
        if name.casefold() in alike:
            raise KitError(
                f"{alike[name.casefold()]} and {name} differ in capitals only: one of them is a mistake"
            )
        if name.startswith("pg_") or databases.reserved(name, name) or name in (CLASS, "public", "none"):
            raise KitError(f"the name {name} is one of the server's or the kit's own; choose another")
        alike[name.casefold()] = name
    return found


def enter(database: str, timeout: str = "0", lock: str = "10s") -> psycopg.Connection:
    """A connection to a student's database, on which no name means anything but PostgreSQL's own.

    timeout, lock: statement_timeout and lock_timeout, since a student may hold every lock there.
    """
    return open_database(database, PINNED.format(timeout=timeout, lock=lock))


# -- the parts ----------------------------------------


@contextlib.contextmanager
def _changing() -> Iterator[psycopg.Connection]:
    """As maintenance(), to change students; such commands take turns."""
    with maintenance() as conn:
        conn.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        yield conn


def _students(conn: psycopg.Connection) -> list[Student]:
    rows = conn.execute(STUDENTS, [CLASS, CLASS, HALF]).fetchall()
    return [
        Student(name, connections, createdb, sessions, tuple(owned or ()), size)
        for name, connections, createdb, sessions, owned, size in rows
    ]


def _known(conn: psycopg.Connection, name: str) -> Student:
    known = {each.name: each for each in _students(conn)}
    if name not in known:
        raise KitError(_no_student(name, known))
    return known[name]


def _no_student(name: str, known: Iterable[str]) -> str:
    return f"there is no student {name}; 'pg-llm class list' shows the {len(list(known))} of the class"


def _is_half(conn: psycopg.Connection, name: str) -> bool:
    query = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s"
    return conn.execute(query, [name]).fetchone() == (HALF,)


def _refuse_taken(conn: psycopg.Connection, name: str) -> None:
    if conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone():
        raise KitError(
            f"role {name} exists and is not of this class: choose another name, or drop the role; "
            "nobody was added"
        )
    if databases.database_exists(name):
        raise KitError(
            f"there is a database {name} already, which would be the student's: choose another name; "
            "nobody was added"
        )


def _refuse_connected(students: Iterable[Student], command: str) -> None:
    busy = [f"{each.name} ({each.sessions})" for each in students if each.sessions]
    if busy:
        raise KitError(
            f"sessions are open: {', '.join(busy)}; close them, or end them with "
            f"pg-llm class {command} --force"
        )


def _warn_of_connections(conn: psycopg.Connection, needed: int, say: Callable[[str], object]) -> None:
    query = "SELECT current_setting('max_connections')::int - current_setting(%s)::int"
    there = catalog.value(conn, query, ["superuser_reserved_connections"])
    if needed > there:
        say(
            f"the class may open {needed} connections at once, the server has {there}: raise "
            "max_connections or lower --connections"
        )


def _keep_attempts(say: Callable[[str], object]) -> None:
    """Makes the database for the attempts of all, without which students would keep their own."""
    from pg_llm.course import store

    with maintenance() as conn:
        superuser = _superuser(conn)
    if superuser:
        with store.connection():
            return
    if store.is_of_all():
        return
    say(
        f"no superuser has made {store.DATABASE}: attempts stay in each student's database, where no report "
        "reads them; ask a superuser to run: pg-llm course keys"
    )


def _make(
    conn: psycopg.Connection, name: str, word: str, limits: Limits, say: Callable[[str], object]
) -> None:
    role = sql.Identifier(name)
    try:
        with conn.transaction():
            create = sql.SQL("CREATE ROLE {} NOLOGIN {} CONNECTION LIMIT {}")
            powers = sql.SQL("CREATEDB" if limits.createdb else "NOCREATEDB")
            conn.execute(create.format(role, powers, sql.Literal(limits.connections)))
            conn.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, sql.Literal(HALF)))
    except psycopg.errors.InsufficientPrivilege:
        raise KitError(
            f"role {conn.info.user} may not create students: it needs CREATEROLE and CREATEDB"
            + (", and to let them create databases" if limits.createdb else "")
        ) from None
    try:
        _limit(conn, role, limits, say)
        _database_for(conn, name, name)
        with conn.transaction():
            if not conn.execute("SELECT to_regrole(%s)", [CLASS]).fetchone()[0]:  # type: ignore[index]
                conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(CLASS)))
            # The student may not become the class, whose objects would stay when the student goes.
            option = " WITH SET FALSE" if conn.info.server_version >= 160000 else ""
            conn.execute(sql.SQL("GRANT {} TO {}" + option).format(sql.Identifier(CLASS), role))
            conn.execute(sql.SQL("ALTER ROLE {} LOGIN").format(role))
            conn.execute(_set_password(conn, name, word))
            conn.execute(sql.SQL("COMMENT ON ROLE {} IS NULL").format(role))
    except BaseException:
        with contextlib.suppress(psycopg.Error, KitError):  # else the next command does it
            _unmake(conn, name)
        raise


def _limit(
    conn: psycopg.Connection, role: sql.Identifier, limits: Limits, say: Callable[[str], object]
) -> None:
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        conn.execute("LOAD 'pg_llm'")  # so that the server looks at the value now
    change = sql.SQL("ALTER ROLE {} SET {} = {}")
    settings = {"statement_timeout": limits.timeout, "pg_llm.memory_limit": limits.memory}
    for setting, value in settings.items():
        named = sql.SQL(setting)  # type: ignore[arg-type]
        try:
            conn.execute(change.format(role, named, sql.Literal(value)))
        except psycopg.errors.InsufficientPrivilege:
            say(
                f"{setting} was not set: ask a superuser for GRANT SET ON PARAMETER {setting} TO "
                f"{conn.info.user}, then for ALTER ROLE"
            )


def _database_for(conn: psycopg.Connection, name: str, database: str) -> None:
    """Makes a database from the template that belongs to a student."""
    with _acting_for(conn, name):
        if not databases.create_database(database, owner=name):
            raise KitError(f"a database {database} was made just now by somebody else")
        if not _superuser(conn):  # who gives up the ownership still watches
            allow = sql.SQL("GRANT CONNECT ON DATABASE {} TO CURRENT_USER")
            conn.execute(allow.format(sql.Identifier(database)))


def _unmake(conn: psycopg.Connection, name: str) -> None:
    """Removes a role with everything that belongs to it; interrupted, it leaves a half student."""
    role = sql.Identifier(name)
    with conn.transaction():
        conn.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(role))
        conn.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, sql.Literal(HALF)))
    oid = catalog.value(conn, "SELECT oid FROM pg_roles WHERE rolname = %s", [name])
    with _acting_for(conn, name):
        conn.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usesysid = %s", [oid]
        )
        owned = "SELECT datname FROM pg_database WHERE datdba = %s ORDER BY datname"
        for (database,) in conn.execute(owned, [oid]).fetchall():
            _drop_database(conn, database)
        for (database,) in conn.execute(ELSEWHERE, [oid, oid]).fetchall():
            with contextlib.closing(enter(database)) as inside:
                inside.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
        conn.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
    conn.execute(sql.SQL("DROP ROLE {}").format(role))


def _drop_database(conn: psycopg.Connection, database: str) -> None:
    name = sql.Identifier(database)
    with contextlib.suppress(psycopg.errors.InvalidCatalogName):
        conn.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(name))
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@contextlib.contextmanager
def _acting_for(conn: psycopg.Connection, name: str) -> Iterator[None]:
    """In it this role has a student's rights, too; a superuser has them anyway."""
    if _superuser(conn):
        yield
        return
    role = sql.Identifier(name)
    option = " WITH INHERIT TRUE, SET TRUE" if conn.info.server_version >= 160000 else ""
    conn.execute(sql.SQL("GRANT {} TO CURRENT_USER" + option).format(role))
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute(sql.SQL("REVOKE {} FROM CURRENT_USER").format(role))


def _superuser(conn: psycopg.Connection) -> bool:
    return catalog.value(conn, "SELECT rolsuper FROM pg_roles WHERE rolname = session_user")


def _set_password(conn: psycopg.Connection, name: str, word: str) -> sql.Composed:
    """ALTER ROLE with the password's verifier: no log of the server ever shows the password."""
    verifier = conn.pgconn.encrypt_password(word.encode(), name.encode(), b"scram-sha-256").decode()
    return sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), sql.Literal(verifier))


def _word() -> str:
    """A password to type: sixteen letters in groups of four, 79 bits."""
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(4))


def _shortened(name: str) -> str:
    return name.encode()[:50].decode(errors="ignore")
