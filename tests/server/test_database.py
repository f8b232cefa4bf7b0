"""Databases: the template, fresh ones, resets that keep the learner's work, servers named by PG_LLM_DSN."""

from __future__ import annotations

import subprocess
import sys
import threading

import psycopg
import pytest

import pg_llm
from pg_llm import classroom
from pg_llm.errors import KitError
from pg_llm.server import binaries, template
from pg_llm.server import database as databases
from pg_llm.server.connect import maintenance as connect_for_maintenance
from pg_llm.server.connect import open_database

pytestmark = pytest.mark.slow


@pytest.fixture
def maintenance(server):
    with psycopg.connect(**server.start().conninfo(), autocommit=True) as conn:
        yield conn


@pytest.fixture
def dropped(server):
    """Names of databases that the test creates, dropped afterwards."""
    names = []
    yield names
    for name in names:
        databases.drop_database(name)


def test_connect_gives_an_autocommit_connection_with_tensors(conn):
    assert conn.autocommit
    value = conn.execute("SELECT '[[1,2],[3,4]]'::tensor").fetchone()[0]
    assert value.shape == (2, 2)
    assert value.dtype == "float32"


def test_the_template_cannot_be_entered_or_dropped(conn, maintenance):
    with pytest.raises(KitError):
        open_database(template.TEMPLATE)
    with pytest.raises(psycopg.errors.WrongObjectType):
        maintenance.execute("DROP DATABASE pg_llm_template")


def test_every_database_loads_the_library_at_connect(conn):
    assert conn.execute("SHOW session_preload_libraries").fetchone() == ("pg_llm",)
    assert conn.execute("SHOW pg_llm.display_limit").fetchone() is not None


def test_gpt2s_tokenizer_is_there(conn):
    assert conn.execute("SELECT llm_encode('Hello world!', 'gpt2')").fetchone() == ([15496, 995, 0],)


def test_a_new_build_rebuilds_the_template(server, maintenance, monkeypatch, dropped, conn):
    """Existing databases stay unchanged and record the build that made them."""
    dropped += ["before", "after"]
    databases.create_database("before")
    monkeypatch.setattr(template, "current_build", lambda: "another")
    databases.create_database("after")
    assert databases.build_of("after") == "another"
    assert databases.build_of("before") == binaries.sql_hash()
    monkeypatch.undo()
    databases.create_template()
    assert template.read_note(maintenance, template.TEMPLATE) == {
        "build": binaries.sql_hash(),
        "classroom": classroom.digest(),
        "version": pg_llm.__version__,
        "installed": conn.execute("SELECT _llm_build()").fetchone()[0],
    }


