"""One statement: its rows, of which the first may be kept; COPY; values of every type."""

from __future__ import annotations

import contextlib

import numpy as np
import psycopg
import pytest
from psycopg.pq import TransactionStatus

import pg_llm
from pg_llm.errors import KitError
from pg_llm.notebook import statement
from pg_llm.server import settings

COPIES = {
    "COPY t TO STDOUT": "to",
    "copy /* a */ t (a, b) -- b\n from stdin with (format csv)": "from",
    "COPY (SELECT x FROM y) TO STDOUT (FORMAT binary)": "to",
    'COPY BINARY "to"."from" FROM STDIN': "from",
    "COPY t TO '/tmp/stdout'": None,
    "COPY t FROM PROGRAM 'stdin'": None,
    "COPY t FROM '/x' WHERE a = 'stdin'": None,
    "SELECT copy, 'to stdout' FROM stdin": None,
    "EXPLAIN SELECT 1": None,
}


@pytest.mark.parametrize("query", COPIES)
def test_a_copy_over_the_connection_is_known_as_such(query):
    assert statement._copy(query) == COPIES[query]


@pytest.fixture
def begun(conn):
    """A connection with an open transaction and the table t of two rows, both gone afterwards."""
    conn.execute("BEGIN; CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, E'x\ty'), (2, NULL)")
    yield conn
    assert conn.info.transaction_status == TransactionStatus.INTRANS
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (2,)
    conn.execute("ROLLBACK")


def test_copy_to_stdout_shows_its_rows(begun):
    assert list(pg_llm.sql("COPY t TO STDOUT", conn=begun)["copy"]) == ["1\tx\\ty", "2\t\\N"]
    csv = statement.run(begun, "COPY t TO STDOUT (FORMAT csv, HEADER)", keep=2)
    assert (csv.rows, csv.count) == ([("a,b",), ("1,x\ty",)], 3)
    query = "COPY (SELECT b FROM t WHERE a = %(a)s) TO STDOUT"
    assert statement.run(begun, query, {"a": 1}).rows == [("x\\ty",)]


def test_copies_that_a_cell_cannot_do_are_refused_in_words(begun):
    with pytest.raises(KitError, match="binary form"):
        pg_llm.sql("COPY t TO STDOUT (FORMAT binary)", conn=begun)
    with pytest.raises(KitError, match=r"unnest\(:values\)"):
        pg_llm.sql("COPY t FROM STDIN", conn=begun)
    with pytest.raises(KitError, match="psql"):
        pg_llm.sql("\\copy t TO 'file'", conn=begun)


@pytest.mark.parametrize("query", ["COPY t TO STDOUT", "COPY t FROM STDIN"])
def test_a_copy_that_psycopg_left_unfinished_is_ended(begun, query):
    with pytest.raises(psycopg.ProgrammingError, match="COPY"):
        begun.execute(query)
    assert begun.info.transaction_status == TransactionStatus.ACTIVE
    assert pg_llm.sql("SELECT count(*) AS n FROM t", conn=begun).n[0] == 2


def test_a_statement_that_nobody_reads_is_cancelled(conn):
    conn.pgconn.send_query(b"SELECT pg_sleep(600)")
    assert pg_llm.sql("SELECT 1 AS one", conn=conn).one[0] == 1


def test_a_pipeline_is_refused(conn):
    with conn.pipeline(), pytest.raises(KitError, match="pipeline"):
        pg_llm.sql("SELECT 1", conn=conn)


@pytest.mark.parametrize(
    "query",
    [
        "PREPARE p (int) AS SELECT :n + $1",
        "/* a */ CREATE OR REPLACE FUNCTION f(a int) RETURNS int RETURN a + :n",
        "CREATE PROCEDURE f(a int) BEGIN ATOMIC SELECT a + :n; END",
        "SELECT $1 + :n",
    ],
)
def test_a_variable_is_never_taken_for_a_parameter_of_the_statement(begun, query):
    with pytest.raises(KitError, match="parameters of its own"):
        pg_llm.sql(query, conn=begun, n=2)
    pg_llm.sql("PREPARE own (int) AS SELECT $1 AS x; DEALLOCATE own", conn=begun, n=2)


