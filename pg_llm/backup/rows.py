"""The rows of tables as members of an archive: written from one database, read into another.

Tables with tensors are copied in binary, others as text. A row of 1 GB cannot be sent: large ones are copied
value by value, each with its row's ctid, and reassembled where they are read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import Buffer

from pg_llm import catalog
from pg_llm.backup.archive import BLOCK, Reader, Writer

LARGE = 256 << 20  # a row of at least this many bytes is large

# The extension's tables except unlogged ones (the tape, which a crash empties, too), and all others with
# tensors.
TABLES = """
WITH RECURSIVE tensors AS (
    SELECT t.oid FROM pg_extension e
    JOIN pg_type t ON t.typnamespace = e.extnamespace AND t.typname = 'tensor' WHERE e.extname = 'pg_llm'
    UNION -- arrays, domains and rows of them
    SELECT t.oid FROM tensors x JOIN pg_type t ON t.typelem = x.oid OR t.typbasetype = x.oid OR EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.atttypid = x.oid AND a.attnum > 0)
)
SELECT c.oid::regclass::text, t.tensors, pg_table_size(c.oid)
FROM pg_class c
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
LEFT JOIN pg_extension e ON e.oid = d.refobjid,
LATERAL (SELECT EXISTS (SELECT FROM pg_attribute a JOIN tensors x ON x.oid = a.atttypid
    WHERE a.attrelid = c.oid AND NOT a.attisdropped)) AS t (tensors)
WHERE c.relkind = 'r' AND CASE e.extname WHEN 'pg_llm' THEN c.relpersistence = 'p' AND c.relname <> ALL (%s)
    ELSE e.oid IS NULL AND t.tensors AND c.relpersistence <> 't' END
ORDER BY 1
"""

# Types without a binary form, and those whose binary form contains an OID of this database, are copied as
# text.
COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod),
    CASE WHEN t.typcategory = 'A' THEN e.typsend ELSE t.typsend END::text ~ '^(-|reg)', a.attlen = -1,
    a.atttypid = (SELECT t.oid FROM pg_extension e JOIN pg_type t ON t.typnamespace = e.extnamespace
        WHERE e.extname = 'pg_llm' AND t.typname = 'tensor'),
    coalesce(a.attnum = ANY (i.indkey), false)
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type e ON e.oid = t.typelem
LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
"""


@dataclass(frozen=True)
class Column:
    """A column of a table to write."""

    name: str
    type: str
    as_text: bool
    varies: bool
    tensor: bool
    key: bool

    @property
    def quoted(self) -> sql.Identifier:
        """The name, quoted for SQL."""
        return sql.Identifier(self.name)


def write(conn: psycopg.Connection, writer: Writer, table: str, binary: bool, bar) -> dict:
    """Adds the rows of a table; returns their entry in the manifest."""
    columns = [Column(*row) for row in conn.execute(COLUMNS, [table]).fetchall()]
    large = _large(conn, table, columns) if binary else None
    number = len(writer.manifest["members"])
    entry: dict[str, Any] = {
        "name": table,
        "format": "binary" if binary else "text",
        "columns": [[c.name, "text" if c.as_text and binary else c.type] for c in columns],
        "key": [c.name for c in columns if c.key],
        "member": f"rows/{number:04}",
        "parts": {c.name: f"rows/{number:04}.{i}" for i, c in enumerate(columns)} if large else {},
    }

    def value(column: Column) -> sql.Composable:
        return sql.SQL("{}::text").format(column.quoted) if column.as_text and binary else column.quoted

    def add(member: str, values: Iterable[sql.Composable], where: sql.Composable) -> None:
        query = sql.SQL("COPY (SELECT {} FROM ONLY {} WHERE {}) TO STDOUT (FORMAT {})").format(
            sql.SQL(", ").join(values), sql.SQL(table), where, sql.SQL(entry["format"])
        )
        writer.add(member, _blocks(conn, query), bar)

    small = sql.SQL("NOT ({})").format(large) if large else sql.SQL("true")
    add(entry["member"], map(value, columns), small)
    if large:
        for column in columns:
            add(entry["parts"][column.name], [sql.SQL("ctid::text"), value(column)], large)
    return entry


def _large(conn: psycopg.Connection, table: str, columns: list[Column]) -> sql.Composable | None:
    """The condition for rows that are copied value by value; None if there are none."""
    query = "SELECT format('%s.numel', extnamespace::regnamespace) FROM pg_extension WHERE extname = 'pg_llm'"
    numel = sql.SQL(catalog.value(conn, query))
    sizes = [
        sql.SQL("coalesce(4 * {}({}), 0)").format(numel, c.quoted)
        if c.tensor
        else sql.SQL("coalesce(pg_column_size({})::bigint, 0)").format(c.quoted)
        for c in columns
        if c.varies
    ]
    large = sql.SQL("{} > {}").format(sql.SQL(" + ").join(sizes), LARGE)
    some = sql.SQL("SELECT EXISTS (SELECT FROM ONLY {} WHERE {})").format(sql.SQL(table), large)
    return large if catalog.value(conn, some) else None