def test_many_at_once(server, dropped):
    """Ten notebooks opened at once while the template is being built: each gets its database."""
    dropped += [f"crowd_{i}" for i in range(10)]
    with connect_for_maintenance() as conn:
        conn.execute("ALTER DATABASE pg_llm_template IS_TEMPLATE false")
        conn.execute("DROP DATABASE pg_llm_template WITH (FORCE)")
    answers = []

    def open_one(name):
        with pg_llm.connect(name) as conn:
            answers.append(conn.execute("SELECT count(*) FROM llm_model_config").fetchone()[0])

    threads = [threading.Thread(target=open_one, args=[name]) for name in dropped + dropped[:3]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    registered = 4 + 8  # sizes of GPT-2 and of GPT-3
    assert answers == [registered + len(classroom.shipped())] * 13


def test_fresh_databases_go_with_their_maker(server, maintenance):
    """Dropped when the program ends; those of a killed program, when the next one is created."""
    code = "import os, pg_llm; print(pg_llm.connect(fresh=True).info.dbname, flush=True); {}"
    names = []
    for ending in ("pass", "os._exit(1)"):
        command = [sys.executable, "-c", code.format(ending)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=binaries.PACKAGE.parent)
        names.append(done.stdout.strip())
    assert all(name.startswith("fresh_") for name in names)
    assert not databases.database_exists(names[0])
    assert databases.database_exists(names[1])
    own = pg_llm.connect(fresh=True).info.dbname
    assert databases.database_exists(own)
    assert not databases.database_exists(names[1])
    databases.drop_database(own)


def test_reset_keeps_the_learners_work(server, dropped):
    """Models named my_* with all their rows, and all of the schema learner; everything else is dropped."""
    dropped.append("lesson")
    conn = pg_llm.connect("lesson")
    for model in ("my_model", "mymodel"):
        conn.execute("SELECT llm_create_model(%s, 2, 2, 8, 16, 30)", [model])
        conn.execute("SELECT llm_init_model(%s, 7)", [model])
    conn.execute("UPDATE llm_graph SET op = 'relu' WHERE model = 'my_model' AND op = 'gelu'")
    conn.execute("UPDATE llm_param SET step = 3 WHERE model = 'my_model'")
    conn.execute("CREATE SCHEMA learner")
    conn.execute(
        "CREATE TABLE learner.attempt (id serial PRIMARY KEY, made timestamptz DEFAULT now(), t tensor)"
    )
    conn.execute("INSERT INTO learner.attempt (t) VALUES ('[1,2]'), (NULL)")
    conn.execute("CREATE TABLE scratch AS SELECT 1")
    query = "SELECT name, md5(data::bytea), step FROM llm_param WHERE model = 'my_model' ORDER BY name"
    graph = "SELECT name, op, inputs, attrs, shape FROM llm_graph WHERE model = 'my_model' ORDER BY id"
    before = conn.execute(query).fetchall(), conn.execute(graph).fetchall()
    logits = conn.execute("SELECT llm_logits(ARRAY[1,2], 'my_model')::text").fetchone()
    databases.reset("lesson", force=True)
    assert conn.closed or conn.broken or pytest.raises(psycopg.OperationalError, conn.execute, "SELECT 1")
    with pg_llm.connect("lesson") as conn:
        assert (conn.execute(query).fetchall(), conn.execute(graph).fetchall()) == before
        assert conn.execute("SELECT llm_logits(ARRAY[1,2], 'my_model')::text").fetchone() == logits
        assert conn.execute("SELECT to_regclass('scratch')").fetchone() == (None,)
        assert conn.execute("SELECT count(*) FROM llm_param WHERE model = 'mymodel'").fetchone() == (0,)
        conn.execute("INSERT INTO learner.attempt DEFAULT VALUES")
        rows = conn.execute(
            "SELECT id, made IS NOT NULL, t::text FROM learner.attempt ORDER BY id"
        ).fetchall()
        assert rows == [(1, True, "[1,2]"), (2, True, None), (3, True, None)]
        assert databases.build_of("lesson") == binaries.sql_hash()


def test_reset_of_nothing_makes_it(server, dropped):
    dropped.append("never_seen")
    databases.reset("never_seen")
    assert databases.database_exists("never_seen")


@pytest.mark.parametrize(
    ("notebook", "name"),
    [
        ("00_start_here.ipynb", "00_start_here"),
        ("deep/er/01_tensors are values.ipynb", "01_tensors_are_values"),
        ("C:\\Users\\me\\Untitled.ipynb", "Untitled"),
        ("über.ipynb", "über"),
        ('quo"te;--.ipynb', "quo_te_--"),
        (".ipynb", "notebook"),
    ],
)
def test_database_for(notebook, name, monkeypatch):
    monkeypatch.delenv("PG_LLM_DSN", raising=False)
    assert databases.database_for(notebook) == name


def test_long_names_stay_apart(monkeypatch):
    monkeypatch.delenv("PG_LLM_DSN", raising=False)
    names = {databases.database_for("ü" * 60 + end + ".ipynb") for end in "ab"}
    assert len(names) == 2
    assert all(len(name.encode()) <= 63 for name in names)


def test_the_templates_name_is_refused(server):
    with pytest.raises(KitError, match="template's own"):
        databases.create_database("pg_llm_template")


# -- a server of one's own ----------------------------------------------------------------------------------


@pytest.fixture
def dsn(server, maintenance, monkeypatch):
    """The embedded server by PG_LLM_DSN, for a role without superuser rights; a function of its name."""
    maintenance.execute("CREATE ROLE student LOGIN")
    maintenance.execute("CREATE ROLE maker LOGIN CREATEDB")
    maintenance.execute("CREATE DATABASE plain")
    info = server.start().conninfo("plain")

    def use(role, dbname="plain"):
        value = psycopg.conninfo.make_conninfo(**{**info, "user": role, "dbname": dbname})
        monkeypatch.setenv("PG_LLM_DSN", value)
        return value

    yield use
    monkeypatch.delenv("PG_LLM_DSN")
    for name in ("plain", "maker_lesson", template.TEMPLATE):
        if template.exists(maintenance, name):
            maintenance.execute(f"ALTER DATABASE {name} IS_TEMPLATE false")
            maintenance.execute(f"DROP DATABASE {name} WITH (FORCE)")
    for role in ("student", "maker"):
        maintenance.execute(f"DROP OWNED BY {role}")
        maintenance.execute(f"DROP ROLE {role}")


def test_dsn_without_rights_says_what_is_missing(dsn):
    dsn("student")
    with pytest.raises(KitError, match=r"role student may not create it.*CREATE EXTENSION"):
        pg_llm.connect()
    with pytest.raises(KitError, match=r"role student may not create databases.*CREATEDB"):
        pg_llm.connect(fresh=True)


def test_dsn_works_in_its_own_database_once_the_extension_is_there(dsn):
    dsn("postgres")
    pg_llm.connect().close()
    dsn("student")
    with pg_llm.connect() as conn:
        assert conn.info.dbname == "plain"
        assert conn.execute("SELECT '[1]'::tensor").fetchone()[0].tolist() == [1.0]


def test_dsn_with_createdb_makes_databases_from_the_teachers_template(dsn, maintenance):
    """Each learner's databases have the learner's name, belong to the learner, and are writable."""
    dsn("postgres")
    databases.create_template()
    dsn("maker")
    name = databases.database_for("lesson.ipynb")
    assert name == "maker_lesson"
    with pg_llm.connect(name) as conn:
        conn.execute("SELECT llm_create_model('my_own', 1, 1, 4, 8, 10)")
        conn.execute("SELECT llm_init_model('my_own', 1)")
        assert conn.execute("SELECT count(*) > 0 FROM llm_param").fetchone() == (True,)
    databases.reset(name)
    with pg_llm.connect(name) as conn:
        assert conn.execute("SELECT count(*) FROM llm_model_config WHERE model = 'my_own'").fetchone() == (1,)
    assert template.read_note(maintenance, name)["version"] == pg_llm.__version__
    dsn("student", name)
    with pytest.raises(KitError, match="permission denied for database"):
        pg_llm.connect()


def test_dsn_that_leads_nowhere(monkeypatch):
    monkeypatch.setenv("PG_LLM_DSN", "host=/nowhere dbname=x")
    with pytest.raises(KitError, match="cannot connect to the server of PG_LLM_DSN"):
        pg_llm.connect()
    monkeypatch.setenv("PG_LLM_DSN", "no such thing")
    with pytest.raises(KitError, match="PG_LLM_DSN"):
        pg_llm.connect()
