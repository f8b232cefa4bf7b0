"""PostgreSQL's client programs, run in a connection's database, and the scripts they exchange."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

import psycopg

from pg_llm.server.binaries import server_package
from pg_llm.server.connect import libpq_environment

MAJOR = 18  # version of the programs, which cannot read newer servers
_TIMEOUT = b"SET transaction_timeout = 0;\n"  # of PostgreSQL 17
_VERSION = re.compile(rb", pg_attver=\d+|pg_attver=\d+(, )?")  # of columns, set only by the server


def program(name: str) -> str:
    """The path of psql, pg_dump or pg_restore."""
    return str(server_package() / f"pginstall{MAJOR}" / "bin" / name)


def command(conn: psycopg.Connection, name: str, *arguments: str) -> dict:
    """Arguments for subprocess to run a program in a connection's database: args and env.

    No password is on the command line, where every user of the machine can read it.
    """
    with libpq_environment():
        where = {k: v for k, v in conn.info.get_parameters().items() if k != "sslpassword"}
        return {
            "args": [program(name), *arguments, "-d", psycopg.conninfo.make_conninfo(**where)],
            "env": {**os.environ, "PGPASSWORD": conn.info.password or "", "PGOPTIONS": ""},
        }


def suited(script: Iterable[bytes], server_version: int) -> Iterator[bytes]:
    """The lines of a pg_dump script, without those that servers of other versions reject."""
    in_rows = False
    for line in script:
        if in_rows:
            in_rows = line != b"\\.\n"
        elif line == _TIMEOUT and server_version < 170000:
            continue
        elif line.startswith(b"ALTER ") and b"pg_attver=" in line:
            line = _VERSION.sub(b"", line)
            if line.endswith(b" SET ();\n"):
                continue
        else:
            in_rows = line.startswith(b"COPY ") and line.endswith(b" FROM stdin;\n")
        yield line
