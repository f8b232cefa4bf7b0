"""Runs an answer on a variant of the data and turns what it returns into a table that can be compared."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import math
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, cast

import numpy as np
import psycopg
from psycopg import sql

from pg_llm.course.exercise import Exercise, Variant
from pg_llm.notebook import hints, parameters, sqltext

LARGEST = 5000  # rows of an answer that are compared
LIMIT = 30_000  # milliseconds that a statement of an answer may run
DISK = 512 << 10  # kilobytes of temporary files that it may write
PROBE_FAILED = "tried by the check, it failed: "  # course.sql knows it, too
TOO_MUCH = (
    "Either a recursion or loop does not end, or its work grows from step to step: count the rows after each "
    "of the first steps"
)
TRANSACTIONS = re.compile(r"\s*(begin|start|commit|end|rollback|abort|savepoint|release)\b", re.IGNORECASE)
COPY = re.compile(r"\s*\\?copy\b", re.IGNORECASE)
THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")
NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class Unfit(Exception):
    """An answer that cannot be tried; its text is for the learner."""


class Endless(Unfit):
    """An answer that was stopped before its end."""


def tried(
    exercise: Exercise, answer: str, variant: Variant, conn: psycopg.Connection, known: Mapping
) -> dict:
    """The table that an answer gives on a variant, or {"error": text}. The database stays as it was.

    An answer that was stopped because it ran too long, or returned too many rows, has "endless" as well.
    """
    return all_tried(exercise, [answer], variant, conn, known)[0]


def all_tried(
    exercise: Exercise, texts: Iterable[str], variant: Variant, conn: psycopg.Connection, known: Mapping
) -> list[dict]:
    """The tables that several answers give on a variant, which is set up once for all of them."""
    with undone(conn):
        _quiet(conn)
        try:
            variables = {**known, **prepared(variant, conn, known)}
        except psycopg.Error as error:
            if conn.closed:
                raise
            return [{"error": _described(error)} for _ in texts]
        return [_tried(exercise, text, conn, dict(variables)) for text in texts]


def _tried(exercise: Exercise, answer: str, conn: psycopg.Connection, variables: dict) -> dict:
    limit = ""
    try:
        with undone(conn):
            limit = limited(conn)
            if exercise.language == "python":
                return python_table(exercise, answer, variables)
            return sql_table(exercise, answer, conn, variables)
    except Endless as error:
        return {"error": str(error), "endless": True}
    except Unfit as error:
        return {"error": str(error)}
    except psycopg.errors.QueryCanceled as error:
        if "statement timeout" not in str(error):
            return {"error": _described(error)}
        text = f"stopped after {limit}, the limit of a statement (statement_timeout)"
        return {"error": f"{text}. {TOO_MUCH}", "endless": True}
    except psycopg.Error as error:
        if conn.closed:
            raise
        return {"error": _described(error)}


def _described(error: psycopg.Error) -> str:
    from pg_llm.notebook.magic import describe

    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return f"{describe(error)}\nHINT: the answer is a query; it changes no table"
    return describe(error)


@contextlib.contextmanager
def undone(conn: psycopg.Connection) -> Iterator[None]:
    """A transaction, or a savepoint of the learner's own, that is rolled back at the end."""
    with conn.transaction(force_rollback=True):
        yield


def prepared(variant: Variant, conn: psycopg.Connection, known: Mapping) -> dict[str, Any]:
    """Sets up a variant; returns its variables."""
    variables = dict(variant.variables)
    for statement in sqltext.split(variant.setup):
        execute(conn, statement, {**known, **variables})
    for name, query in variant.select.items():
        row = execute(conn, query, {**known, **variables}).fetchone()
        variables[name] = row[0] if row else None
    return variables


def _quiet(conn: psycopg.Connection) -> None:
    conn.execute("SET LOCAL client_min_messages = error")


