"""Errors of SQL say what a learner may have meant, in %%sql, in pg_llm.sql and in answers to exercises."""

from __future__ import annotations

import re
import threading
import time

import numpy as np
import pandas as pd
import psycopg
import pytest
from helpers import tiny_model
from helpers.jupyter_kernel import Kernel

import pg_llm
from pg_llm.notebook import hints, magic, render, sqltext

KNOWN = {
    "tokens": [1, 2], "table": "t", "x": 2, "text": "a", "nothing": None, "thing": object(), "np": np,
    "frame": pd.DataFrame({"a": [1]}),
}  # fmt: skip


@pytest.fixture
def failing(conn):
    """A function that runs a statement which fails, as %%sql does; returns the error as it is shown."""

    def run(statement: str) -> str:
        query, used = sqltext.bind(statement, KNOWN)
        with pytest.raises(psycopg.Error) as caught, hints.about(statement, KNOWN, conn):
            conn.execute(query, {name: KNOWN[name] for name in used} or None)
        return magic.describe(caught.value)

    return run


@pytest.mark.parametrize(
    "statement, hint",
    [
        ("SELECT llm_decode(tokens, 'gpt2')", "a Python variable is a parameter, with a colon: :tokens"),
        ("SELECT llm_decode([40, 716], 'gpt2')", "a list is ARRAY[1, 2]"),
        ("SELECT [1, 2]::tensor", "a list is ARRAY[1, 2]"),
        ("SELECT llm_encode(\"it's\", 'gpt2')", "a text has single ones: 'it''s'"),
        ("SELECT ‘Hello’", "quotes are straight"),
        ("SELECT “Hello”", "quotes are straight"),
        ("\\d", "\\d is a command of psql (pg-llm psql in a terminal); here: SELECT table_name"),
        ("\\d llm_param", "WHERE table_name = 'llm_param'"),
        ("\\l+", "here: SELECT datname FROM pg_database"),
        ("SELECT (ARRAY[1, 2, 3])[1:x]", "[1 : :x]"),
        ("SELECT (ARRAY[1, 2, 3])[1::x]", "[1 : :x]"),
        ("SELECT * FROM :table", ":table is a value, not a name"),
        ("INSERT INTO :table VALUES (1)", ":table is a value, not a name"),
        ("SET pg_llm.threads = :x", "not in other commands"),
        ("SELECT 1 IN :tokens", "= ANY(:tokens) in place of IN :tokens"),
        ("SELECT 1 NOT IN :tokens", "<> ALL(:tokens) in place of NOT IN :tokens"),
        ("SELECT 1 IN (:tokens)", "x = ANY(:list), not x IN (:list)"),
        ("SELECT 1 IN tokens", "= ANY(:tokens)"),
        ("SELECT :tex", "There is none of that name. Did you mean :text?"),
        ("SELECT :'text'", "without quotes: :text"),
        ("SELECT {x}", "a Python variable is :x, without braces"),
        ("SELECT $x", "a Python variable is :x, not $x"),
        ("SELECT jsonb_build_object('a', :nothing)", "name the type of :nothing, as in :nothing::integer"),
        ("CREATE VIEW v AS SELECT :x", "take no :name: write the value itself"),
        ("CREATE MATERIALIZED VIEW v AS SELECT :x", "take no :name: write the value itself"),
        ("answer =<<\nSELECT 1", "%%sql answer << is how"),
        ("answer = <<\nSELECT 1", "%%sql answer << is how"),
        ("answer = SELECT 1", "%%sql answer << is how"),
        ("answer :=\nSELECT 1", "%%sql answer << is how"),
        ("answer <\nSELECT 1", "%%sql answer << is how"),
        ("answer >>\nSELECT 1", "%%sql answer << is how"),
        ("my answer <<\nSELECT 1", "%%sql name << is how"),
        ("<< answer\nSELECT 1", "%%sql answer << is how"),
        ("<\nSELECT 1", "%%sql name << is how"),
        ("x = [1, 2]", "this is Python"),
        ("SELECT :x, :thing", ":thing: a value of type object cannot be a parameter"),
        ("SELECT * FROM frame", "%sql --persist frame"),
        ("SELECT * FROM tokens", "unnest(:tokens)"),
        ("SELECT * FROM llm_parm", "did you mean llm_param?"),
        ("SELECT llm_generat('It was')", "did you mean llm_generate?"),
        ("SELECT encode('It was')", "did you mean llm_encode?"),
        ("SELECT llm_encode(5)", "there is llm_encode(text text, model text"),
        ("SELECT lenght('a')", "did you mean length?"),
        ("SELECT len('a')", "length(text)"),
        ("SELECT llm_encode('Hello', 'gtp2')", "did you mean gpt2?"),
        ("SELECT llm_generate('It was', model => 'my_tinny')", "did you mean my_tiny?"),
        ("SELECT 'a'::tensr", "did you mean tensor?"),
        ("SELECT * FORM llm_param", "did you mean FROM?"),
        ("SELEC 1", "did you mean SELECT?"),
        ("SELECT 1 == 1", "this is = in SQL"),
        ("SELECT true && false", "this is AND in SQL"),
        ("SELECT 2 ** 3", "this is ^ in SQL"),
        ("SELECT 1 + None", "Python's None is NULL"),
        ("SELECT np.array(1)", "np is a Python module"),
        ("import pandas", "this is Python"),
        ("y = 5", "this is Python"),
        ("%sql SELECT 1", "%%sql is the first line of a cell"),
        ("SELECT %(x)s", "a Python variable is :x, not %(x)s"),
        (
            "-- tables\n\\dt\nSELECT 1",
            "\\dt is a command of psql (pg-llm psql in a terminal); here: SELECT table_name",
        ),
        ("SELECT (1", "a parenthesis is open"),
        ("SELECT gelu(tensor '[1,2]')", "did you mean pg_llm_gelu"),
        ("SELECT round(tensor '[1.5]', 2)", "tensor_rows(t) gives"),
        ("SELECT tensor '[1]' || tensor '[2]'", "concat(ARRAY[a, b], axis => 0)"),
        (
            "SELECT 2 > tensor '[1]'",
            "tensors have + - * / @ = <>, and ^ < <= > >= with a number on the right",
        ),
        ("SELECT GREATEST(tensor '[1]', 0)", "maximum(a, b) chooses element by element"),
        ("SELECT LEAST(2, tensor '[1]')", "minimum(a, b) chooses element by element"),
        ("SELECT (tensor '[1]')[1]", "tensor_get(t, 0)"),
    ],
)
def test_a_usual_mistake_gets_a_hint(failing, conn, statement, hint):
    conn.execute(
        "INSERT INTO llm_model_config (model, n_layer, n_head, d_model, d_ff, n_positions, vocab) "
        "VALUES ('my_tiny', 1, 1, 4, 16, 4, 8) ON CONFLICT DO NOTHING"
    )
    conn.execute("SELECT llm_init_model('my_tiny', 1) WHERE NOT EXISTS (SELECT FROM llm_param)")
    said = failing(statement)
    assert hint in said.partition("HINT: ")[2], said
    assert "$1" not in said
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.parametrize("statement", ["SELECT 1/0", "SELECT a FROM (SELECT 1) AS t (b)", "SELECT :x + 'b'"])
def test_other_errors_get_no_hint(failing, statement):
    assert "HINT" not in failing(statement)


