"""Small queries used throughout the package, over any psycopg 3 connection."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import Params
from psycopg.rows import tuple_row

from pg_llm.errors import KitError, NoExtensionError

Query = str | bytes | sql.SQL | sql.Composed


def row(conn: psycopg.Connection, query: Query, params: Params | None = None) -> tuple[Any, ...]:
    """The first row of a query that returns at least one."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(query, params).fetchone()
    assert found is not None
    return found


def value(conn: psycopg.Connection, query: Query, params: Params | None = None) -> Any:
    """The first column of that row."""
    return row(conn, query, params)[0]


def namespace(conn: psycopg.Connection) -> tuple[int, str]:
    """Oid and name of the schema that holds the extension, which need not be on the search path.

    Errors: NoExtensionError.
    """
    query = (
        "SELECT n.oid, n.nspname FROM pg_catalog.pg_extension e "
        "JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_llm'"
    )
    with conn.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(query).fetchone()
    if found is None:
        raise NoExtensionError
    return found


def schema(conn: psycopg.Connection) -> sql.Identifier:
    """The name of that schema, for qualifying names: search_path and pg_temp then cannot interfere."""
    return sql.Identifier(namespace(conn)[1])


def require_characters(conn: psycopg.Connection | psycopg.AsyncConnection) -> None:
    """Raises KitError for a connection in SQL_ASCII, on which psycopg reads each text as bytes."""
    if conn.info.encoding == "ascii":
        raise KitError(
            "this connection has the encoding SQL_ASCII, in which a text is bytes without characters; "
            "first SET client_encoding = 'UTF8', or the encoding that the texts are in"
        )


def qualified(conn: psycopg.Connection, query: str) -> sql.Composed:
    """A query with that name in place of each {0}."""
    return sql.SQL(query).format(schema(conn))  # type: ignore[arg-type]
