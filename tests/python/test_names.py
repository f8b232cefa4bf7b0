"""load_names: the census's names as rows."""

from __future__ import annotations

import psycopg
import pytest

import pg_llm


def test_the_lists(conn):
    assert pg_llm.load_names(conn) == 94293
    found = conn.execute("SELECT list, count(*), sum(percent)::int FROM name GROUP BY list ORDER BY list")
    assert found.fetchall() == [("female", 4275, 90), ("male", 1219, 90), ("surname", 88799, 80)]
    first = conn.execute("SELECT name, list, percent FROM name ORDER BY percent DESC LIMIT 3").fetchall()
    assert [row[:2] for row in first] == [("James", "male"), ("John", "male"), ("Robert", "male")]
    assert first[0][2] == pytest.approx(3.318)
    assert conn.execute("SELECT count(*) FROM name WHERE name !~ '^[A-Z][a-z]*$'").fetchone()[0] == 0


def test_a_second_call_makes_them_anew(conn):
    with conn.transaction(force_rollback=True):
        pg_llm.load_names(conn, "twice")
        conn.execute("DELETE FROM twice WHERE list <> 'male'")
        assert pg_llm.load_names(conn, "twice") == 94293
        assert conn.execute("SELECT count(*) FROM twice").fetchone()[0] == 94293


@pytest.mark.parametrize("columns", ["name text", "name text, list text, percent real, mine int", ""])
def test_a_learners_own_table_is_kept(conn, columns):
    with conn.transaction(force_rollback=True):
        conn.execute(f'CREATE TABLE "my name" ({columns})')
        conn.execute('INSERT INTO "my name" DEFAULT VALUES')
        with pytest.raises(pg_llm.KitError, match="load_names\\(table='census'\\)"):
            pg_llm.load_names(conn, "my name")
        assert conn.execute('SELECT count(*) FROM "my name"').fetchone()[0] == 1


def test_without_a_connection_that_may_write(conn):
    with conn.transaction(force_rollback=True):
        conn.execute("SET TRANSACTION READ ONLY")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            pg_llm.load_names(conn, "refused")
