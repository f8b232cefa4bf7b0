"""PG_LLM_DSN: the forms that are understood, errors that show no password, roles without rights."""

from __future__ import annotations

import traceback

import psycopg
import pytest

import pg_llm
from pg_llm.cli import _one_line
from pg_llm.errors import KitError
from pg_llm.notebook import magic, session
from pg_llm.server import connect
from pg_llm.server import database as databases


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"])
def test_urls_of_sqlalchemy_are_understood(monkeypatch, scheme):
    monkeypatch.setenv("PG_LLM_DSN", f"{scheme}://me:p%40ss@db.example:5433/class?sslmode=require")
    expected = {"user": "me", "password": "p@ss", "host": "db.example", "port": "5433", "dbname": "class"}
    assert connect.parameters(connect.dsn()) == {**expected, "sslmode": "require"}
    assert connect.parameters(connect.dsn(), "other")["dbname"] == "other"


@pytest.mark.parametrize("dsn", ["host=db.example dbname=a@b", "postgresql://db.example/a%40b"])
def test_names_with_an_at_sign_are_no_passwords(dsn):
    assert connect.parameters(dsn) == {"host": "db.example", "dbname": "a@b"}


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


@pytest.mark.parametrize("dsn", ["", "options='-c work_mem=5MB'", "PGOPTIONS", "a pool"])
def test_the_settings_of_a_notebook_survive_discard_all(server, database, monkeypatch, dsn):
    live, opened = server.start(), psycopg.connect
    if dsn:
        where = f"host={live.socket_dir} port={live.port} user=postgres dbname={database}"
        monkeypatch.setenv("PG_LLM_DSN", f"{where} {dsn}" if "=" in dsn else where)
        monkeypatch.setenv("PGOPTIONS", "-c work_mem=5MB" if dsn == "PGOPTIONS" else "")
    if dsn == "a pool":

        def connect_to_pool(conninfo, **arguments):
            if "options" in conninfo:
                raise psycopg.OperationalError("FATAL: unsupported startup parameter: options")
            return opened(conninfo, **arguments)

        monkeypatch.setattr(psycopg, "connect", connect_to_pool)
    monkeypatch.setattr(session, "_current", None)
    query = "SELECT current_setting('pg_llm.display_limit'), current_setting('work_mem')"
    with session.start(database, fresh=False).conn as conn:
        assert conn.execute("SHOW pg_llm.display_limit").fetchone() == ("100",)
        for reset in ("RESET ALL", "DISCARD ALL", "SET pg_llm.display_limit = 7; RESET pg_llm.display_limit"):
            conn.execute(reset)
            limit, memory = conn.execute(query).fetchone()
            assert limit == ("0" if dsn == "a pool" else "100")
            assert memory == ("5MB" if dsn in ("PGOPTIONS", "options='-c work_mem=5MB'") else "4MB")


def test_a_role_that_may_not_connect_is_told_what_to_ask_for(server, monkeypatch):
    live = server.start()
    with psycopg.connect(**live.conninfo(), autocommit=True) as admin:
        admin.execute("CREATE ROLE test_closed LOGIN")
        admin.execute("CREATE DATABASE test_closed")
        admin.execute("REVOKE CONNECT ON DATABASE test_closed FROM PUBLIC")
        where = f"host={live.socket_dir} port={live.port} user=test_closed dbname=test_closed"
        monkeypatch.setenv("PG_LLM_DSN", where)
        with pytest.raises(
            KitError, match="ask its owner: GRANT CONNECT ON DATABASE test_closed TO your_role"
        ):
            connect.open_database(None)
        admin.execute("DROP DATABASE test_closed")
        admin.execute("DROP ROLE test_closed")


@pytest.fixture
def shared_database(server, monkeypatch):
    """A class's database with the extension; PG_LLM_DSN is that of a role to which nothing was granted."""
    with psycopg.connect(**server.start().conninfo(), autocommit=True) as admin:
        admin.execute("CREATE ROLE test_pupil LOGIN")
        admin.execute("CREATE DATABASE test_class TEMPLATE template0")
    monkeypatch.setattr(session, "_current", None)
    with psycopg.connect(**server.start().conninfo("test_class"), autocommit=True) as teacher:
        teacher.execute("CREATE SCHEMA llm; CREATE EXTENSION pg_llm SCHEMA llm")
        live = server.start()
        where = f"host={live.socket_dir} port={live.port} user=test_pupil dbname=test_class"
        monkeypatch.setenv("PG_LLM_DSN", where)
        yield teacher
    monkeypatch.delenv("PG_LLM_DSN")
    databases.drop_database("test_class")
    with psycopg.connect(**live.conninfo(), autocommit=True) as admin:
        admin.execute("DROP ROLE test_pupil")


@pytest.mark.slow
def test_a_role_without_rights_is_told_what_to_ask_for(shared_database, capsys):
    """Rights on the schema come first, then on the tables; status works with those on the schema."""
    opened = session.start(None, fresh=False)
    with pytest.raises(KitError, match="all its notebooks share test_class, and none .* CREATEDB"):
        opened.adopt("other")
    with pytest.raises(psycopg.Error) as caught:
        pg_llm.params("classroom")
    assert "HINT: ask its owner: GRANT USAGE ON SCHEMA llm TO" in magic.describe(caught.value)
    assert "GRANT CREATE to make tables" in magic.describe(caught.value)
    shared_database.execute("GRANT USAGE ON SCHEMA llm TO test_pupil")
    facts = magic.status().set_index("item")["value"]
    assert facts["models with weights"] == "permission denied for table llm_param"
    assert facts["threads"] == "as many as there are"
    assert "HINT: ask their owner: GRANT SELECT ON ALL TABLES" in capsys.readouterr().out
    with pytest.raises(psycopg.Error) as caught:
        pg_llm.params("classroom")
    assert "GRANT SELECT ON ALL TABLES" in magic.describe(caught.value)
    assert "; hint: ask their owner" in _one_line(caught.value)
    shared_database.execute("GRANT SELECT ON ALL TABLES IN SCHEMA llm TO test_pupil")
    assert magic.status().set_index("item")["value"]["models with weights"] == "none yet"
    with pytest.raises(psycopg.Error) as caught:
        pg_llm.sql("SELECT * FROM pg_authid")
    assert "HINT" not in magic.describe(caught.value), "a table that is not the extension's"
    session.current().conn.close()
