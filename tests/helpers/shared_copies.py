"""The files that all sessions of a server share, and which sessions have mapped them."""

import time
from pathlib import Path

from helpers.tiny_model import ids

TOKENS = ids("abcdefgh")


def folder_of(conn) -> Path:
    return Path(conn.execute("SHOW data_directory").fetchone()[0]) / "base" / "pgsql_tmp"


def files(conn, kind="[mt]", database=None):
    """Names of the shared copies of this database, complete or being made."""
    (own,) = conn.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
    return sorted(f.name for f in folder_of(conn).glob(f"pgsql_tmp_pg_llm.*.{database or own}.{kind}*"))


def mapped(conn):
    """The shared copies that a session has mapped: {path: permissions}."""
    lines = Path(f"/proc/{conn.info.backend_pid}/maps").read_text().splitlines()
    return {line.split(None, 5)[5]: line.split()[1] for line in lines if "pgsql_tmp_pg_llm" in line}


def wait_until(condition, seconds=30):
    for _ in range(seconds * 20):
        if condition():
            return True
        time.sleep(0.05)
    return False
