"""A crash on purpose: kill -9 for a session of the embedded server, where nobody else would lose anything."""

from __future__ import annotations

import os
import signal

import psutil
import psycopg

from pg_llm.server.connect import dsn
from pg_llm.server.server import Server

OTHERS = """
SELECT DISTINCT datname FROM pg_stat_activity
WHERE backend_type = 'client backend' AND datname <> current_database()
  AND application_name <> current_setting('application_name') ORDER BY datname
"""


def kill(conn: psycopg.Connection, pid: int, anyway: bool = False) -> str:
    """Ends the session of process pid as a power failure would, and says in a sentence what it did.

    kill -9 of one session makes PostgreSQL end all of them, empty all unlogged tables and recover from its
    log. Sessions of other notebooks would lose open transactions and temporary tables, so where there are any
    (and not anyway), or where the server is not the embedded one, pg_terminate_backend ends this one session.
    conn: another session, idle. Errors: ValueError if pid is no session of this database and role.
    """
    mine = "SELECT FROM pg_stat_activity WHERE pid = %s AND datname = current_database() AND usename = user"
    if conn.execute(mine, [pid]).fetchone() is None:
        raise ValueError(f"kill: process {pid} is no session of yours in this database")
    others = [] if anyway else [name for (name,) in conn.execute(OTHERS)]
    reason = _reason(pid) or (f"{', '.join(others)} would be hit, too" if others else "")
    if reason:
        conn.execute("SELECT pg_terminate_backend(%s)", [pid])
        return f"pg_terminate_backend ended the session: no kill -9, since {reason}"
    os.kill(pid, signal.SIGKILL)
    return "kill -9: the server ends all sessions and recovers"


def _reason(pid: int) -> str:
    """Why this program cannot send a signal to a session's process; empty if it can."""
    live = None if dsn() else Server().running()
    if live is None:
        return "this is not the kit's own server"
    try:
        if psutil.Process(pid).ppid() != live.pid:
            return "the server runs where its processes have other numbers"
        os.kill(pid, 0)
    except (psutil.Error, OSError):
        return "its process belongs to another user"
    return ""
