"""Databases of the kit: connect to one, make one from the template, reset one and keep the learner's work.

The template holds the extension and GPT-2's tokenizer, so that a new database is a copy made in a moment.
It is rebuilt when the extension is another build than the one that made it. PG_LLM_DSN names a server to use
instead of the embedded one; there the role's rights decide what of this is possible, and errors say so.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import re
import uuid
from pathlib import PurePosixPath

import psutil
import psycopg
from psycopg import sql

from pg_llm.errors import KitError

TEMPLATE = "pg_llm_template"
DEFAULT = "pg_llm"
FRESH = "fresh_"
LOCK_KEY = 0x70675F6C6C6D  # "pg_llm": who holds this advisory lock builds the template


def connect(database: str | None = None, fresh: bool = False) -> psycopg.Connection:
    """An autocommit connection with the extension created and tensors read as numpy arrays.

    database: made from the template where it is missing; None is the kit's own (PG_LLM_DSN: the DSN's).
    fresh: a new database that is dropped when this program ends.
    """
    if fresh:
        database = FRESH + uuid.uuid4().hex[:12]
        _sweep()
        create_database(database, owner_pid=os.getpid())
        atexit.register(_drop_quietly, database)
    elif database is not None or not dsn():
        database = database or DEFAULT
        if not database_exists(database):
            create_database(database)
    conn = _open(database)
    _prepare(conn)
    return conn


def dsn() -> str | None:
    """The server to use instead of the embedded one."""
    return os.environ.get("PG_LLM_DSN") or None


def database_for(notebook: str) -> str:
    """The database of a notebook: its file's name, shortened to PostgreSQL's 63 bytes.

    >>> database_for("course/01_tensors are values.ipynb")
    '01_tensors_are_values'
    """
    stem = PurePosixPath(notebook.replace("\\", "/")).name.removesuffix(".ipynb")
    name = re.sub(r"[^\w-]+", "_", stem) or "notebook"
    if dsn():
        # A server that several learners share: theirs must not collide.
        with _maintenance() as conn:
            name = f"{conn.info.user}_{name}"
    if len(name.encode()) > 63:
        name = (
            name.encode()[:50].decode(errors="ignore") + "_" + hashlib.sha256(name.encode()).hexdigest()[:12]
        )
    return name


def database_exists(database: str) -> bool:
    """Whether the server has a database of that name."""
    with _maintenance() as conn:
        return bool(conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone())


def create_database(database: str, owner_pid: int | None = None) -> None:
    """A new database from the template; it must not exist yet, unless somebody else makes it just now."""
    if database == TEMPLATE or database.startswith("pg_llm_template"):
        raise KitError(f"the name {database} is the template's own; choose another")
    with _maintenance() as conn:
        build = _ensure_template(conn)
        name = sql.Identifier(database)
        try:
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, sql.Identifier(TEMPLATE)))
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            return
        note = {"pg_llm": build, **({"pid": owner_pid} if owner_pid else {})}
        conn.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, sql.Literal(json.dumps(note))))
        # A database's settings are not copied with its template.
        _preload(conn, database)
        if dsn():
            conn.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(name))


def create_template() -> None:
    """Makes the template now, so that the first new database need not wait for it."""
    with _maintenance() as conn:
        _ensure_template(conn)


def drop_database(database: str) -> None:
    """Drops a database, ending the sessions in it; it need not exist."""
    with _maintenance() as conn:
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))


def reset(database: str) -> None:
    """A clean database under the same name; models named my_* and the tables of schema `learner` are kept."""
    from pg_llm.carry import carry_over

    fresh = database[:50] + "_new_" + uuid.uuid4().hex[:6]
    create_database(fresh)
    try:
        if database_exists(database):
            with _open(database) as old, _open(fresh) as new:
                carry_over(old, new)
        drop_database(database)
        with _maintenance() as conn:
            conn.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(*map(sql.Identifier, (fresh, database)))
            )
    except BaseException:
        _drop_quietly(fresh)
        raise


def build_of(database: str) -> str | None:
    """The build of the extension that made a database, None where the kit did not make it."""
    with _maintenance() as conn:
        return _note(conn, database).get("pg_llm")


def current_build() -> str:
    """The build of the extension that new databases get."""
    if not dsn():
        from pg_llm.programs import build_hash

        return build_hash()
    with _maintenance() as conn:
        row = conn.execute(
            "SELECT default_version FROM pg_available_extensions WHERE name = 'pg_llm'"
        ).fetchone()
    if row is None:
        raise KitError(
            "the server of PG_LLM_DSN has no extension pg_llm; install it there: make -C extension install"
        )
    return row[0]


# -- connections ----------------------------------------


def _open(database: str | None) -> psycopg.Connection:
    """An autocommit connection to an existing database, as it comes."""
    try:
        if dsn():
            return psycopg.connect(dsn(), autocommit=True, **({"dbname": database} if database else {}))
        from pg_llm.server import Server

        return psycopg.connect(**Server().start().conninfo(database or DEFAULT), autocommit=True)
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        where = "the server of PG_LLM_DSN" if dsn() else "the embedded server"
        raise KitError(f"cannot connect to {where}: {' '.join(str(error).split())}") from None


def _maintenance() -> psycopg.Connection:
    return _open(None if dsn() else "postgres")


def _prepare(conn: psycopg.Connection) -> None:
    """Creates the extension where it is missing and registers the tensor type."""
    if not conn.execute("SELECT 1 FROM pg_extension WHERE extname = 'pg_llm'").fetchone():
        try:
            conn.execute("CREATE EXTENSION IF NOT EXISTS pg_llm")
        except psycopg.errors.InsufficientPrivilege:
            name, user = conn.info.dbname, conn.info.user
            conn.close()
            raise KitError(
                f"database {name} has no extension pg_llm and role {user} may not create it; "
                f'ask a superuser: psql -d {name} -c "CREATE EXTENSION pg_llm"'
            ) from None
        except psycopg.errors.UniqueViolation:
            pass  # another session was creating it at this moment
        except psycopg.Error as error:
            conn.close()
            raise KitError(f"CREATE EXTENSION pg_llm failed: {error.diag.message_primary or error}") from None
    from pg_llm.tensors import register

    register(conn)


# -- the template ----------------------------------------


def _ensure_template(conn: psycopg.Connection) -> str:
    """Builds the template unless this build's is there; returns the build."""
    build = current_build()
    if _note(conn, TEMPLATE).get("pg_llm") == build:
        return build
    conn.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
    try:
        if _note(conn, TEMPLATE).get("pg_llm") != build:
            _build_template(conn, build)
    except psycopg.errors.InsufficientPrivilege:
        raise KitError(
            f"role {conn.info.user} may not create databases on the server of PG_LLM_DSN; ask for "
            "CREATEDB, or use the DSN's own database: pg_llm.connect()"
        ) from None
    finally:
        if not conn.closed:
            conn.execute("SELECT pg_advisory_unlock(%s)", [LOCK_KEY])
    return build