def _blocks(conn: psycopg.Connection, query: sql.Composed) -> Iterator[Buffer]:
    """The data that COPY sends: small rows together, a large one as it arrives."""
    held, size = [], 0
    with conn.cursor().copy(query) as copy:
        for row in copy:
            if len(row) < BLOCK:
                held.append(bytes(row))
                size += len(row)
            if size >= BLOCK or len(row) >= BLOCK:
                yield b"".join(held)
                held, size = [], 0
            if len(row) >= BLOCK:
                yield row
    yield b"".join(held)


# -- into a database -----------------------------------------------------------------------


def types_of(conn: psycopg.Connection, table: str) -> dict[str, str]:
    """A table's columns and their types."""
    query = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
    query += "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
    return dict(conn.execute(query, [table]).fetchall())


def read(conn: psycopg.Connection, reader: Reader, entry: dict, table: str, bar) -> None:
    """Inserts the rows of a manifest's entry into a table that has at least its columns."""
    columns, types = dict(entry["columns"]), types_of(conn, table)
    insert = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE ").format(sql.SQL(table), _names(columns))
    if entry["format"] == "text" or all(types[c] == kind for c, kind in columns.items()):
        target = sql.SQL("{} ({})").format(sql.SQL(table), _names(columns))
        _copy(conn, reader, entry["member"], target, entry["format"], bar)
    else:  # binary forms differ between types
        with _staged(conn, reader, entry["member"], entry["format"], columns, bar) as staged:
            values = sql.SQL(", ").join(_cast(staged, c, types[c]) for c in columns)
            conn.execute(insert + sql.SQL("SELECT {} FROM {}").format(values, staged))
    with contextlib.ExitStack() as stack:
        parts: dict[str, sql.Identifier] = {}
        for column, member in entry["parts"].items():
            pair = {"place": "text", "value": columns[column]}
            parts[column] = stack.enter_context(_staged(conn, reader, member, entry["format"], pair, bar))
        if parts:  # tuples of pointers: no value is read before it is inserted
            values = sql.SQL(", ").join(_cast(part, "value", types[c]) for c, part in parts.items())
            first, *others = parts.values()
            joined = first + sql.SQL("").join(sql.SQL(" JOIN {} USING (place)").format(p) for p in others)
            conn.execute(insert + sql.SQL("SELECT {} FROM {}").format(values, joined))


def read_columns(conn: psycopg.Connection, reader: Reader, entry: dict, wanted: list[str], bar) -> None:
    """Writes some columns of an entry to existing rows of its table, matched by their keys."""
    columns, types = dict(entry["columns"]), types_of(conn, entry["name"])
    with _staged(conn, reader, entry["member"], entry["format"], columns, bar) as staged:
        update = sql.SQL("UPDATE ONLY {} AS t SET {} FROM {} WHERE {}").format(
            sql.SQL(entry["name"]),
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(c), _cast(staged, c, types[c])) for c in wanted
            ),
            staged,
            sql.SQL(" AND ").join(
                sql.SQL("t.{1} = {0}.{1}").format(staged, sql.Identifier(c)) for c in entry["key"]
            ),
        )
        conn.execute(update)


def read_aside(conn: psycopg.Connection, reader: Reader, entry: dict, table: str, bar) -> None:
    """Inserts the rows of an entry into a new table with the columns from which they were written."""
    conn.execute(sql.SQL("CREATE TABLE {} ({})").format(sql.SQL(table), _declared(dict(entry["columns"]))))
    read(conn, reader, entry, table, bar)


@contextlib.contextmanager
def _staged(
    conn: psycopg.Connection, reader: Reader, member: str, form: str, columns: Mapping[str, str], bar
) -> Iterator[sql.Identifier]:
    """A member as a temporary table, with the types from which it was written."""
    staged = sql.Identifier("pg_temp", member)
    conn.execute(sql.SQL("CREATE TABLE {} ({})").format(staged, _declared(columns)))
    _copy(conn, reader, member, staged, form, bar)
    yield staged
    conn.execute(sql.SQL("DROP TABLE {}").format(staged))


def _copy(
    conn: psycopg.Connection, reader: Reader, member: str, target: sql.Composable, form: str, bar
) -> None:
    query = sql.SQL("COPY {} FROM STDIN (FORMAT {})").format(target, sql.SQL(form))
    with conn.cursor().copy(query) as copy:
        for block in reader.blocks(member):
            copy.write(block)
            bar.update(len(block))


def _names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _declared(columns: Mapping[str, str]) -> sql.Composed:
    declared = (sql.SQL("{} {}").format(sql.Identifier(c), sql.SQL(kind)) for c, kind in columns.items())
    return sql.SQL(", ").join(declared)


def _cast(table: sql.Composable, column: str, kind: str) -> sql.Composed:
    return sql.SQL("{}.{}::{}").format(table, sql.Identifier(column), sql.SQL(kind))
