"""Rosters: the names of a class, from a text file or a spreadsheet's CSV."""

from __future__ import annotations

import csv
import io
from typing import TextIO

from pg_llm.errors import KitError

# What the column with the names of roles is called, where a file has a header.
HEADERS = ("student", "name", "username", "user name", "user", "login", "role")


def read(text: str | TextIO, column: str | None = None) -> list[str]:
    """The names in a roster, each once: one a line, or a column of a CSV file.

    text: the roster, or its file. Columns are separated by commas, semicolons or tabs; empty lines and lines
    that begin with # are left out. The names are in the first column, or in that of HEADERS where the first
    line has one, or in `column`. Errors: KitError if there is no such column, or no name.

    >>> read("Student;Group\\nann;1\\nben;2\\n")
    ['ann', 'ben']
    """
    where = "the roster" if isinstance(text, str) else getattr(text, "name", "the roster")
    if not isinstance(text, str):
        try:
            text = text.read()
        except UnicodeDecodeError as error:
            raise KitError(f"{where} is not in UTF-8 ({error.reason}): save it as CSV UTF-8") from None
    lines = [line for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    first = lines[0] if lines else ""
    separator = max(",;\t", key=first.count)
    rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, skipinitialspace=True)
    ]
    header = [cell.casefold() for cell in rows[0]] if rows else []
    at = 0
    if column is not None:
        if column.casefold() not in header:
            raise KitError(
                f"{where} has no column {column}; its first line has: {', '.join(header) or 'nothing'}"
            )
        at, rows = header.index(column.casefold()), rows[1:]
    elif found := [name for name in HEADERS if name in header]:
        at, rows = header.index(found[0]), rows[1:]
    names = list(dict.fromkeys(row[at] for row in rows if len(row) > at and row[at]))
    if not names:
        raise KitError(f"{where} has no names: one role a line was expected, or a CSV column of them")
    return names
