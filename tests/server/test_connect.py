"""PG_LLM_DSN: the forms that are understood, and errors that show no password."""

from __future__ import annotations

import traceback

import pytest

from pg_llm.errors import KitError
from pg_llm.server import connect


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"])
def test_urls_of_sqlalchemy_are_understood(monkeypatch, scheme):
    monkeypatch.setenv("PG_LLM_DSN", f"{scheme}://me:p%40ss@db.example:5433/class?sslmode=require")
    expected = {"user": "me", "password": "p@ss", "host": "db.example", "port": "5433", "dbname": "class"}
    assert connect.parameters(connect.dsn()) == {**expected, "sslmode": "require"}
    assert connect.parameters(connect.dsn(), "other")["dbname"] == "other"


def test_no_server_named(monkeypatch):
    monkeypatch.setenv("PG_LLM_DSN", "")
    assert connect.dsn() is None


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql+psycopg://me:secret@nowhere.invalid/class",
        "postgresql://me:se%63ret@nowhere.invalid/class",
        "postgresql://me@nowhere.invalid/class?password=secret",
        "postgresql://me@nowhere.invalid/class?password=secret&nosuch=1",
        "postgresql://me:%secret@nowhere.invalid/class",
        "postgresql://me:x@secret@nowhere.invalid/class",
        "postgresql://me:secret/y@nowhere.invalid/class",
        "postgresql://me:12/secret@nowhere.invalid/class",
        "postgresql://me:secret/class",
        "postgresql://me:secret y@nowhere.invalid/class",
        "mysql://me:secret@nowhere.invalid/class",
        "host=nowhere.invalid password=secret",
        "host=nowhere.invalid password=x secret",
        "host=nowhere.invalid password='secret",
    ],
)
def test_no_error_shows_a_password(monkeypatch, dsn):
    monkeypatch.setenv("PG_LLM_DSN", dsn)
    with pytest.raises(KitError) as caught:
        connect.open_database(None)
    told = "".join(traceback.format_exception(caught.value))
    assert "PG_LLM_DSN" in told
    assert "secret" not in told and "se%63ret" not in told


def test_what_is_wrong_is_named_where_there_is_no_password(monkeypatch):
    monkeypatch.setenv("PG_LLM_DSN", "postgresql://localhost/class?nosuch=1")
    with pytest.raises(KitError, match='expected postgresql://.*"nosuch"'):
        connect.open_database(None)
