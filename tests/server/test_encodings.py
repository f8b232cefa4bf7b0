"""Databases in SQL_ASCII, whose texts are bytes of any encoding: cells, pg_llm.sql and the client."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

import pg_llm
from pg_llm.errors import KitError
from pg_llm.notebook import hints, magic, session, statement
from pg_llm.server import database as databases
from pg_llm.server.connect import maintenance

BYTE = r"SELECT convert_from('\xe4', 'SQL_ASCII') AS a"  # no UTF-8, and ä in LATIN1


@pytest.fixture(scope="module")
def name(server):
    with maintenance() as conn:
        conn.execute(
            "CREATE DATABASE in_ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'"
        )
    yield "in_ascii"
    databases.drop_database("in_ascii")


@pytest.fixture(scope="module")
def conn(name):
    with pg_llm.connect(name) as opened:
        yield opened


def test_text_is_utf8(conn):
    conn.execute("RESET ALL")
    found = pg_llm.sql(
        "SELECT 'ä€' || :x AS a, ARRAY['ö'] AS b, '{\"k\": \"ü\"}'::json AS c", conn=conn, x="ß"
    )
    assert found.to_dict("records") == [{"a": "ä€ß", "b": ["ö"], "c": {"k": "ü"}}]
    assert pg_llm.sql("SELECT llm_decode(llm_encode('häß', 'gpt2'), 'gpt2') AS d", conn=conn).d[0] == "häß"
    client = pg_llm.PGLLMClient(conn, model="classroom-1")
    assert client.generate("ä It was", max_tokens=3, seed=1).startswith("ä It was")
    assert len(list(client.stream("It was", max_tokens=2))) == 2


@pytest.mark.parametrize("query", [BYTE, f"COPY ({BYTE}) TO STDOUT", f"SELECT ARRAY(({BYTE}))"])
def test_other_bytes_are_named(name, query):
    opened = session.Session(name)
    with pytest.raises(psycopg.errors.CharacterNotInRepertoire, match="0xe4") as caught:
        with hints.about(query, {}, opened.conn):
            statement.run(opened.conn, query)
    assert "HINT: texts of this database are bytes of any encoding" in magic.describe(caught.value)
    opened.conn.execute("SET client_encoding = 'LATIN1'")
    assert "ä" in str(statement.run(opened.conn, query).rows)
    opened.conn.close()


def test_connections_of_ones_own_are_told_what_to_set(name):
    with databases.open_database(name) as opened:
        info = opened.info.dsn
    with psycopg.connect(info, client_encoding="SQL_ASCII", autocommit=True) as own:
        for use in (
            pg_llm.register,
            lambda c: pg_llm.sql("SELECT 1", conn=c),
            lambda c: pg_llm.params("m", conn=c),
        ):
            with pytest.raises(KitError, match="SQL_ASCII.*SET client_encoding = 'UTF8'"):
                use(own)
        own.execute("SET client_encoding = 'UTF8'")
        pg_llm.register(own)
        assert pg_llm.sql("SELECT tensor '[1]' AS t, 'ä' AS a", conn=own).a[0] == "ä"

    async def registered():
        async with await psycopg.AsyncConnection.connect(info, client_encoding="SQL_ASCII") as conn:
            await pg_llm.register_async(conn)

    with pytest.raises(KitError, match="SQL_ASCII"):
        asyncio.run(registered())
