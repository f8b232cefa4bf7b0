"""The template: a database with the extension, GPT-2's tokenizer and the classroom models, to be copied.

It is rebuilt when the extension's build or the shipped models differ from those that made it. A database's
comment records what made it.
"""

from __future__ import annotations

import contextlib
import json
import warnings

import psycopg
from psycopg import sql

from pg_llm import __version__, catalog, classroom
from pg_llm.errors import KitError
from pg_llm.server import rights
from pg_llm.server.connect import dsn, maintenance, open_database, prepare

TEMPLATE = "pg_llm_template"
OF_NOTEBOOK = (
    "notebook",
    "used",
    "left",
)  # what a note says of the notebook, which a reset or a backup leaves alone
LOCK_KEY = 0x70675F6C6C6D  # "pg_llm": the holder of this advisory lock builds the template


def build_key() -> str:
    """The key in a database's note for the build that made it."""
    return "version" if dsn() else "build"


def build_facts(conn: psycopg.Connection) -> dict:
    """What a note says of the build, if what it is on is of this one.

    On other servers two builds of one version differ by `installed`, which only a superuser can know.
    """
    found = {build_key(): current_build()}
    if dsn():
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            conn.execute("LOAD 'pg_llm'")
            found["installed"] = catalog.value(conn, "SHOW pg_llm.build")
    return found


def ensure(conn: psycopg.Connection) -> dict:
    """Builds the template unless this build's exists; returns its note."""
    made_of = {**build_facts(conn), "classroom": classroom.digest()}
    note = _trusted_note(conn)
    if made_of.items() <= note.items():
        return note
    conn.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
    try:
        note = _trusted_note(conn)
        if not made_of.items() <= note.items():
            with explained(conn):
                note = _build(conn, made_of)
    finally:
        if not conn.closed:
            conn.execute("SELECT pg_advisory_unlock(%s)", [LOCK_KEY])
    return note


def _trusted_note(conn: psycopg.Connection) -> dict:
    """The template's note; empty if a role that is no superuser made it, because copies execute its code."""
    stranger = rights.stranger(conn, TEMPLATE)
    return {} if stranger else read_note(conn, TEMPLATE)


def made_by(conn: psycopg.Connection) -> dict:
    """What a note says of the extension in the database of conn: its version, and the build of its SQL."""
    query = "SELECT extversion, {0}._llm_build() FROM pg_extension WHERE extname = 'pg_llm'"
    version, installed = catalog.row(conn, catalog.qualified(conn, query))
    return {"version": version, "installed": installed}


@contextlib.contextmanager
def explained(conn: psycopg.Connection):
    """Tells a role that may not create databases which rights to ask for."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege:
        raise KitError(
            f"role {conn.info.user} may not create databases on the server of PG_LLM_DSN; ask for "
            "CREATEDB, or use the DSN's own database: pg_llm.connect()"
        ) from None


def _build(conn: psycopg.Connection, note: dict) -> dict:
    # Built under another name and renamed when complete, so that an incomplete one is never copied.
    building = sql.Identifier(TEMPLATE + "_new")
    conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(building))
    conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(building))
    with contextlib.closing(open_database(TEMPLATE + "_new")) as inside:
        prepare(inside)
        rights.secure(inside)
        inside.execute("VACUUM (FREEZE, ANALYZE)")
        note = {**made_by(inside), **note}
    if exists(conn, TEMPLATE):
        old = sql.Identifier(TEMPLATE)
        conn.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(old))
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(old))
    write_note(conn, TEMPLATE + "_new", note)
    conn.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE true ALLOW_CONNECTIONS false").format(building))
    conn.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(building, sql.Identifier(TEMPLATE)))
    _secure_copies(conn)
    if not dsn():
        conn.execute("CHECKPOINT")  # the log of all this, two thirds of a new server's folder, goes at once
    return note


def _secure_copies(conn: psycopg.Connection) -> None:
    """Sets this build's rights in the databases made by older builds."""
    query = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1"
    for (name,) in conn.execute(query).fetchall():
        if not read_note(conn, name):
            continue
        try:
            with contextlib.closing(open_database(name)) as inside:
                rights.secure(inside)
        except (KitError, psycopg.Error) as error:
            reason = " ".join(str(error).split())
            warnings.warn(f"database {name} keeps the rights of an older build: {reason}", stacklevel=2)


def current_build() -> str:
    """What identifies the SQL of new databases; for other servers only the extension's version is known."""
    if not dsn():
        from pg_llm.server.binaries import sql_hash

        return sql_hash()
    with maintenance() as conn:
        row = conn.execute(
            "SELECT default_version FROM pg_available_extensions WHERE name = 'pg_llm'"
        ).fetchone()
    if row is None:
        raise KitError(
            "the server of PG_LLM_DSN has no extension pg_llm; install it there: make -C extension install"
        )
    return row[0]


def exists(conn: psycopg.Connection, database: str) -> bool:
    """True if the server has a database of that name."""
    return bool(conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone())


def read_note(conn: psycopg.Connection, database: str) -> dict:
    """The kit's note on a database: what made it, its notebook or the one that left it, a fresh one's pid."""
    query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
    row = conn.execute(query, [database]).fetchone()
    return parse_note(row[0] if row else None)


def parse_note(comment: str | None) -> dict:
    """The kit's note in a database's comment; {} if the comment is not the kit's."""
    try:
        note = json.loads(comment)["pg_llm"] if comment else {}
    except (ValueError, KeyError, TypeError):
        note = {}
    return note if isinstance(note, dict) else {}


def is_current(conn: psycopg.Connection, note: dict) -> bool:
    """True if what a note is on is of this build; of what a student made only the version is known."""
    if build_key() in note:
        return build_facts(conn).items() <= note.items()
    return note.get("version") == __version__


def stamp(conn: psycopg.Connection, database: str) -> None:
    """Notes that a database is of this version and build: ALTER EXTENSION has brought it there."""
    now = {"version": __version__, **build_facts(conn)}
    write_note(conn, database, {**read_note(conn, database), **now})


def write_note(conn: psycopg.Connection, database: str, note: dict) -> None:
    """Writes the kit's note as a database's comment."""
    text = sql.Literal(json.dumps({"pg_llm": note}))
    conn.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(database), text))
