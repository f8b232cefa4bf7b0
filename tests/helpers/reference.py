"""The reference pages: what is generated from catalog, package and commands, and examples with their results.

A page holds, beside what is written by hand, blocks between `<!-- generated: … -->` and `<!-- end -->`, and
examples: ```sql or ```python blocks that are run in order. Of a statement that gives rows, the lines `--> …`
below it are its result, of Python `# > …`; in a ```sql errors block each statement fails with that error.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
from psycopg import pq

import pg_llm
from helpers.paths import REPO
from helpers.python_entries import python_blocks
from helpers.sql_entries import sql_blocks
from pg_llm.server import database

SQL_PAGE, PYTHON_PAGE = REPO / "extension" / "README.md", REPO / "pg_llm" / "README.md"
PAGES = [SQL_PAGE, PYTHON_PAGE, REPO / "pg_llm" / "GUIDE.md"]
ROWS, WIDTH, CELL = 6, 110, 72  # what is shown of a result
VOID = 2278  # the type of a function that returns nothing
DATABASE, FOLDER = "reference", "/srv/models"

MARKED = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
EXAMPLE = re.compile(r"^```(sql|sql errors|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def filled(text: str, block: Callable[[str], str]) -> str:
    """The page with its generated blocks as they are now."""
    return MARKED.sub(lambda found: f"{found[1]}{block(found[2])}\n{found[3]}", text)


def markers(text: str) -> list[str]:
    """Every word of the page's markers."""
    return [word for found in MARKED.finditer(text) for word in found[2].split()]


def statements(text: str) -> Iterator[str]:
    """The pieces of an SQL example, each up to a line that ends with a semicolon."""
    piece = ""
    for line in text.splitlines(keepends=True):
        piece += line
        if line.rstrip().endswith(";"):
            yield piece
            piece = ""
    assert not piece.strip(), f"ends without a semicolon: {piece}"


def table(result: pq.abc.PGresult) -> list[str]:
    """A result as lines: one value by itself, else columns under their names."""
    columns = range(result.nfields)
    rows = [[text(result.get_value(row, column)) for column in columns] for row in range(result.ntuples)]
    if len(rows) == len(columns) == 1:
        lines = rows[0]
    else:
        rows = [[cell if len(cell) <= CELL else cell[: CELL - 1] + "…" for cell in row] for row in rows]
        rows = [[text(result.fname(column)) for column in columns], *rows]
        widths = [max(len(row[column]) for row in rows[: ROWS + 1]) for column in columns]
        lines = [
            " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows[: ROWS + 1]
        ] + ["…"] * (len(rows) > ROWS + 1)
    return [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines]


def text(value: bytes | None) -> str:
    """A value or a name that the server sent, on one line."""
    return "NULL" if value is None else value.decode().replace("\n", "\\n")


def outcome(conn: psycopg.Connection, statement: str, fails: bool) -> list[str]:
    """The rows of a statement that must succeed, as text; the error of one that must fail."""
    result = conn.pgconn.exec_(statement.encode())
    failed = result.status == pq.ExecStatus.FATAL_ERROR
    assert failed == fails, f"{statement}{result.error_message.decode()}"
    if not failed:
        void = result.nfields == 0 or result.ftype(0) == VOID
        return [] if void else table(result)
    field = pq.DiagnosticField
    state, message, hint = (
        result.error_field(name) for name in (field.SQLSTATE, field.MESSAGE_PRIMARY, field.MESSAGE_HINT)
    )
    return [f"ERROR {text(state)}: {text(message)}"] + [f"HINT: {text(hint)}"] * bool(hint)


def python_output(body: str, names: dict[str, object]) -> str:
    """A Python example with what each statement prints, or the value of an expression, below it."""
    lines, shown, done = body.splitlines(keepends=True), "", 0
    for node in ast.parse(body).body:
        source = "".join(lines[done : node.end_lineno])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.Interactive([node]), "example", "single"), names)
        output = printed.getvalue().splitlines()
        shown += source + "".join(f"# > {line}".rstrip() + "\n" for line in output)
        done = node.end_lineno
    return shown


def with_results(page: str, conn: psycopg.Connection, folder: str) -> str:
    """The page with the results of its examples, run in order; `folder` stands for FOLDER."""
    names: dict[str, object] = {}

    def run(found: re.Match[str]) -> str:
        kind, body = found[1], re.sub(r"^(-->|# >).*\n", "", found[2], flags=re.MULTILINE)
        body, shown = body.replace(FOLDER, folder), ""
        if kind == "python":
            shown = python_output(body, names)
        else:
            for statement in statements(body):
                lines = outcome(conn, statement, kind == "sql errors")
                shown += statement + "".join(f"--> {line}\n" for line in lines)
        return f"```{kind}\n{shown.replace(folder, FOLDER)}```"

    return EXAMPLE.sub(run, page)


def current(path: Path) -> str:
    """A page as it should be, from a server's new database of its own."""
    database.drop_database(DATABASE)
    database.create_database(DATABASE)
    try:
        with tempfile.TemporaryDirectory(dir="/tmp") as folder, pg_llm.connect(DATABASE) as conn:
            Path(folder).chmod(0o777)  # the server may be another user's
            block = sql_blocks(conn) if path == SQL_PAGE else python_blocks
            return with_results(filled(path.read_text(), block), conn, folder)
    finally:
        database.drop_database(DATABASE)
