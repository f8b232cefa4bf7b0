"""The rows of tables as members of an archive: written from one database, read into another.

Tables with tensors are copied in binary, others as text. A row that is too large to be sent (at 1 GB it
cannot) is copied without its nullable values, which follow one by one, each with the key of its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pg_llm.archive import BLOCK, Reader, Writer

LARGE = 256 << 20  # bytes of a row that is taken apart

# The extension's tables but unlogged ones (the tape: a crash empties it, too), and all others with tensors.
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

# Types without a binary form, and those whose binary form is a number of this database, are copied as text.
COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod),
    CASE WHEN t.typcategory = 'A' THEN e.typsend ELSE t.typsend END::text ~ '^(-|reg)', a.attlen = -1,
    a.atttypid = (SELECT t.oid FROM pg_extension e JOIN pg_type t ON t.typnamespace = e.extnamespace
        WHERE e.extname = 'pg_llm' AND t.typname = 'tensor'),
    a.attnotnull, coalesce(a.attnum = ANY (i.indkey), false)
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type e ON e.oid = t.typelem
LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
"""


@dataclass(frozen=True)
class Column:
    """A column of a table that is written."""

    name: str
    type: str
    as_text: bool
    varies: bool
    tensor: bool
    not_null: bool
    key: bool

    @property
    def quoted(self) -> sql.Identifier:
        return sql.Identifier(self.name)


def write(conn: psycopg.Connection, writer: Writer, table: str, binary: bool, bar) -> dict:
    """Adds the rows of a table, and returns what the manifest says of them."""
    columns = [Column(*row) for row in conn.execute(COLUMNS, [table]).fetchall()]
    key = [c for c in columns if c.key]
    large = _large(conn, table, columns) if binary and key else None
    apart = [c for c in columns if large and c.varies and not c.not_null and not c.key]
    number = len(writer.manifest["members"])
    entry = {
        "name": table,
        "format": "binary" if binary else "text",
        "columns": [[c.name, "text" if c.as_text and binary else c.type] for c in columns],
        "key": [c.name for c in key],
        "member": f"rows/{number:04}",
        "parts": {c.name: f"rows/{number:04}.{i}" for i, c in enumerate(apart)},
    }

    def value(column: Column) -> sql.Composable:
        return sql.SQL("{}::text").format(column.quoted) if column.as_text and binary else column.quoted

    def add(member: str, values: Iterable[sql.Composable], where: sql.Composable) -> None:
        query = sql.SQL("COPY (SELECT {} FROM ONLY {} WHERE {}) TO STDOUT (FORMAT {})").format(
            sql.SQL(", ").join(values), sql.SQL(table), where, sql.SQL(entry["format"])
        )
        writer.add(member, _blocks(conn, query), bar)

    or_null = sql.SQL("CASE WHEN {} THEN NULL ELSE {} END")
    whole = [or_null.format(large, value(c)) if c in apart else value(c) for c in columns]
    add(entry["member"], whole, sql.SQL("true"))
    for column in apart:
        where = sql.SQL("{} AND {} IS NOT NULL").format(large, column.quoted)
        add(entry["parts"][column.name], map(value, [*key, column]), where)
    return entry


def _large(conn: psycopg.Connection, table: str, columns: list[Column]) -> sql.Composable | None:
    """The condition of rows to take apart; None where there are none."""
    query = "SELECT format('%s.numel', extnamespace::regnamespace) FROM pg_extension WHERE extname = 'pg_llm'"
    numel = sql.SQL(conn.execute(query).fetchone()[0])
    sizes = [
        sql.SQL("coalesce(4 * {}({}), 0)").format(numel, c.quoted)
        if c.tensor
        else sql.SQL("coalesce(pg_column_size({})::bigint, 0)").format(c.quoted)
        for c in columns
        if c.varies
    ]
    large = sql.SQL("{} > {}").format(sql.SQL(" + ").join(sizes), LARGE)
    query = sql.SQL("SELECT EXISTS (SELECT FROM ONLY {} WHERE {})").format(sql.SQL(table), large)
    return large if conn.execute(query).fetchone()[0] else None


def _blocks(conn: psycopg.Connection, query: sql.Composable) -> Iterator[bytes]:
    """What COPY sends: small rows together, a large one as it arrives."""
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
    """Puts the rows of a manifest's entry into a table that has at least its columns."""
    columns, types = dict(entry["columns"]), types_of(conn, table)
    if entry["format"] == "text" or all(types[c] == kind for c, kind in columns.items()):
        target = sql.SQL("{} ({})").format(sql.SQL(table), _names(columns))
        _copy(conn, reader, entry["member"], target, entry["format"], bar)
    else:  # binary forms differ from type to type
        _stage(conn, reader, entry["member"], columns, entry["format"], bar)
        insert = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM pg_temp.staged AS s")
        values = sql.SQL(", ").join(_cast(c, types) for c in columns)
        conn.execute(insert.format(sql.SQL(table), _names(columns), values))
        conn.execute("DROP TABLE pg_temp.staged")
    for column, member in entry["parts"].items():
        parts = {c: columns[c] for c in [*entry["key"], column]}
        _stage(conn, reader, member, parts, entry["format"], bar)
        _update(conn, table, entry["key"], [column], types)


def read_columns(conn: psycopg.Connection, reader: Reader, entry: dict, wanted: list[str], bar) -> None:
    """Puts some columns of an entry into the rows of its table that are there already."""
    _stage(conn, reader, entry["member"], dict(entry["columns"]), entry["format"], bar)
    _update(conn, entry["name"], entry["key"], wanted, types_of(conn, entry["name"]))


def read_aside(conn: psycopg.Connection, reader: Reader, entry: dict, table: str, bar) -> None:
    """Puts the rows of an entry into a new table of the columns they were written from."""
    conn.execute(sql.SQL("CREATE TABLE {} ({})").format(sql.SQL(table), _declared(dict(entry["columns"]))))
    read(conn, reader, entry, table, bar)


def _stage(
    conn: psycopg.Connection, reader: Reader, member: str, columns: Mapping[str, str], form: str, bar
) -> None:
    """A member as the temporary table `staged`, in the types it was written from."""
    conn.execute(sql.SQL("CREATE TEMP TABLE staged ({})").format(_declared(columns)))
    _copy(conn, reader, member, sql.SQL("pg_temp.staged"), form, bar)


def _update(
    conn: psycopg.Connection, table: str, key: list[str], columns: list[str], types: Mapping[str, str]
) -> None:
    """Takes columns over from the rows of `staged` that have the same key."""
    update = sql.SQL("UPDATE ONLY {} AS t SET {} FROM pg_temp.staged AS s WHERE {}").format(
        sql.SQL(table),
        sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(c), _cast(c, types)) for c in columns),
        sql.SQL(" AND ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(c)) for c in key),
    )
    conn.execute(update)
    conn.execute("DROP TABLE pg_temp.staged")


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


def _cast(column: str, types: Mapping[str, str]) -> sql.Composed:
    return sql.SQL("s.{}::{}").format(sql.Identifier(column), sql.SQL(types[column]))