def _build_template(conn: psycopg.Connection, build: str) -> None:
    # Built under another name and renamed when complete, so that a half-built one is never copied.
    building = sql.Identifier(TEMPLATE + "_new")
    conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(building))
    conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(building))
    with contextlib.closing(_open(TEMPLATE + "_new")) as inside:
        _prepare(inside)
        _fill(inside)
        if dsn():
            # Its copies belong to whoever makes them, the tables in them to the template's maker.
            for kind in ("TABLES", "SEQUENCES"):
                inside.execute(f"GRANT ALL ON ALL {kind} IN SCHEMA public TO PUBLIC")
            inside.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        inside.execute("VACUUM (FREEZE, ANALYZE)")
    if _exists(conn, TEMPLATE):
        old = sql.Identifier(TEMPLATE)
        conn.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(old))
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(old))
    note = sql.Literal(json.dumps({"pg_llm": build}))
    conn.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(building, note))
    conn.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE true ALLOW_CONNECTIONS false").format(building))
    conn.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(building, sql.Identifier(TEMPLATE)))


def _fill(conn: psycopg.Connection) -> None:
    """What every database of the kit starts with, beside the extension: GPT-2's tokenizer."""
    from pg_llm import ingest

    vocab, merges = ingest.gpt2_files()
    ingest.load_tokenizer(conn, vocab, merges, "gpt2")


def _preload(conn: psycopg.Connection, database: str) -> None:
    # Only a superuser may; elsewhere the library is loaded by the first call into it.
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        command = sql.SQL("ALTER DATABASE {} SET session_preload_libraries = 'pg_llm'")
        conn.execute(command.format(sql.Identifier(database)))


def _exists(conn: psycopg.Connection, database: str) -> bool:
    return bool(conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone())


def _note(conn: psycopg.Connection, database: str) -> dict:
    """What the kit wrote on a database when it made it: {"pg_llm": build, "pid": maker of a fresh one}."""
    query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
    row = conn.execute(query, [database]).fetchone()
    try:
        note = json.loads(row[0]) if row and row[0] else {}
    except json.JSONDecodeError:
        note = {}
    return note if isinstance(note, dict) else {}


# -- fresh databases go when their maker has gone ----------------------------------------


def _sweep() -> None:
    if dsn():
        return  # process ids of other machines mean nothing here
    with _maintenance() as conn:
        query = (
            "SELECT datname FROM pg_database d WHERE starts_with(datname, %s) AND NOT EXISTS (SELECT FROM "
        )
        query += "pg_stat_activity a WHERE a.datid = d.oid)"
        for (database,) in conn.execute(query, [FRESH]).fetchall():
            pid = _note(conn, database).get("pid")
            if pid and not psutil.pid_exists(pid):
                _drop_quietly(database)


def _drop_quietly(database: str) -> None:
    with contextlib.suppress(KitError, psycopg.Error):
        if dsn() or _embedded_runs():
            drop_database(database)


def _embedded_runs() -> bool:
    from pg_llm.server import Server

    return Server().running() is not None
