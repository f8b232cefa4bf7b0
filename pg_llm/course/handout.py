"""What a student is given to connect: one line to paste, in the teacher's CSV file or on a card of paper."""

from __future__ import annotations

import csv
import html
import os
import shlex
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from pg_llm.errors import KitError
from pg_llm.server.connect import dsn, parameters

COLUMNS = ["student", "password", "dsn"]
PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>pg_llm: connections</title>
<style>
body { font: 12pt sans-serif; margin: 1cm; }
section { border: 1px dashed #888; padding: 0.5cm; margin-bottom: 0.5cm; break-inside: avoid; }
h2 { margin: 0 0 0.3cm; }
code { display: block; margin: 0.15cm 0; font-size: 11pt; overflow-wrap: anywhere; }
</style>
<!-- Holds passwords: print, cut, delete. -->
CARDS
</html>
"""


def address(host: str | None = None) -> tuple[str, int]:
    """Host name and port at which students reach the server; host: the name, where it cannot be known.

    Errors: KitError if the server has no TCP port, or its name is not known.
    """
    if elsewhere := dsn():
        found = parameters(elsewhere)
        known = host or str(found.get("host") or "")
        if not known or known.startswith("/") or "," in known:
            raise KitError("the host name of the server is not in PG_LLM_DSN: give it with --host")
        return known, int(found.get("port") or os.environ.get("PGPORT") or 5432)
    from pg_llm.server.server import Server

    live = Server().start()
    if not live.listen:
        raise KitError(
            "the server has no TCP port, so that no student could connect: pg-llm stop, then "
            "pg-llm start --port 5432 --listen '*'"
        )
    return host or (socket.gethostname() if live.listen in ("*", "0.0.0.0", "::") else live.listen), live.port


def connection_string(name: str, password: str, host: str, port: int) -> str:
    """The value of PG_LLM_DSN for a student.

    >>> connection_string("o'brien", "abcd-efgh", "school.example", 5432)
    'postgresql://o%27brien:abcd-efgh@school.example:5432/o%27brien'
    """
    user = quote(name, safe="")
    at = f"[{host}]" if ":" in host else host
    return f"postgresql://{user}:{quote(password, safe='')}@{at}:{port}/{user}"


def line(connection: str) -> str:
    """The line that a student pastes into a terminal, before pg-llm lab."""
    return f"export PG_LLM_DSN={shlex.quote(connection)}"


def read(file: Path) -> dict[str, list[str]]:
    """The rows of a hand-out, by student; {} if there is no such file. Errors: KitError for another file."""
    if not file.exists():
        return {}
    with file.open(encoding="utf-8-sig", newline="") as source:
        rows = list(csv.reader(source))
    if rows and rows[0] != COLUMNS:
        raise KitError(f"{file} is no hand-out: its first line is not {','.join(COLUMNS)}")
    return {row[0]: row for row in rows[1:] if len(row) == len(COLUMNS)}


def write(file: Path, rows: Iterable[list[str]]) -> None:
    """Writes a hand-out as CSV and, beside it, as cards to print; only you may read the two files."""
    rows = list(rows)
    cards = "\n".join(_card(*row) for row in rows)
    with _private(file) as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    with _private(file.with_suffix(".html")) as target:
        target.write(PAGE.replace("CARDS", cards))


def _private(file: Path):
    """Opens a file for writing that no other user can read, whatever it was before."""
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)
    return _Replacing(fresh, file)


class _Replacing:
    """A file that takes another's place when it is complete."""

    def __init__(self, fresh: Path, file: Path):
        self.fresh, self.file = fresh, file

    def __enter__(self):
        descriptor = os.open(self.fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self.stream = os.fdopen(descriptor, "w", encoding="utf-8", newline="")
        return self.stream

    def __exit__(self, kind, *error):
        self.stream.close()
        if kind is None:
            self.fresh.replace(self.file)
        else:
            self.fresh.unlink(missing_ok=True)


def _card(student: str, password: str, connection: str) -> str:
    lines = "".join(f"<code>{html.escape(text)}</code>" for text in (line(connection), "pg-llm lab"))
    return f"<section><h2>{html.escape(student)}</h2>{lines}</section>"