def limited(conn: psycopg.Connection, local: bool = True) -> str:
    """Limits the time of each statement of the transaction, or session; returns the limit, such as 30s.

    Its temporary files are limited, too, where the role may do that. Lower limits of the session's own stay.
    """
    query = "SELECT set_config(name, least(nullif(setting::bigint, %s), %s)::text, %s) FROM pg_settings "
    conn.execute(
        query + "WHERE name = 'temp_file_limit' AND has_parameter_privilege(name, 'SET')", [-1, DISK, local]
    )
    return conn.execute(query + "WHERE name = 'statement_timeout'", [0, LIMIT, local]).fetchall()[0][0]


def execute(conn: psycopg.Connection, statement: str, variables: Mapping) -> psycopg.Cursor:
    """Executes a statement with :names as parameters."""
    statement = sqltext.any_of(statement, parameters.lists(variables))
    with hints.about(statement, variables, conn):
        return conn.execute(*_bound(statement, variables))


def _bound(statement: str, variables: Mapping) -> tuple[bytes, dict | None]:
    query, used = sqltext.bind(statement, variables)
    # A learner's text, which psycopg accepts from programs only as a literal.
    return query.encode(), parameters.sent({name: variables[name] for name in used}) or None


def statements(answer: str) -> list[str]:
    """The statements of an answer. Errors: Unfit."""
    found = sqltext.split(answer)
    if not found:
        raise Unfit("the cell contains no statement")
    for statement in found:
        if TRANSACTIONS.match(statement):
            raise Unfit("an answer contains no BEGIN, COMMIT or ROLLBACK: the check undoes what it does")
        if COPY.match(statement):
            raise Unfit("an answer contains no COPY: a query returns its rows")
    return found


def sql_table(exercise: Exercise, answer: str, conn: psycopg.Connection, variables: Mapping) -> dict:
    """The table that an answer in SQL gives, or that the probe gives after it."""
    *first, last = statements(answer)
    for statement in first:
        execute(conn, statement, variables)
    if not exercise.probe:
        if not exercise.writes:
            # Temporary tables of earlier statements may be filled; whatever is kept may not.
            conn.execute("SET LOCAL transaction_read_only = on")
        return rows_of(conn, last, variables)
    conn.execute("DROP TABLE IF EXISTS pg_temp.answer")
    if is_query(last) and re.search(r"\banswer\b", exercise.probe):
        _keep(conn, last, variables)
    elif is_query(last) and first:
        with undone(conn):  # the learner looks at what was defined, which may call a function that writes
            execute(conn, last, variables)
    else:
        execute(conn, last, variables)
    try:
        return rows_of(conn, exercise.probe, variables)
    except psycopg.errors.QueryCanceled:
        raise
    except psycopg.Error as error:
        if conn.closed:
            raise
        raise Unfit(PROBE_FAILED + _of_probe(error)) from None


def _keep(conn: psycopg.Connection, query: str, variables: Mapping) -> None:
    """Keeps a query's rows as the table answer; columns of equal names get others."""
    # In a line of its own, so that an error shows the learner's line.
    create = "CREATE TEMP TABLE answer{} AS\n{}"
    try:
        with conn.transaction():
            execute(conn, create.format("", query), variables)
    except psycopg.errors.DuplicateColumn:
        columns = execute(conn, query, variables).description or []
        names = [column.name for column in columns]
        distinct = [n if names.index(n) == i else f"{n}_{i + 1}" for i, n in enumerate(names)]
        listed = sql.SQL(", ").join(map(sql.Identifier, distinct)).as_string(conn).replace("%", "%%")
        execute(conn, create.format(f" ({listed})", query), variables)


def _of_probe(error: psycopg.Error) -> str:
    """An error of the probe; without the probe's own text, which the learner has not written."""
    from pg_llm.notebook.magic import describe

    text = describe(error, guess=False)
    if error.diag.internal_query is None:
        text = re.sub(r"\nLINE \d+: .*\n.*\^", "", text)
    if isinstance(error, psycopg.errors.UndefinedFunction):
        text = re.sub(r"\nHINT: .*", "", text)
    return text


