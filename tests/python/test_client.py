"""PGLLMClient on any psycopg connection, and pg_llm.sql: results, timing, and the state they leave."""

from __future__ import annotations

import inspect
import re
import time

import numpy as np
import pandas as pd
import psycopg
import pytest
from psycopg.pq import TransactionStatus

import pg_llm
from pg_llm.client import BeamResult, PGLLMClient, StreamEvent
from pg_llm.errors import KitError

pytestmark = pytest.mark.slow

MODEL = "client_test"
SLOW = "client_test_slow"


@pytest.fixture(scope="module", autouse=True)
def models(database):
    with pg_llm.connect(database) as conn:
        create = (
            "SELECT llm_create_model(%s, %s, 2, %s, 512, 50257, tokenizer => 'gpt2'), llm_init_model(%s, 1)"
        )
        conn.execute(create, [MODEL, 1, 16, MODEL])
        conn.execute(create, [SLOW, 6, 256, SLOW])


@pytest.fixture(params=["autocommit", "in a transaction", "plain"])
def any_conn(server, database, request):
    """Connections made by psycopg alone: no tensor type registered."""
    info = server.start().conninfo(database)
    with psycopg.connect(**info, autocommit=request.param == "autocommit") as conn:
        if request.param == "in a transaction":
            conn.execute("CREATE TEMP TABLE mine AS SELECT 42 AS answer")
        yield conn
        conn.rollback()


def test_generate_is_the_function_of_sql(any_conn):
    client = PGLLMClient(any_conn, model=MODEL)
    got = client.generate("Hello", max_tokens=5, seed=1, temperature=0.7, topk=10, topp=0.9, eos=None)
    query = "SELECT llm_generate('Hello', 5, 0.7, 10, 0.9, %s, NULL, 1)"
    assert got == any_conn.execute(query, [MODEL]).fetchone()[0] and got.startswith("Hello")


def test_only_what_is_given_is_sent(conn):
    client = PGLLMClient(conn)
    text = client.generate("Hi", 3, model=MODEL, temperature=0)
    assert (
        text
        == conn.execute("SELECT llm_generate('Hi', 3, temperature => 0, model => %s)", [MODEL]).fetchone()[0]
    )
    with pytest.raises(psycopg.Error, match="no_such_model"):
        client.generate("Hi", model="no_such_model")


def test_stream_gives_the_events_of_generate(any_conn):
    client = PGLLMClient(any_conn, model=MODEL)
    events = list(client.stream("Hello", max_tokens=6, seed=2, eos=None))
    assert all(isinstance(e, StreamEvent) for e in events)
    assert [e.step for e in events] == [1, 2, 3, 4, 5, 6]
    assert [e.is_complete for e in events] == [False] * 5 + [True]
    assert events[-1].text == client.generate("Hello", max_tokens=6, seed=2, eos=None)
    assert {type(e.token_id) for e in events} == {int}


def test_text_split_over_tokens_is_never_broken(conn):
    """A model that can only generate the three tokens of one emoji, in order."""
    tokens = conn.execute("SELECT llm_encode('🐱', 'gpt2')").fetchone()[0]
    assert len(tokens) == 3
    options = '{"tied_head": false}'
    conn.execute("SELECT llm_create_model('cats', 0, 1, 4, 64, 50257, NULL, 'gpt2', %s)", [options])
    conn.execute("SELECT llm_init_model('cats', 1)")
    wte, head = np.zeros((50257, 4)), np.zeros((50257, 4))
    for i, token in enumerate(tokens):
        wte[token, i] = 1
        head[tokens[(i + 1) % 3], i] = 100
    for name, value in (("wte.weight", wte), ("lm_head.weight", head), ("wpe.weight", np.zeros((64, 4)))):
        conn.execute("UPDATE llm_param SET data = %s WHERE model = 'cats' AND name = %s", [value, name])
    events = list(PGLLMClient(conn, model="cats").stream("🐱", max_tokens=6, temperature=0, eos=None))
    assert [e.token_id for e in events] == tokens * 2
    assert events[-1].text == "🐱🐱🐱"
    assert all("🐱🐱🐱".startswith(e.text.rstrip("\ufffd")) for e in events)


def test_the_first_event_comes_long_before_the_last(any_conn):
    client = PGLLMClient(any_conn, model=SLOW)
    client.generate("warm up", max_tokens=1)
    started = time.monotonic()
    times = [time.monotonic() - started for _ in client.stream("Hello", max_tokens=200, seed=1, eos=None)]
    assert len(times) == 200
    assert times[0] < times[-1] / 4, f"first after {times[0]:.3f} s of {times[-1]:.3f} s"


