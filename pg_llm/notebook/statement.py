"""Executes one SQL statement and reads its rows: all of them, or the first ones and the number of the rest.

The types of the columns are known before the statement runs. They decide whether rows come in PostgreSQL's
binary form, in which a tensor needs no parsing, or as text, which every type has.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import psycopg
from psycopg import generators, pq
from psycopg._queries import PostgresQuery
from psycopg.abc import Params
from psycopg.rows import tuple_row

from pg_llm import catalog
from pg_llm.errors import KitError
from pg_llm.notebook import parameters, sqltext, values
from pg_llm.server import settings

BYTES_KEPT = 256 << 20  # of the values of a result that is limited
_AT_ONCE = 64  # rows in a message of libpq
_LOOKS = 0.5  # seconds between looks at the memory that is left
_TEXT, _FLOAT4, _RECORDS = 25, 700, (2249, 2287)

NO_INPUT = """\
COPY … FROM STDIN reads rows from the client, and a cell sends none. Instead:
INSERT INTO t SELECT * FROM unnest(:values) for a Python list, %sql --append name for a DataFrame,
COPY t FROM '/path' for a file of the server, pg-llm psql and \\copy for a file of yours"""
NO_BINARY = "COPY … TO STDOUT in binary form has no rows to show; use the format text or csv"
OWN_PARAMETERS = """\
a Python variable is sent as a parameter, and this statement has parameters of its own with which it would be
confused. In PREPARE and in CREATE FUNCTION write the value itself; elsewhere :name in place of $1"""
NO_PSQL_COPY = """\
\\copy is a command of psql, not SQL: pg-llm psql opens a prompt that has it.
In a cell, COPY … TO STDOUT shows rows; rows of Python: INSERT INTO t SELECT * FROM unnest(:values)"""


@dataclass
class Rows:
    """What a statement returned: names and type OIDs of the columns, the rows kept, the number of all."""

    columns: list[str]
    types: list[int]
    rows: list[tuple]
    count: int


def run(
    conn: psycopg.Connection,
    query: catalog.Query,
    params: Params | None = None,
    *,
    keep: int = 0,
    binary: bool = False,
    arrays: bool = False,
) -> Rows | None:
    """Executes a statement; returns its rows, or None if it is one that returns none.

    keep: the most rows to keep, and then at most BYTES_KEPT of values; later ones are counted. 0: all.
    binary: values as psycopg reads PostgreSQL's binary form, where it can read all columns.
    arrays: tensors are complete, not summaries by pg_llm.display_limit; True with binary.
    Errors: psycopg.Error, KitError for what cannot be sent, or held in memory, and a COPY that needs input or
        gives binary output.
    """
    if conn.pgconn.pipeline_status != pq.PipelineStatus.OFF:
        raise KitError("the connection is in pipeline mode; run this outside `with conn.pipeline()`")
    if isinstance(query, str) and "\0" in query:
        raise KitError("the statement contains a NUL character, at which the server would take it to end")
    copy = _copy(query)
    if copy == "from":
        raise KitError(NO_INPUT)
    with _encodable(), conn.cursor(row_factory=tuple_row) as cursor:
        values.register(cursor.adapters)
        parameters.register(cursor.adapters)
        if copy == "to":
            return _copied(cursor, query, params, keep)
        names, types = _described(cursor, query, params)
        if not names:
            cursor.execute(query, params)
            # SELECT without columns has rows, too.
            return None if cursor.description is None else Rows([], [], cursor.fetchall(), cursor.rowcount)
        has_tensors = _tensors(conn, types)
        readable = all(_readable(cursor, oid) for oid in types)
        in_binary = readable and (binary or (arrays and has_tensors))
        if in_binary and not binary:
            cursor.adapters.register_loader(_FLOAT4, _ShortestFloat)
        in_full = has_tensors and (arrays or binary) and not in_binary
        with _in_full(conn) if in_full else contextlib.nullcontext():
            # A message holds one row with tensors, which can be large, or some rows without.
            size = 1 if has_tensors or not psycopg.capabilities.has_stream_chunked() else _AT_ONCE
            rows = cast(
                "Generator[tuple, None, None]", cursor.stream(query, params, binary=in_binary, size=size)
            )
            with contextlib.closing(rows):
                kept, count = _first(rows, keep) if keep else _all(rows)
        return Rows(names, types, kept, count)


@contextlib.contextmanager
def _encodable() -> Iterator[None]:
    """Names a character of a statement or a parameter that the connection cannot send."""
    try:
        yield
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        why = f"not in the connection's encoding, {error.encoding}: SET client_encoding = 'UTF8'"
        if "\ud800" <= character <= "\udfff":
            why = "half of a surrogate pair, without the other half; no text in a database contains one"
        at = f"character {error.start + 1} of {len(error.object)}"
        raise KitError(f"{ascii(character)}, {at} of a text, is {why}") from None


def _first(rows: Iterable[tuple], most: int) -> tuple[list[tuple], int]:
    """The first rows, and the number of all: a statement is always executed to its end."""
    kept: list[tuple] = []
    count = size = 0
    for count, row in enumerate(rows, 1):
        if len(kept) == count - 1 < most and size < BYTES_KEPT:
            kept.append(row)
            size += sum(map(_size, row))
    return kept, count


def _all(rows: Iterable[tuple]) -> tuple[list[tuple], int]:
    """All rows, and their number. Errors: KitError before they fill the memory."""
    kept: list[tuple] = []
    next_look = time.monotonic() + _LOOKS
    for row in rows:
        kept.append(row)
        if time.monotonic() > next_look:
            next_look = time.monotonic() + _LOOKS
            if (left := settings.memory_left()) < settings.memory_bytes() // 10:
                raise KitError(
                    f"the result does not fit into memory: {len(kept):,} rows have come, {left >> 20:,} MB "
                    "are left. Is a join condition missing? LIMIT, or %%sql, keeps the first rows"
                )
    return kept, len(kept)


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return sys.getsizeof(value) + (sum(map(_size, value)) if isinstance(value, (list, tuple)) else 0)


# -- the columns, before the statement runs ----


def _described(
    cursor: psycopg.Cursor, query: catalog.Query, params: Params | None
) -> tuple[list[str], list[int]]:
    """Names and types of the columns that a statement will return."""
    conn, pgconn = cursor.connection, cursor.connection.pgconn
    converted = PostgresQuery(psycopg.adapt.Transformer(cursor))
    converted.convert(query, params)
    if converted.types and _has_parameters(query):
        raise KitError(OWN_PARAMETERS)
    notices, pgconn.notice_handler = pgconn.notice_handler, None  # the execution gives the same ones
    try:
        with conn.lock:
            pgconn.send_prepare(b"", converted.query, param_types=converted.types)
            _result(conn)
            pgconn.send_describe_prepared(b"")
            found = _result(conn)
    finally:
        pgconn.notice_handler = notices
    columns = range(found.nfields)
    names = [(found.fname(i) or b"").decode(conn.info.encoding) for i in columns]
    return names, [found.ftype(i) for i in columns]


def _has_parameters(query: catalog.Query) -> bool:
    """True for a statement in which $1 may stand for something else than the client's first parameter."""
    if not isinstance(query, str):
        return False
    found = [token for token in sqltext.tokens(query) if token.kind not in ("space", "comment")]
    words = [token.text.lower() for token in found[:4]]
    return (
        words[:1] == ["prepare"]
        or (words[:1] == ["create"] and not {"function", "procedure"}.isdisjoint(words))
        or any(token.kind == "param" for token in found)
    )


