"""Connections to the embedded server, or to the one that PG_LLM_DSN names."""

from __future__ import annotations

import os

import psycopg
from psycopg.conninfo import make_conninfo

from pg_llm.errors import KitError

DEFAULT = "pg_llm"


def dsn() -> str | None:
    """PG_LLM_DSN, the server to use instead of the embedded one."""
    return os.environ.get("PG_LLM_DSN") or None


def open_database(database: str | None) -> psycopg.Connection:
    """An autocommit connection to an existing database; nothing in it is prepared. Errors: KitError."""
    try:
        if elsewhere := dsn():
            return psycopg.connect(make_conninfo(elsewhere, dbname=database), autocommit=True)
        from pg_llm.server.server import Server

        return psycopg.connect(**Server().start().conninfo(database or DEFAULT), autocommit=True)
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        where = "the server of PG_LLM_DSN" if dsn() else "the embedded server"
        raise KitError(f"cannot connect to {where}: {' '.join(str(error).split())}") from None


def maintenance() -> psycopg.Connection:
    """An autocommit connection to the database from which others are created and dropped."""
    conn = open_database(None if dsn() else "postgres")
    conn.execute("SET search_path = pg_catalog, pg_temp")  # PG_LLM_DSN may name a database of any owner
    return conn


def prepare(conn: psycopg.Connection) -> None:
    """Creates the extension if it is missing and registers the tensor type."""
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
            pass  # another session was creating it at the same time
        except psycopg.Error as error:
            conn.close()
            raise KitError(f"CREATE EXTENSION pg_llm failed: {error.diag.message_primary or error}") from None
        else:
            _fill(conn)
    from pg_llm.files.adapter import register

    register(conn)


def _fill(conn: psycopg.Connection) -> None:
    """Loads the initial contents of every database of the kit: GPT-2's tokenizer and the classroom models."""
    from pg_llm import classroom
    from pg_llm.files import tokenizer

    vocab, merges = tokenizer.gpt2_files()
    tokenizer.load_tokenizer(conn, vocab, merges, "gpt2")
    classroom.load(conn)