def test_leaving_a_stream_early_stops_the_server_and_keeps_the_connection(any_conn):
    before = any_conn.info.transaction_status
    client = PGLLMClient(any_conn, model=SLOW)
    started = time.monotonic()
    client.generate("Hello", max_tokens=500, seed=1, eos=None)
    whole = time.monotonic() - started
    stream = client.stream("Hello", max_tokens=500, seed=1, eos=None)
    assert next(stream).step == 1
    started = time.monotonic()
    stream.close()
    assert time.monotonic() - started < whole / 2
    assert any_conn.info.transaction_status != TransactionStatus.INERROR
    assert any_conn.execute("SELECT 1").fetchone() == (1,)
    if before == TransactionStatus.INTRANS:
        assert any_conn.execute("SELECT answer FROM mine").fetchone() == (42,)


def test_a_loop_that_breaks_leaves_the_connection_usable(any_conn):
    for event in PGLLMClient(any_conn, model=SLOW).stream("Hello", max_tokens=500, eos=None):
        if event.step == 2:
            break
    del event
    assert PGLLMClient(any_conn, model=MODEL).generate("a", max_tokens=1, seed=1)


def test_a_statement_beside_an_open_stream_is_refused_not_hung(conn):
    client = PGLLMClient(conn, model=MODEL)
    stream = client.stream("Hello", max_tokens=50, eos=None)
    next(stream)
    with pytest.raises(KitError, match="stream is still open"):
        client.generate("Hello", max_tokens=1)
    with pytest.raises(KitError, match="stream is still open"):
        pg_llm.sql("SELECT 1", conn=conn)
    stream.close()
    assert client.generate("Hello", max_tokens=1)


def test_an_error_in_the_stream_leaves_the_connection_usable(any_conn):
    with pytest.raises(psycopg.Error):
        list(PGLLMClient(any_conn).stream("Hello", model="no_such_model"))
    if any_conn.info.transaction_status == TransactionStatus.INERROR:
        any_conn.rollback()
    assert any_conn.execute("SELECT 1").fetchone() == (1,)


def test_beams_are_ranked(any_conn):
    beams = PGLLMClient(any_conn, model=MODEL).beam_search("Hello", beam_width=3, max_tokens=4)
    assert len(beams) == 3 and all(isinstance(b, BeamResult) for b in beams)
    assert [b.rank for b in beams] == [1, 2, 3]
    assert [b.score for b in beams] == sorted((b.score for b in beams), reverse=True)
    assert all(b.text.startswith("Hello") for b in beams)


def test_next_tokens_params_and_graph_are_frames(conn):
    client = PGLLMClient(conn, model=MODEL)
    table = client.next_tokens("Hello", k=4)
    assert list(table.columns) == ["rank", "token_id", "token", "probability"] and len(table) == 4
    assert len(client.next_tokens("Hello", k=None)) == 50257
    params = client.params()
    assert (
        params.numel.sum()
        == conn.execute("SELECT sum(numel(data)) FROM llm_param WHERE model = %s", [MODEL]).fetchone()[0]
    )
    wte = params[params.name == "wte.weight"].iloc[0]
    assert wte["shape"] == [50257, 16] and abs(wte["sd"] - 0.02) < 1e-3
    graph = client.graph()
    assert {"tokens", "logits"} <= set(graph.name) and graph.inputs[0] == []


def test_the_extension_may_be_in_another_schema(server):
    pg_llm.server.database.drop_database("client_elsewhere")
    pg_llm.server.database.create_database("client_elsewhere")
    with pg_llm.connect("client_elsewhere") as conn:
        conn.execute("DROP EXTENSION pg_llm CASCADE; CREATE SCHEMA kit; CREATE EXTENSION pg_llm SCHEMA kit")
        conn.execute("SELECT kit.llm_create_model('m', 1, 1, 8, 16, 300)")
        conn.execute("SELECT kit.llm_init_model('m', 1)")
        client = PGLLMClient(conn, model="m")
        assert len(client.params()) and len(client.graph())


@pytest.mark.parametrize("method", ["generate", "generate_batch", "stream", "beam_search", "next_tokens"])
def test_the_defaults_are_those_of_the_function(conn, method):
    """help(PGLLMClient.generate) shows the defaults of llm_generate."""
    function = {"stream": "generate_stream"}.get(method, method)
    query = "SELECT pg_get_function_arguments(oid) FROM pg_proc WHERE proname = %s"
    query += " AND proargtypes[0] <> 'int[]'::regtype"
    declared = conn.execute(query, [f"llm_{function}"]).fetchone()[0]
    defaults = dict(re.findall(r"(\w+) [^,]*? DEFAULT ([^,:]+)", declared))
    if method == "beam_search":  # pg_gpt2's client has this name
        defaults["eos_token"] = defaults.pop("eos")
    parameters = inspect.signature(getattr(PGLLMClient, method)).parameters
    assert {*parameters} - {"self", "prompt", "prompts"} == {*defaults}
    assert defaults.pop("model") == "llm_default_model()" and parameters["model"].default is None
    for name, default in defaults.items():
        known = {"NULL": None, "false": False}
        assert parameters[name].default == (known[default] if default in known else float(default)), name


def test_another_kind_of_connection_is_refused():
    with pytest.raises(TypeError, match="psycopg 3"):
        PGLLMClient(object())