def test_a_parameter_is_shown_as_it_was_written(failing):
    said = failing("SELECT :x, -- first\n       :text, :x FROM :table WHERE :x = 1")
    place = "       :text, :x FROM :table WHERE :x = 1"
    assert said.splitlines()[:3] == [
        'ERROR 42601: syntax error at or near ":table"',
        f"LINE 2: {place}",
        " " * (len("LINE 2: ") + place.index(":table")) + "^",
    ]
    assert failing("SELECT 7 % 4, :x, nonsense").splitlines()[2].index("^") == len(
        "LINE 1: SELECT 7 % 4, :x, "
    )


def test_hints_ask_nothing_in_a_failed_transaction(failing, conn):
    conn.execute("BEGIN")
    assert "did you mean" not in failing("SELECT llm_generat('It was')")
    assert "ROLLBACK" in failing("SELECT 1")
    conn.execute("ROLLBACK")


def test_names_are_parameters_of_sql_too(conn):
    def first(query, **params):
        return pg_llm.sql(query, conn=conn, **params).iloc[0].tolist()

    assert first("SELECT :x + 1, 7 % 4, '50%' LIKE '%0%', ':x'", x=1) == [2, 3, True, ":x"]
    assert first("SELECT %(x)s + 1, 7 %% 4, '%%'", x=1) == [2, 3, "%"]
    assert first("SELECT %(x)s + :y, 7 %% 4", x=1, y=2) == [3, 3]
    assert first("SELECT 7 % 4, '%(x)s'") == [3, "%(x)s"]
    assert first("SELECT :x; SELECT (ARRAY[1, 2, 3])[1 : :x]", x=2) == [[1, 2]]
    with pytest.raises(psycopg.errors.SyntaxError) as caught:
        pg_llm.sql("SELECT :missing", conn=conn)
    assert "pg_llm.sql(…, missing=…)" in magic.describe(caught.value)
    with pytest.raises(psycopg.errors.SyntaxError) as caught:
        pg_llm.sql("SELECT 7 %% 4\nFROM %(name)s", conn=conn, name="t")
    assert magic.describe(caught.value).splitlines()[:3] == [
        'ERROR 42601: syntax error at or near "%(name)s"', "LINE 2: FROM %(name)s", "             ^",
    ]  # fmt: skip
    with pytest.raises(psycopg.errors.UndefinedColumn) as caught:
        pg_llm.sql("SELECT count", conn=conn, count=1)
    assert "an argument is a parameter, with a colon: :count" in magic.describe(caught.value)