# ---- the rows that are kept


def test_the_first_rows_are_kept_and_all_are_executed_and_counted(conn):
    conn.execute("CREATE TEMP SEQUENCE s")
    query = "SELECT nextval('s') AS n FROM generate_series(1, 1000)"
    found = statement.run(conn, query, keep=100)
    assert (found.columns, found.rows[-1], len(found.rows), found.count) == (["n"], (100,), 100, 1000)
    assert statement.run(conn, query, keep=1000).count == 1000
    assert len(statement.run(conn, query).rows) == 1000
    assert conn.execute("SELECT last_value FROM s").fetchone() == (3000,)


def test_all_rows_are_kept_while_there_is_memory(conn, monkeypatch):
    query = "SELECT g FROM generate_series(1, 1000) AS g"
    monkeypatch.setattr(statement, "_LOOKS", 0)
    assert statement.run(conn, query).count == 1000
    monkeypatch.setattr(settings, "memory_left", lambda: 5 << 20)
    with pytest.raises(KitError, match=r"does not fit .* \d+ rows have come, 5 MB are left"):
        pg_llm.sql(query, conn=conn)
    assert statement.run(conn, query, keep=10).count == 1000


def test_a_stream_that_is_read_half_is_named(conn):
    rows = conn.cursor().stream("SELECT generate_series(1, 100000)")
    assert next(rows) == (1,)
    with pytest.raises(KitError, match=r"cursor.stream\(\) on this connection are read half"):
        pg_llm.sql("SELECT 1", conn=conn)
    assert next(rows) == (2,)
    rows.close()
    assert pg_llm.sql("SELECT 1 AS a", conn=conn).a[0] == 1


def test_large_values_are_kept_up_to_a_number_of_bytes(conn, monkeypatch):
    monkeypatch.setattr(statement, "BYTES_KEPT", 100_000)
    for value in ("repeat('x', 10000)", "ones(ARRAY[2500])", "ARRAY[repeat('x', 9900)]"):
        found = statement.run(conn, f"SELECT {value} FROM generate_series(1, 30)", keep=1000, arrays=True)
        assert (len(found.rows), found.count) == (10, 30)
    found = statement.run(conn, "SELECT repeat('x', 200000) FROM generate_series(1, 2)", keep=1000)
    assert (len(found.rows), found.count) == (1, 2)


def test_statements_without_rows_and_rows_without_columns(conn):
    for keep in (0, 10):
        assert statement.run(conn, "CREATE TEMP TABLE made (a int)", keep=keep) is None
        empty = statement.run(conn, "SELECT a FROM made", keep=keep)
        assert (empty.columns, empty.types, empty.rows, empty.count) == (["a"], [23], [], 0)
        assert statement.run(conn, "SELECT FROM generate_series(1, 3)", keep=keep).count == 3
        conn.execute("DROP TABLE made")


def test_an_error_among_the_rows_is_raised_and_leaves_the_connection_usable(conn):
    with pytest.raises(psycopg.errors.DivisionByZero):
        statement.run(conn, "SELECT 1 / (i - 500) FROM generate_series(1, 1000) AS i", keep=10)
    assert statement.run(conn, "SELECT 1", keep=10).rows == [(1,)]


def test_a_notice_comes_once(conn):
    seen = []
    conn.add_notice_handler(seen.append)
    statement.run(conn, f"SELECT 1 AS {'a' * 70}", keep=10)
    assert len(seen) == 1


# ---- values

