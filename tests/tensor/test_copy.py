"""COPY TO output is read back later: whole tensors, whatever pg_llm.display_limit is."""

from __future__ import annotations

import psycopg
import pytest

SUMMARY = "tensor(5)"
WHOLE = "[1,2,3,4,5]"


@pytest.fixture
def short(conn):
    """The connection, with a table of tensors that are shown as summaries."""
    conn.execute("DROP TABLE IF EXISTS spread, again CASCADE")
    conn.execute("CREATE TABLE spread AS SELECT i, '[1,2,3,4,5]'::tensor AS t FROM generate_series(1, 9) i")
    conn.execute("SET pg_llm.display_limit = 4")
    yield conn
    conn.execute("RESET ALL")


def shows(conn) -> str:
    return conn.execute("SELECT t::text FROM spread LIMIT 1").fetchone()[0]


def copied(conn, statement: str) -> str:
    with conn.cursor().copy(statement) as copy:
        return b"".join(bytes(block) for block in copy).decode()


@pytest.mark.parametrize(
    "statement",
    [
        "COPY spread TO STDOUT",
        "COPY spread (t) TO STDOUT (FORMAT csv)",
        "COPY (SELECT t FROM spread ORDER BY i) TO STDOUT",
        "COPY (SELECT ARRAY[t], t::text, to_jsonb(t), format('%s', t) FROM spread) TO STDOUT (FORMAT csv)",
        "COPY (SELECT set_config('pg_llm.display_limit', '3', true), t FROM spread) TO STDOUT",
    ],
)
def test_to_the_client(short, statement):
    text = copied(short, statement)
    assert WHOLE in text and SUMMARY not in text
    assert shows(short).startswith(SUMMARY)


@pytest.mark.parametrize("how", ["plainly", "do", "plpgsql", "sql", "setting"])
def test_to_a_file_and_back(short, server, how):
    """Inside functions, too, including one that sets the limit itself."""
    path = server.data / f"copy_{how}"
    copy = f"COPY spread TO '{path}'"
    body = {
        "plpgsql": f"plpgsql AS $f$ BEGIN EXECUTE $c${copy}$c$; END $f$",
        "sql": f"sql AS $f${copy}$f$",
        "setting": f"plpgsql AS $f$ BEGIN SET LOCAL pg_llm.display_limit = 2; {copy}; END $f$",
    }
    if how in body:
        short.execute(f"CREATE OR REPLACE FUNCTION writes() RETURNS void LANGUAGE {body[how]}")
    short.execute(
        {"plainly": copy, "do": f"DO $d$ BEGIN EXECUTE $c${copy}$c$; END $d$"}.get(how, "SELECT writes()")
    )
    short.execute("CREATE TABLE again (LIKE spread)")
    short.execute(f"COPY again FROM '{path}'")
    assert short.execute("SELECT count(*) FROM again JOIN spread USING (i, t)").fetchone() == (9,)
    assert shows(short).startswith(SUMMARY)


def test_by_any_role(short):
    short.execute("DROP ROLE IF EXISTS copies_pg_llm; CREATE ROLE copies_pg_llm")
    short.execute("GRANT SELECT ON spread TO copies_pg_llm; SET ROLE copies_pg_llm")
    assert copied(short, "COPY spread TO STDOUT").count(WHOLE) == 9
    short.execute("RESET ROLE; DROP OWNED BY copies_pg_llm; DROP ROLE copies_pg_llm")


def test_an_error_ends_it(short):
    """Whether or not a block catches the error, the statement after a failed COPY shows summaries again."""
    with pytest.raises(psycopg.errors.DivisionByZero):
        copied(short, "COPY (SELECT t, 1 / (i - 5) FROM spread) TO STDOUT")
    assert shows(short).startswith(SUMMARY)
    short.execute(
        "DO $$ BEGIN COPY (SELECT t, 1 / (i - 5) FROM spread) TO PROGRAM 'cat >/dev/null'; "
        "EXCEPTION WHEN division_by_zero THEN IF (SELECT t::text FROM spread LIMIT 1) NOT LIKE 'tensor(5)%' "
        "THEN RAISE EXCEPTION 'not a summary'; END IF; END $$"
    )


def test_parallel_workers(short):
    """A parallel worker of a COPY's query prints tensors whole."""
    short.execute("ALTER TABLE spread SET (parallel_workers = 2)")
    short.execute("INSERT INTO spread SELECT i, '[1,2,3,4,5]' FROM generate_series(10, 20000) i")
    short.execute("SET min_parallel_table_scan_size = 0; SET parallel_leader_participation = off")
    short.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
    query = "SELECT t::text FROM spread WHERE i % 100 = 0"
    assert "Gather" in str(short.execute(f"EXPLAIN {query}").fetchall())
    text = copied(short, f"COPY ({query}) TO STDOUT")
    assert text.count(WHOLE) == 200 and SUMMARY not in text


@pytest.fixture
def stranger(short):
    """Opens sessions that have not loaded the library but know the setting, as a placeholder."""
    opened = []

    def connect():
        dsn = psycopg.conninfo.make_conninfo(
            **short.info.get_parameters(), options="-c session_preload_libraries="
        )
        opened.append(psycopg.connect(dsn, autocommit=True))
        opened[-1].execute("SET pg_llm.display_limit = 4")
        return opened[-1]

    yield connect
    for conn in opened:
        conn.close()


@pytest.mark.parametrize("inside", [False, True], ids=["statement", "function"])
def test_the_copy_that_loads_the_library(stranger, server, inside):
    conn = stranger()
    copy = "COPY (SELECT i, t FROM spread) TO "
    if inside:
        path = server.data / "copy_first"
        conn.execute(f"DO $d$ BEGIN EXECUTE $c${copy} '{path}'$c$; END $d$")
        text = conn.execute("SELECT pg_read_file(%s)", [str(path)]).fetchone()[0]
    else:
        text = copied(conn, copy + "STDOUT")
    assert text.count(WHOLE) == 9
    assert shows(conn).startswith(SUMMARY)


@pytest.mark.parametrize("parameters", [None, [3]], ids=["simple", "extended"])
def test_the_query_that_loads_the_library(stranger, parameters):
    """A query that is no COPY shows summaries like any other."""
    conn = stranger()
    query = "SELECT t FROM spread WHERE i = " + ("3" if parameters is None else "%s")
    assert conn.execute(query, parameters).fetchone()[0].startswith(SUMMARY)
    assert WHOLE in copied(conn, "COPY spread TO STDOUT")
