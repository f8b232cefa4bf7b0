"""Values at the ends of their types' ranges: what Python cannot hold is the server's text."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import psycopg
import pytest
from psycopg.types.range import Range

import pg_llm
from pg_llm.notebook import session, statement

# The server's text, of which psycopg makes an error, or something else.
TEXTS = {
    "'infinity'::date": "infinity",
    "'4713-01-01 BC'::date": "4713-01-01 BC",
    "'5874897-12-31'::date": "5874897-12-31",
    "'24:00'::time": "24:00:00",
    "'24:00+15:59'::timetz": "24:00:00+15:59",
    "'-infinity'::timestamp": "-infinity",
    "'10000-01-01'::timestamp": "10000-01-01 00:00:00",
    "'infinity'::timestamptz": "infinity",
    "'4713-02-03 04:05 BC'::timestamptz": "4713-02-03 04:05:00+00 BC",
    "'178000000 years'::interval": "178000000 years",
    "'1 year 2 mons'::interval": "1 year 2 mons",
    "'-1 mon'::interval": "-1 mons",
    "ARRAY[ARRAY['infinity'::date, '2024-01-01', NULL]]": [["infinity", dt.date(2024, 1, 1), None]],
    "'[2024-01-01,infinity)'::daterange": Range(dt.date(2024, 1, 1), "infinity"),
    "datemultirange(daterange('2024-01-01', 'infinity'))": [Range(dt.date(2024, 1, 1), "infinity")],
    "ARRAY[tsrange('-infinity', NULL)]": [Range("-infinity", None)],
    "ROW('infinity'::date, '24:00'::time)": ("infinity", "24:00:00"),
    "repeat('9', 5000)::json": "9" * 5000,
    "repeat('9', 5000)::jsonb": "9" * 5000,
    "(repeat('[', 3000) || repeat(']', 3000))::json": "[" * 3000 + "]" * 3000,
    "ARRAY[(repeat('[', 3000) || repeat(']', 3000))::jsonb]": ["[" * 3000 + "]" * 3000],
    """E'\\\\377'::"char" """: "\\377",
}
# What Python can hold stays a value of Python.
VALUES = {
    "'9999-12-31'::date": dt.date(9999, 12, 31),
    "'0001-01-01'::timestamp": dt.datetime(1, 1, 1),
    "'2024-05-06 07:08:09.123456+00'::timestamptz": dt.datetime(2024, 5, 6, 7, 8, 9, 123456, dt.timezone.utc),
    "'23:59:59.999999'::time": dt.time(23, 59, 59, 999999),
    "'-3 days 04:05:06.7'::interval": dt.timedelta(days=-3, hours=4, minutes=5, seconds=6.7),
    "'empty'::tsrange": Range(empty=True),
    "'-infinity'::numeric": Decimal("-Infinity"),
    "-9223372036854775808": -(2**63),
    "'-infinity'::float8": float("-inf"),
    "'2024-01-01'::date": dt.date(2024, 1, 1),
    "ARRAY[NULL, '2024-01-01'::date]": [None, dt.date(2024, 1, 1)],
    "'{}'::date[]": [],
    "NULL::interval": None,
    """'{"a": [1, 2]}'::jsonb""": {"a": [1, 2]},
    "'[1.5]'::json": [1.5],
    "''::bytea": b"",
}
WAYS = [{"binary": True}, {"arrays": True}, {"keep": 5}, {"arrays": True, "keep": 5}]


@pytest.fixture
def conn(conn):
    conn.execute("SET timezone = 'UTC'")
    return conn


@pytest.mark.parametrize("beside", ["0", "tensor '[1.5,0.1]'"])
@pytest.mark.parametrize("how", WAYS)
def test_the_ends_of_each_type_arrive(conn, how, beside):
    for value, expected in {**TEXTS, **VALUES}.items():
        found, other = statement.run(conn, f"SELECT {value}, {beside}", **how).rows[0]
        found = list(found) if isinstance(expected, list) else found
        assert (found, type(found)) == (expected, type(expected)), value
        assert np.array_equal(other, np.float32([1.5, 0.1]) if "tensor" in beside else 0)


def test_an_infinite_interval_is_text(conn):
    for sign in ("", "-"):
        assert pg_llm.sql(f"SELECT interval '{sign}infinity' AS v", conn=conn).v[0] == f"{sign}infinity"


def test_other_styles_of_dates_are_text_where_psycopg_does_not_read_them(conn):
    conn.execute("SET datestyle = 'German'; SET intervalstyle = 'iso_8601'")
    row = pg_llm.sql("SELECT timestamptz '2024-05-06 07:08Z' AS t, interval '1 day' AS i", conn=conn).iloc[0]
    assert list(row) == ["06.05.2024 07:08:00 UTC", "P1D"]


def test_tables_of_them_are_drawn(conn):
    for value in (*TEXTS, *VALUES):
        frame = pg_llm.sql(f"SELECT {value} AS v UNION ALL SELECT NULL", conn=conn)
        assert frame._repr_html_() and repr(frame), value


def test_a_notebooks_connection_reads_them_too(database, monkeypatch):
    monkeypatch.setattr(session, "_current", None)
    conn = session.start(database, fresh=False).conn
    with conn:
        assert conn.execute("SELECT date 'infinity', interval '1 mon'").fetchone() == ("infinity", "1 mon")
    with pg_llm.connect(database) as mine:  # a program's own connection stays psycopg's
        assert pg_llm.sql("SELECT date 'infinity' AS v", conn=mine).v[0] == "infinity"
        with pytest.raises(psycopg.DataError, match="date too large"):
            mine.execute("SELECT date 'infinity'").fetchone()