def is_query(statement: str) -> bool:
    """True for a statement that begins as a query does; WITH … UPDATE is none."""
    depth, first = 0, ""
    for token in sqltext.tokens(statement):
        word = token.text.lower()
        if token.kind in ("space", "comment"):
            continue
        first = first or word
        depth += (word == "(") - (word == ")")
        if first != "with":
            break
        if depth == 0 and word in ("select", "insert", "update", "delete", "merge"):
            return word == "select"
    return first in ("with", "select", "values", "table", "(")


def rows_of(conn: psycopg.Connection, query: str, variables: Mapping) -> dict:
    """A query's rows as a comparable table. Errors: Unfit."""
    cursor, query = conn.cursor(), sqltext.any_of(query, parameters.lists(variables))
    try:
        # Row by row, so that a query without end does not fill the memory.
        stream = cast("Generator[tuple, None, None]", cursor.stream(*_bound(query, variables)))
        with hints.about(query, variables, conn), contextlib.closing(stream):
            rows = list(itertools.islice(stream, LARGEST + 1))
    except psycopg.ProgrammingError as error:
        if error.sqlstate:
            raise
        raise Unfit("the last statement returns no rows; end the cell with a query") from None
    if len(rows) > LARGEST:
        raise Endless(f"got more than {LARGEST:,} rows, which is more than any task asks for")
    if not rows:  # a stream without rows does not tell its columns
        cursor = execute(conn, query, variables)
    return table([column.name for column in cursor.description or ()], rows)


def python_table(exercise: Exercise, answer: str, variables: dict[str, Any]) -> dict:
    """The table of the value of an answer in Python, or of the probe after it."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            value = evaluated(answer, variables)
            if exercise.probe:
                value = eval(exercise.probe, variables)
    except Exception as error:  # a learner's code may raise anything
        return {"error": f"{type(error).__name__}: {error}"}
    return value_table(value)


def evaluated(code: str, variables: dict[str, Any]) -> Any:
    """Executes code; returns the value of its last expression, or None."""
    tree = ast.parse(code)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "<answer>", "exec"), variables)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), "<answer>", "exec"), variables)
    return eval(compile(ast.Expression(last.value), "<answer>", "eval"), variables)


def value_table(value: Any) -> dict:
    """A Python value as a comparable table: data frames and lists of tuples as rows, all else as one cell."""
    if hasattr(value, "itertuples"):
        return table([str(name) for name in value.columns], list(value.itertuples(index=False)))
    if isinstance(value, list) and value and all(isinstance(row, tuple) for row in value):
        return table([f"column{i + 1}" for i in range(len(value[0]))], value)
    return table(["value"], [(value,)])


def table(columns: list[str], rows: list) -> dict:
    """{"columns": [name], "rows": [[value]]} with values that JSON has."""
    return {"columns": columns, "rows": [[plain(value) for value in row] for row in rows]}


def plain(value: Any) -> Any:
    """A value for JSON: tensors as nested lists, numbers and truth values also where they came as text."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Decimal):
        # numeric '2.0' was computed, '2' was counted: only counts are compared exactly.
        value = int(value) if value.is_finite() and value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _read(value)
    if isinstance(value, (list, tuple)):
        values = [plain(each) for each in value]
        # A tensor with one element is a number, whatever its shape.
        return values[0] if len(values) == 1 and not isinstance(values[0], list) else values
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True, default=str)
    return value if value is None or isinstance(value, (bool, int)) else str(value)


def _read(text: str) -> Any:
    """What a text stands for: a number, a truth value, a tensor, an array; else the text without NUL."""
    bare = text.strip()
    if THOUSANDS.fullmatch(bare):
        bare = bare.replace(",", "")
    if NUMBER.fullmatch(bare) and len(bare) < 100:
        value = float(bare) if set(bare) & set(".eE") else int(bare)
        return value if math.isfinite(value) else text
    if bare.lower().lstrip("-") in ("infinity", "inf", "nan"):
        return str(float(bare))
    if bare in ("t", "true", "f", "false"):
        return bare.startswith("t")
    if bare[:1] in ("[", "{"):  # a tensor, or an array
        with contextlib.suppress(ValueError):
            return plain(json.loads(bare.replace("{", "[").replace("}", "]")))
    return text.replace("\0", "")