MADE = """CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE DOMAIN moody AS mood;
CREATE TYPE pair AS (a int, b mood);
CREATE TYPE span AS RANGE (SUBTYPE = text);
CREATE TABLE pairs (a int, b text);
INSERT INTO pairs VALUES (1, 'x')"""
TEXTS = {
    "'pg_class'::regclass": "pg_class",
    "pg_typeof(1)": "integer",
    "'(1,2)'::point": "(1,2)",
    "'$1.5'::money": "$1.50",
    "to_tsvector('simple', 'a cat')": "'a':1 'cat':2",
    "pairs": "(1,x)",
    "array_agg(pairs)": '{"(1,x)"}',
    "'sad'::moody": "sad",
    "ARRAY['glad', 'sad']::mood[]": "{glad,sad}",
    "(1, 'sad')::pair": "(1,sad)",
    "ARRAY[(1, 'sad')::pair]": '{"(1,sad)"}',
    "'[a,b)'::span": "[a,b)",
    "'{[a,b)}'::span_multirange": "{[a,b)}",
    "'=r/postgres'::aclitem": "=r/postgres",
    "'(0,1)'::tid": "(0,1)",
    "'1/2'::pg_lsn": "1/2",
    "'$.a'::jsonpath": '$."a"',
    "(1, 'pg_class'::regclass)": ("1", "pg_class"),
    "ARRAY['(1,2)'::point]": ["(1,2)"],
}


def test_a_type_that_python_lacks_is_the_servers_text(conn):
    conn.execute(f"BEGIN; {MADE}")
    for value, text in TEXTS.items():
        group = "" if "array_agg" in value else "GROUP BY a, b, pairs"
        frame = pg_llm.sql(f"SELECT {value} AS v, 7 AS n, 0.1::real AS f FROM pairs {group}", conn=conn)
        assert frame.v[0] == text, value
        assert (frame.n.dtype, frame.f.dtype) == (np.int64, np.float32)
    conn.execute("ROLLBACK")


SAMPLES = """1 a (1,2) [1,2) {1,2} 1.2.3.4 2024-05-06 07:08:09 08:00:2b:01:02:03 08:00:2b:01:02:03:04:05
((0,0),(1,1)) <(0,0),1> {1,2,3} 1:1: (0,1) pg_class english"""


@pytest.mark.slow
def test_no_builtin_type_comes_as_bytes(conn):
    query = (
        "SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace "
        "AND typtype IN ('b', 'r', 'm') AND typname NOT IN ('bytea', '_bytea')"
    )
    tried = 0
    for (name,) in conn.execute(query).fetchall():
        for text in SAMPLES.split():
            with contextlib.suppress(psycopg.Error):
                value = pg_llm.sql(f"SELECT '{text}'::pg_catalog.\"{name}\" AS v", conn=conn).v[0]
                first = value[0] if isinstance(value, list) and value else value
                assert not isinstance(first, bytes), name
                tried += 1
                break
    assert tried > 90


@pytest.mark.parametrize("how", [{"binary": True}, {"arrays": True}, {"arrays": True, "keep": 5}])
def test_tensors_are_complete_beside_any_other_type(conn, how):
    conn.execute("SET pg_llm.display_limit = 100")
    for other in ("0", "pg_typeof(1)"):
        query = f"SELECT {other}, randn(ARRAY[200], 1) AS t, ARRAY[tensor '[1]', zeros(ARRAY[300])] AS both"
        row = statement.run(conn, query, **how).rows[0]
        assert np.array_equal(row[1], conn.execute("SELECT randn(ARRAY[200], 1)", binary=True).fetchone()[0])
        assert [tensor.shape for tensor in row[2]] == [(1,), (300,)]
    assert str(statement.run(conn, "SELECT ones(ARRAY[200])").rows[0][0]).startswith("tensor(200)")


def test_the_display_limit_is_restored_also_after_errors(conn):
    conn.execute("SET pg_llm.display_limit = 70")
    fails = "SELECT pg_typeof(1), ones(ARRAY[i]) FROM generate_series(1, 0, -1) AS i"
    for begin, end in (("SELECT 1", "SELECT 1"), ("BEGIN", "ROLLBACK")):
        conn.execute(begin)
        with pytest.raises(psycopg.Error):
            pg_llm.sql(fails.replace("ones(ARRAY[i])", "ones(ARRAY[1 / i])"), conn=conn)
        conn.execute(end)
        assert conn.execute("SHOW pg_llm.display_limit").fetchone() == ("70",)


def test_a_real_is_the_number_of_its_text(conn):
    query = "SELECT 0.1::real AS f, ARRAY[0.1::real] AS fs, tensor '[1]'"
    row = statement.run(conn, query, arrays=True).rows[0]
    assert row[:2] == (0.1, [0.1]) and row[2].tolist() == [1]