def test_the_client_has_a_module_of_its_own():
    alias = pytest.importorskip("pg_llm_client", reason="the package is not installed, only its sources are")
    assert (alias.PGLLMClient, alias.BeamResult, alias.StreamEvent) == (PGLLMClient, BeamResult, StreamEvent)


# ---- pg_llm.sql


def test_sql_gives_each_column_its_type(conn):
    frame = pg_llm.sql(
        "SELECT i, (i / 3.0)::real AS f, i::numeric / 3 AS n, i > 1 AS b, 'x' || i AS s, "
        "ARRAY[i, NULL] AS a, '[1,2]'::tensor AS t, nullif(i, 1) AS gap, "
        " '\\xff'::bytea AS raw, '{\"a\": 1}'::jsonb AS j "
        "FROM generate_series(1, %(k)s) AS i",
        conn=conn,
        k=2,
    )
    kinds = {name: str(frame[name].dtype) for name in ["i", "f", "n", "b", "s", "t", "gap"]}
    assert kinds == {"i": "int64", "f": "float32", "n": "float64", "b": "bool", "s": "object", "t": "object",
                     "gap": "Int64"}  # fmt: skip
    assert frame.a[0] == [1, None] and frame.raw[0] == b"\xff" and frame.j[0] == {"a": 1}
    assert isinstance(frame.t[0], np.ndarray) and frame.t[0].tolist() == [1, 2]


def test_frames_show_tensors_in_one_line(conn):
    frame = pg_llm.sql("SELECT zeros(ARRAY[30,40]) AS t, NULL AS n, ' a' AS s", conn=conn)
    assert repr(frame).splitlines()[2] == "tensor(30,40) [0, 0, 0, 0, …] mean 0 sd 0  NULL   a"
    assert "tensor(30,40)" in frame._repr_html_()
    assert type(frame.head(1)) is type(frame)


def test_frames_obey_pandas_options(conn):
    frame = pg_llm.sql(
        "SELECT i, i / 3.0::float8 AS third, i AS a, i AS b FROM generate_series(1, 70) AS i", conn=conn
    )
    assert len(repr(frame).splitlines()) == 2 + 60 + 1
    with pd.option_context("display.max_rows", 3, "display.precision", 2, "display.max_columns", 3):
        shown = repr(frame).splitlines()
        assert [line.split() for line in shown] == [
            ["i", "third", "…", "b"], ["-", "-----", "-", "-"],
            ["1", "0.33", "…", "1"], ["2", "0.67", "…", "2"], ["3", "1", "…", "3"],
            "70 rows, the first 3 shown".split(),
        ]  # fmt: skip
        assert frame._repr_html_().count("<tr>") == 4
    with pd.option_context("display.max_rows", None):
        assert len(repr(frame).splitlines()) == 2 + 70


def test_frames_show_an_index_that_names_the_rows(conn):
    frame = pg_llm.sql("SELECT 'w' AS name, zeros(ARRAY[30,40]) AS t, 2 AS n", conn=conn)
    assert repr(frame.set_index("name")).splitlines()[0].split() == ["name", "t", "n"]
    assert repr(frame.set_index("name")).splitlines()[2].startswith("w     tensor(30,40) [0, 0, 0, 0, …]")
    assert repr(frame.set_index(pd.RangeIndex(1, name="row"))).splitlines()[0].split()[0] == "row"
    assert "<th>n</th>" in frame.set_index(["name", "n"])._repr_html_()
    numbers = pg_llm.sql("SELECT i FROM generate_series(1, 3) AS i", conn=conn)
    assert [line.split() for line in repr(numbers.iloc[[2, 0, 1]]).splitlines()[2:]] == [
        ["2", "3"], ["0", "1"], ["1", "2"],
    ]  # fmt: skip


def test_sql_with_nothing_to_return(conn):
    assert pg_llm.sql("CREATE TEMP TABLE nothing (a int); INSERT INTO nothing VALUES (1)", conn=conn) is None
    empty = pg_llm.sql("SELECT a, a::real AS f FROM nothing WHERE false", conn=conn)
    assert len(empty) == 0 and list(empty.columns) == ["a", "f"]
    assert repr(empty).splitlines()[0].split() == ["a", "f"] and "<table>" in empty._repr_html_()


def test_sql_keeps_percent_signs_without_parameters(conn):
    frame = pg_llm.sql("SELECT 7 % 4 AS r, '%(x)s' AS t", conn=conn)
    assert (frame.r[0], frame.t[0]) == (3, "%(x)s")


def test_sql_raises_what_the_server_said(conn):
    with pytest.raises(psycopg.errors.UndefinedTable):
        pg_llm.sql("SELECT * FROM no_such_table", conn=conn)


def test_enums_and_the_like_are_text(conn):
    conn.execute("DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('glad')")
    assert pg_llm.sql("SELECT 'glad'::mood AS m", conn=conn).m[0] == "glad"
