"""Databases of the kit: connecting, creation from the template, and resets that keep the learner's work.

PG_LLM_DSN names a server to use instead of the embedded one; there the role's rights limit what is possible,
and errors say so.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import time
import unicodedata
import uuid
from pathlib import PurePosixPath

import psutil
import psycopg
from psycopg import sql

from pg_llm import catalog, classroom
from pg_llm.errors import KitError
from pg_llm.server import rights, template
from pg_llm.server.connect import DEFAULT, deciding, dsn, maintenance, open_database, prepare
from pg_llm.server.template import current_build

__all__ = [
    "build_of",
    "connect",
    "connect_with",
    "create_database",
    "create_template",
    "current_build",
    "database_exists",
    "database_for",
    "drop_database",
    "dsn",
    "reset",
]

FRESH = "fresh_"
# What no notebook of the name is given: the server's own databases, the kit's, that of the course's attempts.
RESERVED = {"postgres", "template0", "template1", DEFAULT, "pg_llm_course"}
ALONE_SECONDS = 2  # time for sessions that were just closed to end


def connect(database: str | None = None, fresh: bool = False) -> psycopg.Connection:
    """Connects to the embedded server, which is started if need be, or to the one that PG_LLM_DSN names.

    The connection is in autocommit mode, has the extension and reads tensors as numpy arrays.
    database: created from the template if missing; None: pg_llm, or the DSN's own.
    fresh: a new database that is dropped when this program ends.
    Errors: KitError, psycopg.Error. Example: conn = pg_llm.connect()
    """
    return connect_with("", database, fresh)


def connect_with(settings: str, database: str | None = None, fresh: bool = False) -> psycopg.Connection:
    """As connect; settings: as for open_database."""
    if fresh:
        database = FRESH + uuid.uuid4().hex[:12]
        sweep()
        create_database(database, pid=os.getpid())
        atexit.register(drop_quietly, database)
    elif database is not None or not dsn():
        database = database or DEFAULT
        if not database_exists(database):
            create_database(database)
    conn = open_database(database, settings)
    rights.refuse_strangers(conn)
    if prepare(conn):
        with maintenance() as server:
            if template.read_note(server, conn.info.dbname):
                template.stamp(server, conn.info.dbname)
    return conn


def database_for(notebook: str) -> str:
    """The first name for the database of a notebook: its file's, shortened to PostgreSQL's 63 bytes.

    >>> database_for("course/01_tensors are values.ipynb")
    '01_tensors_are_values'
    """
    stem = PurePosixPath(notebook.replace("\\", "/")).name.removesuffix(".ipynb")
    # macOS takes letters apart (u and two dots); a name that begins with - would be an option of commands.
    name = re.sub(r"[^\w-]+|^-", "_", unicodedata.normalize("NFC", stem))
    name = name if re.search(r"\w", name.replace("_", "")) else "notebook"
    user = "postgres"
    if dsn():
        # On a server shared by several learners, their databases must not collide.
        with maintenance() as conn:
            user = conn.info.user
        name = f"{user}_{name}"
    if reserved(name, user):
        name = f"notebook_{name}"
    if len(name.encode()) > 63:
        name = (
            name.encode()[:50].decode(errors="ignore") + "_" + hashlib.sha256(name.encode()).hexdigest()[:12]
        )
    return name


def reserved(database: str, user: str) -> bool:
    """True for the names of databases that belong to the server or to the kit itself.

    user: the role, which keeps its attempts in a database of its own where there is no pg_llm_course.
    """
    return database in {*RESERVED, f"{user}_course"} or database.startswith(template.TEMPLATE)


def database_exists(database: str) -> bool:
    """True if the server has a database of that name."""
    with maintenance() as conn:
        return template.exists(conn, database)


def create_database(database: str, owner: str | None = None, **facts) -> bool:
    """Creates a database from the template; False if there is one, made by another process just now.

    owner: the role that gets it, if not this one. facts: what its note says besides the build: pid of the
    program it belongs to, notebook, used.
    """
    check_name(database)
    with maintenance() as conn:
        note = template.ensure(conn)
        name = sql.Identifier(database)
        # Until CONNECT is revoked, nobody enters: a session that is in is not ended by REVOKE.
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} CONNECTION LIMIT 0")
        try:
            with template.explained(conn):
                conn.execute(copy.format(name, sql.Identifier(template.TEMPLATE)))
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            return False
        # Each of a server's learners has databases of their own.
        conn.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(name))
        conn.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(name))
        template.write_note(conn, database, {**note, **facts})
        _settings(conn, database, owner)
        if owner:
            conn.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, sql.Identifier(owner)))
    return True


def check_name(database: str) -> None:
    """Rejects a name that no database can have."""
    if database.startswith(template.TEMPLATE):
        raise KitError(f"the name {database} is the template's own; choose another")
    if not 0 < len(database.encode()) <= 63:
        raise KitError(f"the name of a database has 1 to 63 bytes, {database!r} has {len(database.encode())}")


def create_template() -> None:
    """Creates the template now, so that the first new database need not wait for it."""
    with maintenance() as conn:
        template.ensure(conn)


def drop_database(database: str, force: bool = True) -> None:
    """Drops a database, which need not exist; force: ends the sessions in it, which else prevent that."""
    drop = sql.SQL("DROP DATABASE IF EXISTS {}" + " WITH (FORCE)" * force)
    with maintenance() as conn:
        conn.execute(drop.format(sql.Identifier(database)))


def require_alone(conn: psycopg.Connection, database: str, way: str | None = None, but: int = 0) -> None:
    """Raises KitError, which names the sessions, if others than process `but` are connected to a database.

    way: the command that ends them.
    """
    query = (
        "SELECT string_agg(format('%%s (process %%s)', coalesce(nullif(application_name, ''), "
        "'a program without a name'), pid), ', ' ORDER BY pid) FROM pg_stat_activity WHERE datname = %s "
        "AND pid NOT IN (%s, pg_backend_pid()) "
        "AND coalesce(backend_type, 'client backend') = 'client backend'"
    )
    deadline = time.monotonic() + ALONE_SECONDS
    while others := catalog.value(conn, query, [database, but]):
        if time.monotonic() > deadline:
            raise KitError(
                f"others are connected to database {database}: {others}; close them"
                + (f", or end them with {way}" if way else "")
            )
        time.sleep(0.05)


def reset(database: str, force: bool = False) -> None:
    """A clean database under the same name; models named my_* and the tables of schema `learner` are kept.

    force: ends the sessions of others in it. Errors: KitError, and nothing has changed.
    """
    from pg_llm.server.reset import carry_over

    with maintenance() as conn:
        facts = {k: v for k, v in template.read_note(conn, database).items() if k in template.OF_NOTEBOOK}
    fresh = database[:50] + "_new_" + uuid.uuid4().hex[:6]
    create_database(fresh, **facts)
    try:
        if database_exists(database):
            with open_database(database) as old, open_database(fresh) as new:
                rights.refuse_strangers(old)
                if not force:
                    require_alone(old, database, "%pg_llm reset --force")
                carry_over(old, new)
        with deciding() as conn:  # no notebook makes the database anew between the two
            drop_database(database, force)
            conn.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(*map(sql.Identifier, (fresh, database)))
            )
    except BaseException:
        if database_exists(database):  # else the fresh one holds all that was kept
            drop_quietly(fresh)
        raise


def build_of(database: str) -> str | None:
    """The build of the extension that created a database; None if the kit did not create it."""
    with maintenance() as conn:
        return template.read_note(conn, database).get(template.build_key())


def is_current(database: str) -> bool:
    """False for a database that the kit created by another build."""
    with maintenance() as conn:
        note = template.read_note(conn, database)
        return template.build_key() not in note or template.is_current(conn, note)


def _settings(conn: psycopg.Connection, database: str, owner: str | None) -> None:
    """The settings of a database, which are not copied with its template, and its owner's schema."""
    change = sql.SQL("ALTER DATABASE {} SET").format(sql.Identifier(database))
    # Only a superuser may do this; otherwise the first call into the library loads it.
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        conn.execute(change + sql.SQL(" session_preload_libraries = 'pg_llm'"))
    with contextlib.closing(open_database(database)) as inside:
        rights.own_schema(inside, owner)
        if classroom.shipped():
            inside.execute("SELECT tensor '1'")  # loads the library: any role may set a name it knows
            inside.execute(change + sql.SQL(" pg_llm.default_model = {}").format(classroom.DEFAULT))


# -- removal of fresh databases whose program has ended --------------------------------


def sweep() -> None:
    """Drops the fresh databases of this machine's programs that have ended."""
    if dsn():
        return  # process ids of other machines mean nothing here
    query = "SELECT datname FROM pg_database d WHERE starts_with(datname, %s) "
    query += "AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid)"
    with maintenance() as conn:
        for (database,) in conn.execute(query, [FRESH]).fetchall():
            pid = template.read_note(conn, database).get("pid")
            if pid and not psutil.pid_exists(pid):
                drop_quietly(database)


def drop_quietly(database: str) -> None:
    """drop_database that ignores errors: for databases that should not exist at all."""
    with contextlib.suppress(KitError, psycopg.Error):
        if dsn() or _embedded_runs():
            drop_database(database)


def _embedded_runs() -> bool:
    from pg_llm.server.server import Server

    return Server().running() is not None
