"""pg-llm update: a database of an older build gets this build's functions and views, and keeps its rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import psycopg

from pg_llm import catalog
from pg_llm.backup.backup import backup
from pg_llm.backup.restore import restore
from pg_llm.errors import KitError
from pg_llm.server import database as databases
from pg_llm.server import template
from pg_llm.server.connect import deciding, maintenance, open_database


def outdated() -> list[str]:
    """The databases of an older build, ordered by name, but those of running programs."""
    query = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1"
    with maintenance() as conn:
        notes = {name: template.read_note(conn, name) for (name,) in conn.execute(query).fetchall()}
        return [
            name
            for name, note in notes.items()
            if note and "pid" not in note and not template.is_current(conn, note)
        ]


def update(database: str, force: bool = False, say: Callable = print) -> bool:
    """Brings a database to the installed build; False if it is of that. Tables and models stay as they are.

    The recorded tape (llm_run) is lost where the database is made anew, which it is within one version.
    force: ends the sessions of others in it. Errors: KitError, and nothing has changed.
    """
    with deciding() as conn:  # no notebook opens it meanwhile
        note = template.read_note(conn, database)
        if not note:
            raise KitError(f"pg_llm made no database {database}; 'pg-llm databases' lists them")
        if template.is_current(conn, note):
            return False
        if not force:
            databases.require_alone(conn, database, "pg-llm update --force")
        if _altered(database):
            template.stamp(conn, database)
        else:
            with tempfile.TemporaryDirectory(prefix="pg_llm-") as folder:
                file = Path(folder) / "update.backup"
                backup(database, file, say=_silent)
                restore(file, database, replace=True, say=_silent)
    say(f"database {database} is of this build now")
    return True


def _altered(database: str) -> bool:
    """True if ALTER EXTENSION has updated it, or had; False if it is a build of the same version."""
    with open_database(database) as conn:
        # Whose database it may be, names refer to nothing in it.
        conn.execute("SET search_path = pg_catalog, pg_temp")
        query = "SELECT installed_version, default_version FROM pg_available_extensions WHERE name = 'pg_llm'"
        have, want = catalog.row(conn, query)
        if have == want:
            with maintenance() as server:
                return template.read_note(server, database).get("version") != want
        try:
            conn.execute("ALTER EXTENSION pg_llm UPDATE")
        except psycopg.errors.InsufficientPrivilege:
            raise KitError(
                f"database {database} has pg_llm {have}, the server {want}; only a superuser may update it, "
                f"ask yours for: pg-llm update {database}"
            ) from None
        except psycopg.Error as error:
            raise KitError(f"database {database} keeps pg_llm {have}: {error.diag.message_primary}") from None
    return True


def _silent(text: str) -> None:
    pass