def _result(conn: psycopg.Connection) -> pq.abc.PGresult:
    *_, result = conn.wait(generators.execute(conn.pgconn))
    if result.status == pq.ExecStatus.FATAL_ERROR:
        raise psycopg.errors.error_from_result(result, encoding=conn.info.encoding)
    return result


def _tensors(conn: psycopg.Connection, types: list[int]) -> bool:
    tensor = conn.adapters.types.get("tensor")
    return tensor is not None and not {tensor.oid, tensor.array_oid}.isdisjoint(types)


def _readable(cursor: psycopg.Cursor, oid: int) -> bool:
    """True if psycopg knows the binary form of a type and of all that its values can contain."""
    adapters = cursor.adapters
    if oid in {*_RECORDS, *values.only_text(adapters)} or adapters.get_loader(oid, pq.Format.BINARY) is None:
        return False
    known = adapters.types.get(oid)
    # Of an array or a range, that of its elements.
    inner = known and (known.oid if known.array_oid == oid else getattr(known, "subtype_oid", None))
    return not inner or _readable(cursor, inner)


class _ShortestFloat(psycopg.adapt.Loader):
    """A real in binary form as the number that its text is: 0.1, not 0.10000000149011612."""

    format = pq.Format.BINARY

    def load(self, data) -> float:
        return float(str(np.frombuffer(data, ">f4")[0]))


@contextlib.contextmanager
def _in_full(conn: psycopg.Connection) -> Iterator[None]:
    """Tensors are written in full; an aborted transaction restores the setting when it ends."""
    query = "SELECT coalesce(current_setting('pg_llm.display_limit', true), '0')"
    change = "SELECT set_config('pg_llm.display_limit', %s, false)"
    before = catalog.value(conn, query)
    conn.execute(change, ["0"])
    try:
        yield
    finally:
        if not conn.closed and conn.info.transaction_status != pq.TransactionStatus.INERROR:
            conn.execute(change, [before])


# -- COPY ----


def _copy(query: catalog.Query) -> str | None:
    """`to` or `from` for a COPY over the connection, else None. Errors: KitError for psql's copy."""
    if not isinstance(query, str):
        return None
    words, depth = [], 0
    for token in sqltext.tokens(query):
        if token.kind in ("space", "comment"):
            continue
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0:
            words.append(token.text.lower())
            if words[0] not in ("copy", "\\"):
                return None
    if words[:2] == ["\\", "copy"]:
        raise KitError(NO_PSQL_COPY)
    ways = [i for i, word in enumerate(words) if word in ("to", "from")]
    return words[ways[0]] if ways and words[ways[0] + 1 : ways[0] + 2] in (["stdin"], ["stdout"]) else None


def _copied(cursor: psycopg.Cursor, query: catalog.Query, params: Params | None, keep: int) -> Rows:
    """The lines of COPY … TO STDOUT. They are read to the end, which keeps an open transaction as it is."""
    with cursor.copy(query, params) as copy:
        in_binary = cursor.pgresult is not None and cursor.pgresult.binary_tuples
        encoding = cursor.connection.info.encoding
        lines = (
            ("" if in_binary else bytes(line).decode(encoding, "backslashreplace").removesuffix("\n"),)
            for line in copy
        )
        rows, count = _first(lines, keep or sys.maxsize)
    if in_binary:
        raise KitError(NO_BINARY)
    return Rows(["copy"], [_TEXT], rows, count)
