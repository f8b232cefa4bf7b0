"""Connections to the embedded server, or to the one that PG_LLM_DSN names."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_llm import __version__, catalog
from pg_llm.errors import KitError
from pg_llm.server import processes

DEFAULT = "pg_llm"
_EXPECTED = (
    "the connection string (PG_LLM_DSN or --dsn) is not understood; expected "
    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE (a password's special characters percent-encoded, %40 for "
    "@), or host=... port=... user=... password=... dbname=..."
)
LOCK = 0x6C6C6D  # "llm": what deciding() locks
WAITING = "The server starts, or recovers from a crash; waiting for it …"
RECOVERY_SECONDS = 120  # after which a server that still recovers is an error


def dsn() -> str | None:
    """PG_LLM_DSN, the server to use instead of the embedded one, without the driver of SQLAlchemy's URLs.

    postgresql+psycopg://localhost/mine is postgresql://localhost/mine.
    """
    return re.sub(r"^\s*postgres(ql)?\+\w+://", "postgresql://", os.environ.get("PG_LLM_DSN", "")) or None


def parameters(elsewhere: str, database: str | None = None) -> dict[str, Any]:
    """The parameters in a connection string. Errors: KitError, which shows no part of a password."""
    try:
        found = conninfo_to_dict(elsewhere)
    except psycopg.ProgrammingError as error:
        # libpq quotes what it does not understand.
        may_tell = "@" not in elsewhere and "pass" not in elsewhere
        raise KitError(f"{_EXPECTED}: {' '.join(str(error).split())}" if may_tell else _EXPECTED) from None
    # Of a password with : @ or / in a URL libpq takes the end for something that later messages would show.
    shown = f"{found.get('host')} {found.get('dbname')}" if "://" in elsewhere else ""
    if not re.fullmatch(r"[\d,]*", str(found.get("port", ""))) or ("@" in shown and "%40" not in elsewhere):
        raise KitError(_EXPECTED)
    return {**found, "dbname": database} if database else found


def libpq_environment() -> contextlib.AbstractContextManager:
    """What to connect in: libpq's variables hold for the server of PG_LLM_DSN, not for the embedded one."""
    return contextlib.nullcontext() if dsn() else processes.without_libpq_variables()


def open_database(database: str | None, settings: str = "") -> psycopg.Connection:
    """An autocommit connection to an existing database; nothing in it is prepared. Errors: KitError.

    settings: options of libpq (-c name=value), which hold after RESET ALL and DISCARD ALL, too. A server that
    takes none, such as a pool, is sent none.
    """
    elsewhere = dsn()
    if elsewhere:
        info = parameters(elsewhere, database)
    else:
        from pg_llm.server.server import Server

        info = Server().start().conninfo(database or DEFAULT)
    if name := os.environ.get("PGAPPNAME"):
        info.setdefault("application_name", name)  # a notebook's, also where libpq's variables are hidden
    if settings:
        before = info.get("options") or (os.environ.get("PGOPTIONS") if elsewhere else "")
        info["options"] = f"{before or ''} {settings}".strip()
    try:
        with libpq_environment():
            return _patient(make_conninfo(**info))
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        if settings and "startup parameter" in str(error):
            return open_database(database)
        names = ("user", "host", "hostaddr", "port", "dbname", "service")
        named = ", ".join(f"{name} {info[name]}" for name in names if name in info)
        where = f"the server of PG_LLM_DSN ({named})" if elsewhere else "the embedded server"
        denied = re.search(r'permission denied for database "(.*)"', str(error))
        grant = denied and f"; ask its owner: GRANT CONNECT ON DATABASE {denied[1]} TO your_role"
        raise KitError(f"cannot connect to {where}: {' '.join(str(error).split())}{grant or ''}") from None