def test_the_base_of_lora_is_not_deleted(conn, failing):
    tiny_model.make(conn, "my_base", n_layer=1)
    conn.execute("SELECT llm_lora_add('my_base', 'my_lora')")
    delete = "DELETE FROM llm_model_config WHERE model = 'my_base'"
    shown = failing(delete)
    assert "HINT: my_lora uses its parameters, as LoRA does those of its base: delete that first" in shown
    conn.execute(re.search(r"SELECT llm_unshare_param.*", shown)[0].encode())
    conn.execute(delete.encode())


def test_sessions_of_a_deadlock_have_names(conn, connect):
    other = connect()
    other.execute("SET application_name = 'Gradients'; SET deadlock_timeout = '10min'")
    conn.execute(
        "CREATE TABLE locked AS SELECT i FROM generate_series(1, 2) AS i; SET deadlock_timeout = '10ms'"
    )
    update = "UPDATE locked SET i = i WHERE i = {}"
    conn.execute("BEGIN")
    other.execute("BEGIN")
    conn.execute(update.format(1))
    other.execute(update.format(2))
    waits = threading.Thread(target=other.execute, args=[update.format(1)])
    waits.start()
    try:
        while conn.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (0,):
            time.sleep(0.01)
        with pytest.raises(psycopg.errors.DeadlockDetected) as caught, hints.about("", {}, conn):
            conn.execute(update.format(2))
        conn.execute("ROLLBACK")
        assert f"HINT: process {other.info.backend_pid} is Gradients" in magic.describe(caught.value)
    finally:
        waits.join()
        other.close()
        conn.execute("DROP TABLE locked")


def test_lists_of_json_print_as_json():
    value = render.read_json('[1, "ä", null, true, [2.5], {"a": "b"}]')
    assert render.show(value) == str(value) == '[1, "ä", null, true, [2.5], {"a": "b"}]'
    assert value == [1, "ä", None, True, [2.5], {"a": "b"}]
    assert render.show(render.read_json('{"a": [true]}')) == '{"a": [true]}'
    assert render.show(["a", None]) == "['a', None]"  # a text[] of SQL


@pytest.fixture(scope="module")
def kernel(server):
    kernel = Kernel()
    assert kernel.run("%load_ext pg_llm").ok
    yield kernel
    kernel.close()


@pytest.mark.slow
def test_hints_in_a_notebook(kernel):
    assert kernel.run("tokens = [1, 2]").ok
    assert ":tokens" in kernel.run("%sql SELECT llm_decode(tokens, 'gpt2')").traceback
    assert "a cell of SQL begins with the line %%sql" in kernel.run("SELECT 1").printed
    assert "a cell of SQL begins with the line %%sql" in kernel.run("ROLLBACK").printed
    assert "HINT" not in kernel.run("x = )").printed + kernel.run("select = 1; nonsense").printed
    assert "[1]" in kernel.run("%%SQL\nSELECT ARRAY[1]").result
    assert "%%sql is the first line of its cell" in kernel.run("# sum\n%%sql\nSELECT 1").printed
    assert "its name is %%check" in kernel.run("%%Check 00.1\nSELECT 1").printed
    assert "import pg_llm" in kernel.run("pg_llm.tape()").printed
    assert "takes only --force, not --forc" in kernel.run("%pg_llm reset --forc").printed
    assert "takes no option, not --all" in kernel.run("%pg_llm status --all").printed
    assert "did you mean reset?" in kernel.run("%pg_llm reste").printed
    for shown in (
        "%sql SELECT '[null, \"a\"]'::jsonb",
        "import pg_llm\npg_llm.sql(\"SELECT '[null]'::json\")",
    ):
        assert "[null" in kernel.run(shown).result
