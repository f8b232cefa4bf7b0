"""A server that recovers from a crash of one of its sessions: connections wait for it."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import pq

import pg_llm
from pg_llm import cli
from pg_llm.errors import KitError
from pg_llm.notebook import session
from pg_llm.server import connect


class Attempts(list):
    """The conninfos of the attempts so far, and the connection that the last of them returns."""

    info = SimpleNamespace(encoding="utf-8")


@pytest.fixture
def attempts(monkeypatch):
    """A function that makes connections fail; ping gives the states, one after the other."""
    monkeypatch.setenv("PG_LLM_DSN", "host=/nowhere")
    monkeypatch.setattr(connect.time, "sleep", lambda seconds: None)

    def prepare(states, good=None):
        states, made = iter(states), Attempts()

        def attempt(conninfo, **options):
            made.append(conninfo)
            if len(made) == good:
                return made
            raise psycopg.OperationalError("FATAL:  the database system is in recovery mode")

        monkeypatch.setattr(connect.psycopg, "connect", attempt)
        libpq = SimpleNamespace(ping=lambda conninfo: next(states))
        monkeypatch.setattr(connect, "pq", SimpleNamespace(PGconn=libpq, Ping=pq.Ping))
        return made

    return prepare


def test_a_recovering_server_is_waited_for_and_that_is_said_once(attempts, capsys):
    made = attempts([pq.Ping.REJECT, pq.Ping.REJECT, pq.Ping.OK], good=4)
    assert connect.open_database("mine") is made
    assert capsys.readouterr().err.count("waiting for it") == 1


def test_other_refusals_are_errors_at_once(attempts, capsys):
    for state in (pq.Ping.OK, pq.Ping.NO_RESPONSE):
        made = attempts([state])
        with pytest.raises(KitError, match="recovery mode"):
            connect.open_database("mine")
        assert len(made) == 1
    made = attempts([pq.Ping.REJECT, pq.Ping.OK, pq.Ping.OK])
    with pytest.raises(KitError, match="recovery mode"):
        connect.open_database("mine")
    assert len(made) == 3


def test_psql_waits_for_a_server_that_recovers(attempts, monkeypatch, capsys):
    started = []

    def execute(program, arguments):
        started.append(arguments)
        raise SystemExit

    monkeypatch.setattr(os, "execv", execute)
    attempts([pq.Ping.REJECT, pq.Ping.REJECT, pq.Ping.OK])
    with pytest.raises(SystemExit):
        cli.psql.main(["mine"], standalone_mode=False)
    assert started and capsys.readouterr().err.count("waiting for it") == 1


def test_the_wait_has_an_end(attempts, monkeypatch):
    monkeypatch.setattr(connect, "RECOVERY_SECONDS", -1)
    made = attempts([pq.Ping.REJECT])
    with pytest.raises(KitError, match="recovery mode"):
        connect.open_database("mine")
    assert len(made) == 1


@pytest.mark.slow
def test_after_a_killed_session_one_cell_says_so_and_the_next_works(database, monkeypatch):
    def cell():
        try:
            return pg_llm.sql("SELECT 2").iloc[0, 0]
        except KitError as error:
            return str(error)

    monkeypatch.setattr(session, "_current", None)
    session.start(database, fresh=False)
    for _ in range(2):
        victim = pg_llm.connect(database)  # kept: a connection that is collected ends its session in order
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        seen = 2
        while seen == 2:  # until the server has noticed it
            seen = cell()
        assert "run this cell again" in seen
        victim.close()
        assert cell() == 2 and pg_llm.connect(database).execute("SELECT 3").fetchone() == (3,)
    session.current().conn.close()
