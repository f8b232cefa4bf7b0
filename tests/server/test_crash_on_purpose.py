"""crash.kill: kill -9 for one session where nobody else is hit, pg_terminate_backend elsewhere."""

from __future__ import annotations

import time

import psycopg
import pytest

import pg_llm
from pg_llm.server import crash


def is_alive(conn) -> bool:
    try:
        return conn.execute("SELECT true").fetchone()[0]
    except psycopg.OperationalError:
        return False


@pytest.fixture
def stranger(server, monkeypatch):
    """A session of another notebook, in another database."""
    monkeypatch.setenv("PGAPPNAME", "another notebook")
    conn = pg_llm.connect("postgres")
    monkeypatch.delenv("PGAPPNAME")
    yield conn
    conn.close()


def test_where_other_notebooks_are_connected_only_the_one_session_ends(conn, connect, stranger):
    victim = connect()
    said = crash.kill(conn, victim.info.backend_pid)
    assert said.startswith("pg_terminate_backend") and "postgres would be hit" in said
    assert not is_alive(victim) and is_alive(conn) and is_alive(stranger)


def test_a_server_that_is_not_the_kits_own_is_spared(conn, connect, monkeypatch):
    victim = connect()
    monkeypatch.setenv("PG_LLM_DSN", "host=elsewhere")
    assert "not the kit's own server" in crash.kill(conn, victim.info.backend_pid, anyway=True)
    assert not is_alive(victim) and is_alive(conn)


def test_kill_ends_every_session_and_leaves_what_was_committed(conn, connect, database):
    victim = connect()
    conn.execute("CREATE TABLE kept AS SELECT 1 AS n")
    victim.execute("BEGIN; INSERT INTO kept VALUES (2)")
    assert crash.kill(conn, victim.info.backend_pid, anyway=True).startswith("kill -9")
    assert not is_alive(victim)
    deadline = time.monotonic() + 30  # until the server has noticed
    while is_alive(conn):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pg_llm.connect(database) as again:  # waits for the recovery
        assert again.execute("SELECT n FROM kept").fetchall() == [(1,)]


def test_the_process_must_be_a_session_of_this_database(conn, stranger):
    for pid in (1, stranger.info.backend_pid):
        with pytest.raises(ValueError, match="no session of yours"):
            crash.kill(conn, pid)
    assert is_alive(stranger)
