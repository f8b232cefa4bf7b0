"""The extension in a schema whose name needs quotes, and which is not on search_path."""

from __future__ import annotations

import inspect

import numpy as np
import psycopg
import pytest
from psycopg import ClientCursor, sql

import pg_llm
from pg_llm import catalog, classroom
from pg_llm.files import adapter, dataset, tokenizer
from pg_llm.notebook import magic, session
from pg_llm.server import database as databases

pytestmark = pytest.mark.slow

NAME = "test_schema"


@pytest.fixture(scope="module", params=["My Ext", "a.b", "select"])
def odd(server, request):
    """A connection to a database with a schema of that name, which has the classroom models."""
    schema = sql.Identifier(request.param)
    databases.drop_database(NAME)
    with psycopg.connect(**server.start().conninfo(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {NAME} TEMPLATE template0")
    with psycopg.connect(**server.start().conninfo(NAME), autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE SCHEMA {0}; CREATE EXTENSION pg_llm SCHEMA {0}").format(schema))
        adapter.register(conn)
        assert pg_llm.load_tokenizer(conn, *tokenizer.gpt2_files(), "gpt2") == 50257
        assert classroom.load(conn) == ["classroom", "classroom-2", "classroom-1"]
        yield conn
    databases.drop_database(NAME)


def test_arrays_as_literals(odd):
    array = np.arange(4, dtype=np.float32).reshape(2, 2)
    for value in (array, [array, array]):
        query = sql.SQL("SELECT {}").format(sql.Literal(value))
        assert np.array_equal(odd.execute(query).fetchone()[0], value)
    assert np.array_equal(ClientCursor(odd).execute("SELECT %s", [array]).fetchone()[0], array)


def test_training_on_a_prepared_dataset(odd, tmp_path):
    (tmp_path / "text").write_text("It was spring. " * 50)
    assert pg_llm.load_model(odd, classroom.weights_file(1), "copy", progress=False).tensors == 16
    made = dataset.prepare_dataset(
        odd, [tmp_path / "text"], "classroom", "copy", block_size=16, truncate=True
    )
    assert made.rows > 4
    query = "SELECT {0}.llm_train('copy', 1, batch_size => 2)"
    odd.execute(catalog.qualified(odd, query))
    assert len(pg_llm.train_log("copy", conn=odd)) == 1


def test_the_client(odd):
    odd.execute(catalog.qualified(odd, "SELECT {0}.llm_trace('classroom-1', ARRAY[1, 2, 3])"))
    client = pg_llm.PGLLMClient(odd, "classroom-1")
    for name, method in inspect.getmembers(client, inspect.ismethod):
        if not name.startswith("_"):
            given = [
                value
                for parameter, value in (("prompt", "It was"), ("prompts", ["It was"]))
                if parameter in inspect.signature(method).parameters
            ]
            result = method(*given)
            assert len(list(result)) or name == "train_log", name


def test_the_practice_model(odd):
    assert pg_llm.practice_model(odd) == "classroom"
    with odd.transaction(force_rollback=True):
        odd.execute(catalog.qualified(odd, "DELETE FROM {0}.llm_param WHERE model = 'classroom'"))
        assert pg_llm.practice_model(odd) == "practice"


def test_plots_and_widgets(odd):
    assert len(pg_llm.explain("It was", model="classroom-1", conn=odd))
    pg_llm.prompt_box("It was", model="classroom-1", conn=odd)
    pg_llm.attention_explorer("It was spring.", "classroom-1", conn=odd).switch(layer=0, head=1)
    pg_llm.tokenizer_view("unbelievable", "gpt2", merges=1000, conn=odd)
    pg_llm.architecture("classroom-1", conn=odd)


def test_the_notebook(odd, monkeypatch):
    monkeypatch.setattr(session, "_current", None)
    session.start(NAME, fresh=False)
    assert "classroom" in magic.status()["value"].iloc[-1]
    session.current().conn.close()
