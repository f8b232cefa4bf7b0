"""Values of Python as parameters: in cells, in pg_llm.sql and in answers to exercises."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg
import pytest
from psycopg import sql

import pg_llm
from pg_llm.course import answers
from pg_llm.errors import KitError
from pg_llm.notebook import magic, parameters, session, sqltext, statement

DAY = dt.datetime(2024, 1, 1)
SENT = {  # what is sent: type in SQL, value that comes back
    "jsonb": [
        ({"a": [1, None]}, {"a": [1, None]}),
        ({"x": np.int64(3), "y": np.ones(2), "z": {1}}, {"x": 3, "y": [1, 1], "z": [1]}),
    ],
    "jsonb[]": [([{"a": 1}, {}], [{"a": 1}, {}])],
    "bigint[]": [
        (frozenset([7]), [7]),
        (range(3), [0, 1, 2]),
        (pd.Series([1, 2]), [1, 2]),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pd.Index([3]), [3]),
        ([np.int64(1), 2, None], [1, 2, None]),
        ([pd.NA, 1], [None, 1]),
    ],
    "float8[]": [
        (pd.Series([1.5, 2]), [1.5, 2]),
        ([1, 2.5, None], [1, 2.5, None]),
        ([np.float64(0.5), 1], [0.5, 1]),
    ],
    "text[]": [
        (pd.Series(["a", None]), ["a", None]),
        (np.array(["a", "b"]), ["a", "b"]),
        (pd.Categorical(["a", "b", "a"]), ["a", "b", "a"]),
        ({"a"}, ["a"]),
        (("a", None), ["a", None]),
    ],
    "timestamp[]": [(pd.Series([DAY, pd.NaT]), [DAY, None])],
    "timestamp": [(np.datetime64("2024-01-01"), DAY), (pd.Timestamp(DAY), DAY), (np.datetime64("NaT"), None)],
    "interval": [(np.timedelta64(90, "m"), dt.timedelta(hours=1.5)), (pd.NaT, None), (pd.NA, None)],
    "float8": [(np.longdouble(1.5), 1.5), (np.float32(0.5), 0.5)],
    "text": [(Path("/a b"), "/a b"), (np.str_("x"), "x")],
    "int[]": [(np.arange(2), [0, 1]), ([], []), ((), []), ((1, 2), [1, 2])],
}


@pytest.mark.parametrize("kind", SENT)
def test_what_stands_for_a_value_of_sql_is_sent_as_that(conn, kind):
    for value, expected in SENT[kind]:
        found = pg_llm.sql(f"SELECT :v::{kind} AS v", conn=conn, v=value).v[0]
        assert found == expected or (found is pd.NaT and expected is None), value
        row = answers.execute(conn, f"SELECT :v::{kind}", {"v": value}).fetchone()
        assert row[0] == expected, value
    assert pg_llm.sql("SELECT :v::float8[] AS v", conn=conn, v=pd.Series([np.nan])).v[0] != [None]


def test_a_small_number_is_an_integer(conn):
    """psycopg sends a smallint, whose square is out of range."""
    query = "SELECT :n * :n AS square, sum(x * x)::int, pg_typeof(:many) FROM unnest(:many) AS x"
    many = [200, None, 300]
    found = pg_llm.sql(query, conn=conn, n=200, many=many)
    assert found.to_numpy().tolist() == [[40000, 130000, "integer[]"]]
    opened = session.start(None, fresh=True)
    try:
        for run in (answers.execute, lambda conn, text, known: conn.execute(*answers._bound(text, known))):
            row = run(opened.conn, query, {"n": 200, "many": many}).fetchone()
            assert row == (40000, 130000, "integer[]")
    finally:
        opened.conn.close()
    assert pg_llm.sql("SELECT pg_typeof(:n)", conn=conn, n=2**40).iat[0, 0] == "bigint"


@pytest.mark.parametrize("form", [":many", "%(many)s"])
@pytest.mark.parametrize("kind", [tuple, list, set, frozenset])
def test_in_takes_a_list(conn, form, kind):
    """As psycopg 2 and SQLAlchemy expand a tuple there; IN itself takes no array."""
    query = f"SELECT x FROM unnest(ARRAY[1, 2, NULL, 3]) AS x WHERE x IN {form} OR x NOT  IN {form}"
    assert pg_llm.sql(query, conn=conn, many=kind([1, 3])).x.tolist() == [1, 2, 3]
    assert len(pg_llm.sql(f"SELECT 1 WHERE 'a' IN {form}", conn=conn, many=kind(["a", "b"]))) == 1
    assert len(pg_llm.sql(f"SELECT 1 WHERE 1 NOT IN {form}", conn=conn, many=kind([]))) == 1
    with pytest.raises(psycopg.errors.SyntaxError) as caught:
        pg_llm.sql(f"SELECT 1 WHERE 1 IN {form}", conn=conn, many=1)
    assert "= ANY(:many) in place of IN :many" in magic.describe(caught.value)


def test_in_where_no_list_follows_is_left_alone():
    for text in ("'x IN :a'", "x IN (:a)", "x IN :b", "x IN", "position(x IN :b)", "-- IN :a", "x = :a"):
        assert sqltext.any_of(text, {"a"}) == text


def test_a_tuple_of_several_types_is_a_row(conn):
    conn.execute("CREATE TYPE pg_temp.pair AS (number int, name text)")
    assert pg_llm.sql("SELECT (:v::pg_temp.pair).name", conn=conn, v=(1, "a")).iat[0, 0] == "a"
    assert pg_llm.sql("SELECT :v AS v", conn=conn, v=((1, 2), (3, 4))).v[0] == [[1, 2], [3, 4]]


def test_tensors_of_torch(conn):
    torch = pytest.importorskip("torch")
    for value in (
        torch.ones(2),
        torch.ones(2, requires_grad=True),
        torch.ones(2, dtype=torch.bfloat16),
        torch.nn.Parameter(torch.ones(2)),
    ):
        row = pg_llm.sql("SELECT :v AS v, pg_typeof(:v) AS t", conn=conn, v=value).iloc[0]
        assert (row.v.tolist(), row.t) == ([1, 1], "tensor")
    assert pg_llm.sql("SELECT :v AS v", conn=conn, v=torch.arange(3)).v[0] == [0, 1, 2]


def test_what_is_no_value_is_refused_in_a_sentence(conn):
    circle: dict = {}
    circle["itself"] = circle
    for value, words in [
        (pd.DataFrame({"a": [1]}), ":v is a table, .* unnest"),
        ({"f": len}, ":v cannot be JSON: .* builtin_function"),
        ({(1, 2): 3}, ":v cannot be JSON: keys must be str"),
        (circle, ":v cannot be JSON: Circular"),
    ]:
        with pytest.raises(KitError, match=words):
            pg_llm.sql("SELECT :v", conn=conn, v=value)
    with pytest.raises(psycopg.Error, match="cannot adapt type 'complex'"):
        pg_llm.sql("SELECT :v", conn=conn, v=1j)
    plain = {"a": 1, "b": [1, 2], "c": "x", "d": None, "e": np.ones(2, np.float32)}
    assert all(parameters.sent(plain)[name] is value for name, value in plain.items())


def test_the_forms_of_a_query(conn):
    def one(*arguments, **named):
        return pg_llm.sql(*arguments, conn=conn, **named).iat[0, 0]

    assert one(sql.SQL("SELECT {} || 7 % 4").format(sql.Literal("a;b%"))) == "a;b%3"
    assert one(sql.SQL("SELECT {}::int").format(sql.Placeholder("n")), n=3) == 3
    assert one(b"SELECT 1") == 1
    assert one("SELECT :conn + :n", {"conn": 1}, n=2) == 3
    for wrong, words in [
        ((["SELECT 1"],), "not list"),
        (("SELECT 1", [1]), "parameters have names.* got list"),
    ]:
        with pytest.raises(TypeError, match=words):
            one(*wrong)
    for empty in ("", " -- nothing\n ;"):
        with pytest.raises(KitError, match="no statement"):
            one(empty)


@pytest.mark.parametrize("query", ["SELECT '\ud800'", "SELECT :v::text", "COPY (SELECT '\ud800') TO STDOUT"])
def test_half_a_character_is_named(conn, query):
    with pytest.raises(KitError, match=r"'\\ud800', character \d+ of \d+ of a text, is half"):
        statement.run(conn, query.replace(":v", "%(v)s"), {"v": "x\ud800"} if ":v" in query else None)
    assert statement.run(conn, "SELECT 1").rows == [(1,)]


def test_other_characters_that_cannot_be_sent(conn):
    with pytest.raises(KitError, match="NUL"):
        pg_llm.sql("SELECT 'a\0; b'", conn=conn)
    conn.execute("SET client_encoding = 'LATIN1'")
    with pytest.raises(KitError, match="not in the connection's encoding, latin-1: SET client_encoding"):
        pg_llm.sql("SELECT 'ä€'", conn=conn)
    assert pg_llm.sql("SELECT 'ä' AS a", conn=conn).a[0] == "ä"
