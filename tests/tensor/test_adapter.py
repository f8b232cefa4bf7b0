"""numpy arrays and the tensor type over psycopg: exact round trips, in text and binary, without copies."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest

import pg_llm
from pg_llm.files import adapter

ARRAYS = [
    np.array(3.5, np.float32),
    np.zeros(0, np.float32),
    np.zeros((0, 3), np.float32),
    np.zeros((2, 0), np.float32),
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.arange(6, dtype=np.float64).reshape(3, 2).T,
    np.arange(24, dtype=np.float32)[::2].reshape(3, 4),
    np.arange(4, dtype=">f4"),
    np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4028235e38], np.float32),
    np.arange(2**8, dtype=np.float16).reshape((2,) * 8),
    np.random.default_rng(0).standard_normal((300, 700)).astype(np.float32),
]


def same(got, want) -> bool:
    want = np.asarray(want, np.float32)
    return (
        got.dtype == np.float32
        and got.shape == want.shape
        and bool(np.array_equal(got, want, equal_nan=True))
        and bool(np.array_equal(np.signbit(got), np.signbit(want)))
    )


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype.str}{list(a.shape)}")
def test_arrays_go_there_and_back(conn, array, binary):
    with conn.cursor(binary=binary) as cursor:
        (got,) = cursor.execute("SELECT %s", [array]).fetchone()
    assert same(got, array)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype.str}{list(a.shape)}")
def test_arrays_go_as_text_too(conn, array):
    (got,) = conn.execute("SELECT %t", [array]).fetchone()
    assert same(got, array)
    with psycopg.ClientCursor(conn) as cursor:
        assert same(cursor.execute("SELECT %s::tensor", [array]).fetchone()[0], array)


@pytest.mark.parametrize("binary", [True, False])
def test_copy_takes_arrays(conn, binary):
    conn.execute("CREATE TEMP TABLE IF NOT EXISTS copied (t tensor); TRUNCATE copied")
    with conn.cursor().copy(f"COPY copied FROM STDIN (FORMAT {'binary' if binary else 'text'})") as copy:
        copy.set_types(["tensor"])
        for array in ARRAYS:
            copy.write_row([array])
    got = conn.execute("SELECT t FROM copied", binary=True).fetchall()
    assert all(same(g, a) for (g,), a in zip(got, ARRAYS, strict=True))


@pytest.mark.parametrize("how", ["%s", "%b", "%t"])
@pytest.mark.parametrize("value", [3, -(2**31), 2**31, 2**63 - 1, True, False])
def test_an_integer_array_without_dimensions_is_an_integer(conn, value, how):
    assert conn.execute(f"SELECT {how}", [np.array(value)]).fetchone() == (value,)
    with psycopg.ClientCursor(conn) as cursor:
        assert cursor.execute("SELECT %s", [np.array(value)]).fetchone() == (value,)


def test_unsigned_integers_that_no_column_can_hold(conn):
    assert conn.execute("SELECT %s", [np.array([2**63 - 1], np.uint64)]).fetchone() == ([2**63 - 1],)
    for array in (np.array([1, 2**63], np.uint64), np.array(2**64 - 1, np.uint64)):
        with pytest.raises(psycopg.DataError, match=r"\d+ is too large for a bigint"):
            conn.execute("SELECT %s", [array])


@pytest.mark.parametrize("kind", ["f4", "i8", "?"])
def test_masked_elements_have_no_value(conn, kind):
    whole = np.ma.array([1, 0, 1], kind)
    assert np.array_equal(conn.execute("SELECT %s", [whole]).fetchone()[0], [1, 0, 1])
    with pytest.raises(psycopg.DataError, match=r"shape \(3,\) has 1 masked elements.*filled"):
        conn.execute("SELECT %s", [np.ma.array([1, 0, 1], kind, mask=[False, True, False])])


def test_reading_makes_no_copy_and_outlives_the_connection(connect):
    conn = connect()
    cursor = conn.execute("SELECT randn(ARRAY[1000,1000], 1) AS t", binary=True)
    (array,) = cursor.fetchone()
    assert not array.flags.owndata and not array.flags.writeable and array.flags.aligned
    before = array.copy()
    cursor.close()
    conn.close()
    del cursor, conn
    assert np.array_equal(array, before)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


def test_null_and_lists_of_tensors(conn):
    query = "SELECT NULL::tensor, ARRAY['[1,2]', NULL, '[[3]]']::tensor[]"
    for binary in (True, False):
        nothing, several = conn.execute(query, binary=binary).fetchone()
        assert nothing is None and several[1] is None
        assert same(several[0], [1, 2]) and same(several[2], [[3]])
    (back,) = conn.execute("SELECT %s::tensor[]", [[np.ones(2), np.zeros((1, 3))]], binary=True).fetchone()
    assert same(back[0], [1, 1]) and same(back[1], [[0, 0, 0]])


@pytest.mark.parametrize(
    ("array", "sql_type"),
    [
        (np.array([1, 2, 3]), "integer[]"),
        (np.array([1, 2, 3], np.uint8), "integer[]"),
        (np.array([[1, 2], [3, 4]], np.int32), "integer[]"),
        (np.array([1, 2**40]), "bigint[]"),
        (np.array([], int), "integer[]"),
        (np.array([True, False]), "boolean[]"),
        (np.array([0.5]), "tensor"),
    ],
)
def test_integer_arrays_are_sql_arrays(conn, array, sql_type):
    for placeholder in ("%s", "%b", "%t"):
        query = f"SELECT pg_typeof({placeholder})::text, {placeholder}"
        kind, value = conn.execute(query, [array, array]).fetchone()
        assert (kind, np.asarray(value).tolist()) == (sql_type, array.tolist())


def test_tokens_as_numpy_arrays(conn):
    assert (
        conn.execute("SELECT llm_decode(%s, 'gpt2')", [np.array([15496, 995, 0])]).fetchone()[0]
        == "Hello world!"
    )


def test_what_cannot_be_sent_says_why(conn):
    cases = [
        (np.array([1e300]), psycopg.DataError, "1e\\+300 is too large"),
        (np.zeros((1,) * 9), psycopg.DataError, "at most 8"),
        (np.array([1j]), psycopg.ProgrammingError, "complex128 has no SQL type"),
        (np.array(["a"]), psycopg.ProgrammingError, "no SQL type"),
    ]
    for array, error, says in cases:
        with pytest.raises(error, match=says):
            conn.execute("SELECT %s", [array])
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_summary_refuses_to_be_an_array(connect):
    conn = connect()
    conn.execute("SET pg_llm.display_limit = 10")
    (text,) = conn.execute("SELECT zeros(ARRAY[11])").fetchone()
    assert isinstance(text, adapter.TensorSummary) and str(text).startswith("tensor(11)")
    with pytest.raises(TypeError, match="display_limit"):
        np.asarray(text)
    assert same(conn.execute("SELECT zeros(ARRAY[11])", binary=True).fetchone()[0], np.zeros(11))
    assert same(conn.execute("SELECT zeros(ARRAY[0,3])").fetchone()[0], np.zeros((0, 3)))


def test_an_array_is_written_as_the_server_writes_a_tensor(conn):
    """Among the floats are some whose shortest digits lie halfway between two, and all powers of two."""
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2**32, 50_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    floats = [bits[np.isfinite(bits)], np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)]
    floats += [np.array([1e-4, 9.9999e-5, 1e6, 999999.94, -0.0, 9e9, 64311768, 3.4028235e38], np.float32)]
    for array in [*ARRAYS[:-1], *floats]:
        (text,) = conn.execute("SELECT (%b::tensor)::text", [array]).fetchone()
        assert adapter.written(np.asarray(array)) == text
    conn.execute("SET pg_llm.display_limit = 2")
    for array in [*ARRAYS, np.float32([1, 2, 3]), np.float32([[1e7], [-1], [np.nan], [0]]), np.zeros((9, 2))]:
        (text,) = conn.execute("SELECT (%b::tensor)::text", [array]).fetchone()
        assert adapter.written(np.asarray(array), 2) == text


def test_register_works_where_the_schema_is_not_on_the_path(server):
    """It also leaves a connection without autocommit outside any transaction."""
    pg_llm.server.database.drop_database("elsewhere")
    pg_llm.server.database.create_database("elsewhere")
    with pg_llm.connect("elsewhere") as conn:
        conn.execute("DROP EXTENSION pg_llm CASCADE; CREATE SCHEMA kit; CREATE EXTENSION pg_llm SCHEMA kit")
    info = server.start().conninfo("elsewhere")
    with psycopg.connect(**info) as conn:
        adapter.register(conn)
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert same(conn.execute("SELECT %s", [np.ones(3)], binary=True).fetchone()[0], np.ones(3))


def test_register_without_the_extension_says_what_to_run(server):
    with psycopg.connect(**server.start().conninfo("postgres"), autocommit=True) as conn:
        conn.execute("DROP DATABASE IF EXISTS bare")
        conn.execute("CREATE DATABASE bare TEMPLATE template0")
    with psycopg.connect(**server.start().conninfo("bare")) as conn:
        with pytest.raises(LookupError, match="CREATE EXTENSION pg_llm"):
            adapter.register(conn)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([1, 2.5], np.float32), "[1,2.5]"),
        (np.array(7, np.float32), "7"),
        (np.zeros((0, 3), np.float32), "tensor(0,3) []"),
        (np.ones((4, 5), np.float32), "tensor(4,5) [1, 1, 1, 1, …] mean 1 sd 0"),
    ],
)
def test_summaries(array, text):
    assert adapter.summary(array) == text