def _patient(conninfo: str) -> psycopg.Connection:
    """An autocommit connection; a server that starts or recovers (SQLSTATE 57P03) is waited for."""
    end, waited = time.monotonic() + RECOVERY_SECONDS, False
    while True:
        try:
            conn = psycopg.connect(conninfo, autocommit=True)
            if conn.info.encoding != "ascii":
                return conn
            # A database in SQL_ASCII: psycopg would read bytes. Now the server names what is no UTF-8.
            conn.close()
            return psycopg.connect(make_conninfo(conninfo, client_encoding="UTF8"), autocommit=True)
        except psycopg.OperationalError:
            # psycopg does not say which SQLSTATE refused a connection; libpq's ping does, for this one.
            rejected = pq.PGconn.ping(conninfo.encode()) == pq.Ping.REJECT
            if not (rejected or waited) or time.monotonic() > end:
                raise
        if not waited:
            print(WAITING, file=sys.stderr)
        waited = rejected  # where recovery has just ended, one more attempt
        time.sleep(0.2)


def wait_for(conninfo: str) -> None:
    """Waits while a server starts or recovers, and says so: for a program that would not."""
    end, said = time.monotonic() + RECOVERY_SECONDS, False
    while pq.PGconn.ping(conninfo.encode()) == pq.Ping.REJECT and time.monotonic() < end:
        if not said:
            print(WAITING, file=sys.stderr)
        said = True
        time.sleep(0.2)


def maintenance() -> psycopg.Connection:
    """An autocommit connection to the database from which others are created and dropped."""
    conn = open_database(None if dsn() else "postgres")
    conn.execute("SET search_path = pg_catalog, pg_temp")  # PG_LLM_DSN may name a database of any owner
    return conn


@contextlib.contextmanager
def deciding() -> Iterator[psycopg.Connection]:
    """As maintenance(), to decide which database is which notebook's; the sessions of a role take turns."""
    with maintenance() as conn:
        conn.execute("SELECT pg_advisory_lock(%s, hashtext(session_user))", [LOCK])
        yield conn


def prepare(conn: psycopg.Connection) -> bool:
    """Creates the extension if it is missing and registers the tensor type; True if it updated one."""
    updated = False
    found = conn.execute("SELECT extversion FROM pg_extension WHERE extname = 'pg_llm'").fetchone()
    if not found:
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
            pass  # another session was creating it at the same time
        except psycopg.Error as error:
            conn.close()
            raise KitError(f"CREATE EXTENSION pg_llm failed: {error.diag.message_primary or error}") from None
        else:
            _fill(conn)
    elif dsn():
        _refuse_another_build(conn)
    else:
        updated = _update(conn, found[0])
    from pg_llm.files.adapter import register

    register(conn)
    return updated


def _refuse_another_build(conn: psycopg.Connection) -> None:
    """Raises an error if the database's SQL and the server's library, installed apart, do not fit."""
    try:
        conn.execute(catalog.qualified(conn, "SELECT {0}._llm_check_build({0}._llm_build())"))
    except psycopg.errors.InsufficientPrivilege:
        pass  # without rights on the schema nothing can be called either
    except (psycopg.errors.UndefinedFunction, psycopg.errors.ObjectNotInPrerequisiteState) as error:
        name, hint = conn.info.dbname, error.diag.message_hint
        superuser = conn.info.parameter_status("is_superuser") == "on"
        conn.close()
        if isinstance(error, psycopg.errors.UndefinedFunction):
            hint = "it is older than version 0.1.0 of the extension, which cannot be updated"
        elif not superuser:
            hint = f"Ask a superuser of the server for: pg-llm update {name}"
        raise KitError(f"database {name}: {error.diag.message_primary}. {hint}") from None


def _update(conn: psycopg.Connection, version: str) -> bool:
    """Brings a database of the embedded server to the version of the library, which the kit brings along."""
    if version == __version__:
        return False
    try:
        conn.execute("ALTER EXTENSION pg_llm UPDATE")
    except psycopg.Error as error:
        reason = error.diag.message_primary or error
        warnings.warn(f"database {conn.info.dbname} keeps pg_llm {version}: {reason}", stacklevel=3)
        return False
    return True


def _fill(conn: psycopg.Connection) -> None:
    """Loads the initial contents of every database of the kit: GPT-2's tokenizer and the classroom models."""
    from pg_llm import classroom
    from pg_llm.files import tokenizer

    vocab, merges = tokenizer.gpt2_files()
    tokenizer.load_tokenizer(conn, vocab, merges, "gpt2")
    classroom.load(conn)
