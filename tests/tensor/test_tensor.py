"""The tensor type against NumPy: values, shapes, the wire, hostile input, the same bits on every path."""

from __future__ import annotations

import itertools
import random
import struct
from decimal import Decimal

import numpy as np
import psycopg
import pytest

SEED = 20240917


def rng(salt: int = 0) -> np.random.Generator:
    return np.random.default_rng(SEED + salt)


def odd_floats(r: np.random.Generator, shape) -> np.ndarray:
    """Normal random values with some zeros, infinities, NaNs, denormals and huge values."""
    x = r.standard_normal(shape).astype(np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-42, 3e38, -3e38, 1e-20], np.float32)
    return np.where(r.random(shape) < 0.1, r.choice(special, shape), x)


def bits(x) -> np.ndarray:
    """The bits of float32, with all NaNs equal: the definition of "the same result"."""
    x = np.asarray(x, np.float32)
    return np.where(np.isnan(x), np.uint32(0x7FC00000), x.view(np.uint32))


def same(a, b) -> bool:
    return np.shape(a) == np.shape(b) and bool((bits(a) == bits(b)).all())


def one(conn, query, *args):
    return conn.cursor(binary=True).execute(query, args).fetchone()[0]


def code_paths(conn):
    """Every instruction set this machine has, with one and with two threads."""
    for isa, threads in itertools.product(("scalar", "avx2", "avx512"), (1, 2)):
        try:
            conn.execute(f"SET pg_llm.isa = '{isa}'")
        except psycopg.errors.InvalidParameterValue:
            continue
        conn.execute(f"SET pg_llm.threads = {threads}")
        yield f"{isa} x {threads}"
    conn.execute("RESET pg_llm.isa")
    conn.execute("RESET pg_llm.threads")


def broadcastable(r, most=4, longest=6):
    """Two shapes that broadcast together."""
    common = [int(n) for n in r.integers(0, longest, r.integers(0, most + 1))]

    def part():
        return tuple(1 if r.random() < 0.3 else n for n in common[r.integers(0, len(common) + 1) :])

    return part(), part()


# ---- the wire ----


@pytest.mark.parametrize(
    "shape", [(), (1,), (0,), (7,), (2, 3), (0, 3), (3, 0), (2, 1, 0, 4), (1,) * 8, (5, 3, 2, 2)]
)
def test_round_trip(conn, shape):
    """numpy → binary → tensor → text → tensor → binary → numpy keeps shape and bits."""
    x = odd_floats(rng(), shape)
    assert same(one(conn, "SELECT %b::tensor", x), x)
    assert same(one(conn, "SELECT %b::tensor::text::tensor", x), x)
    assert one(conn, "SELECT shape(%b::tensor)", x) == list(shape)
    assert one(conn, "SELECT tensor(%b::tensor::bytea, %s::int[]) = %b", x, list(shape), x)
    conn.execute("CREATE TEMP TABLE IF NOT EXISTS copied (t tensor); TRUNCATE copied")
    with conn.cursor().copy("COPY copied FROM STDIN (FORMAT binary)") as copy:
        copy.write_row([x])
    assert same(one(conn, "SELECT t FROM copied"), x)


def binary(conn, data: bytes):
    """Sends data as a binary tensor parameter; returns the result, or the SQLSTATE of the error."""
    oid = conn.execute("SELECT 'tensor'::regtype::oid").fetchone()[0]
    result = conn.pgconn.exec_params(b"SELECT tensor_send($1)", [data], [oid], [1], 1)
    if result.status == psycopg.pq.ExecStatus.TUPLES_OK:
        return result.get_value(0, 0)
    state = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
    return state.decode()


@pytest.mark.parametrize(
    "data, state",
    [
        (b"", "08P01"),
        (b"\x01", "08P01"),
        (struct.pack("<i", -1), "22P03"),
        (struct.pack("<i", 9) + b"\0" * 40, "22P03"),
        (struct.pack(">i", 2) + b"\0" * 8, "22P03"),
        (struct.pack("<ii", 2, 1), "08P01"),
        (struct.pack("<ii", 1, -1), "22023"),
        (struct.pack("<ii", 1, 2) + b"\0" * 4, "22P03"),
        (struct.pack("<ii", 1, 1) + b"\0" * 5, "22P03"),
        (struct.pack("<i", 0), "22P03"),
        (struct.pack("<iii", 2, 0, 3) + b"\0", "22P03"),
        (struct.pack("<ii", 1, 2**31 - 1), "54000"),
        (struct.pack("<9i", 8, *[2**31 - 1] * 8), "54000"),
        (struct.pack("<4i", 3, 65536, 65536, 4) + b"\0" * 4, "54000"),
        (struct.pack("<5i", 4, 2**30, 2**30, 2**30, 0), "54000"),
    ],
    ids=lambda value: value[:16].hex() or "nothing" if isinstance(value, bytes) else value,
)
def test_hostile_binary(conn, data, state):
    assert binary(conn, data) == state
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_mutated_binary(conn):
    """Any bytes give an error or a tensor that is sent back as a valid value."""
    r = random.Random(SEED)
    good = struct.pack("<iii", 2, 2, 2) + struct.pack("<4f", 1, 2, 3, float("nan"))
    for _ in range(500):
        data = bytearray(good[: r.randrange(len(good) + 1)] if r.random() < 0.5 else good)
        for _ in range(r.randrange(4)):
            if data:
                data[r.randrange(len(data))] = r.choice([0, 1, 2, 3, 8, 0x7F, 0x80, 0xFF])
        answer = binary(conn, bytes(data))
        if isinstance(answer, bytes):
            assert binary(conn, answer) == answer
        else:
            assert answer in ("08P01", "22P03", "22023", "54000"), data


def test_mutated_text(conn):
    r = random.Random(SEED)
    good = "[[1.5,-2e3,NaN],[inf,0.1,7]]"
    for _ in range(1000):
        text = list(good)
        for _ in range(r.randrange(1, 4)):
            place = r.randrange(len(text))
            text[place : place + r.randrange(3)] = r.choice("[],.-+einfNa 05{}()\té￿")
        text = "".join(text)
        try:
            t = conn.execute("SELECT %s::text::tensor::text", (text,)).fetchone()[0]
            assert conn.execute("SELECT %s::text::tensor::text", (t,)).fetchone()[0] == t
        except psycopg.DataError as error:
            assert error.sqlstate in ("22P02", "22003"), text


def test_nan_is_one_nan(conn):
    """Every NaN is stored as the same one: equality, grouping and hashes agree."""
    payloads = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF], np.uint32).view(np.float32)
    assert one(conn, "SELECT encode(%b::tensor::bytea, 'hex')", payloads) == "0000c07f" * 4
    raw = conn.execute("SELECT encode(tensor(%s, '{4}')::bytea, 'hex')", (payloads.tobytes(),)).fetchone()
    assert raw[0] == "0000c07f" * 4


# ---- against NumPy ----


@pytest.mark.parametrize("sign", "+-*/")
def test_arithmetic_is_ieee(conn, sign):
    """Bit for bit what NumPy's float32 gives, on shapes that broadcast in every way."""
    operation = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}[sign]
    r = rng(ord(sign))
    for _ in range(60):
        a, b = (odd_floats(r, shape) for shape in broadcastable(r))
        with np.errstate(all="ignore"):
            expected = operation(a, b)
        assert same(one(conn, f"SELECT %b::tensor {sign} %b::tensor", a, b), expected), (a.shape, b.shape)
    a = odd_floats(r, (3, 5))
    for number in (2, -0.1, 3e38, 1e-45, float("nan")):
        with np.errstate(all="ignore"):
            assert same(
                one(conn, f"SELECT %b::tensor {sign} %s::float8", a, number),
                operation(a, np.float32(number)),
            )
            assert same(
                one(conn, f"SELECT %s::float8 {sign} %b::tensor", number, a),
                operation(np.float32(number), a),
            )


def test_matmul(conn):
    """Every combination of ranks, within the error of float32 sums of that length."""
    r = rng(1)
    for _ in range(80):
        batch_a, batch_b = broadcastable(r, 2, 4)
        m, k, n = (int(x) for x in r.integers(0, 40, 3))
        a = r.standard_normal((k,) if r.random() < 0.2 else (*batch_a, m, k)).astype(np.float32)
        b = r.standard_normal((k,) if r.random() < 0.2 else (*batch_b, k, n)).astype(np.float32)
        expected = a.astype(np.float64) @ b.astype(np.float64)
        bound = 1e-6 * (np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))) + 1e-30
        got = one(conn, "SELECT %b::tensor @ %b::tensor", a, b)
        assert got.shape == expected.shape, (a.shape, b.shape)
        assert (np.abs(got - expected) <= bound).all(), (a.shape, b.shape)


def test_elementwise(conn):
    """Within two units in the last place of float64's rounded result; special values exactly."""
    x = np.concatenate([np.linspace(-90, 90, 20001), rng(2).standard_normal(20000) * 10]).astype(np.float32)
    for name, function in {"exp": np.exp, "log": np.log, "tanh": np.tanh, "sqrt": np.sqrt}.items():
        with np.errstate(all="ignore"):
            expected = function(x.astype(np.float64))
            rounded = expected.astype(np.float32)
        got = one(conn, f"SELECT {name}(%b::tensor)", x)
        known = np.isfinite(rounded) & ~((name == "exp") & (x < -87.3))
        error = np.abs(got[known] - expected[known]) / np.spacing(np.abs(rounded[known]))
        assert error.max() <= 2, name
        assert same(got[~np.isfinite(rounded)], rounded[~np.isfinite(rounded)]), name
    x = odd_floats(rng(3), (1000,))
    assert same(
        one(conn, "SELECT relu(%b::tensor)", x), np.where(np.isnan(x), x, np.where(x < 0, np.float32(0), x))
    )
    assert same(one(conn, "SELECT -%b::tensor", x), -x)


def test_reductions(conn):
    r = rng(4)
    for shape in [(), (1,), (37,), (5000,), (3, 4), (130, 7), (4, 1, 33), (2, 3, 4, 5), (20000, 3)]:
        x = r.standard_normal(shape).astype(np.float32)
        wide = x.astype(np.float64)
        for axis in [None, *range(-len(shape), len(shape))]:
            for name, function in {
                "tensor_sum": np.sum,
                "mean": np.mean,
                "var": np.var,
                "norm": lambda v, axis: np.sqrt(np.sum(v * v, axis)),
            }.items():
                got = one(conn, f"SELECT {name}(%b::tensor, %s)", x, axis)
                expected = function(wide, axis=axis)
                scale = np.sum(np.abs(wide), axis=axis) if name == "tensor_sum" else 1
                assert got.shape == np.shape(expected), (name, shape, axis)
                assert (np.abs(got - expected) <= 1e-5 * scale).all(), (name, shape, axis)
            assert same(one(conn, "SELECT tensor_max(%b::tensor, %s)", x, axis), x.max(axis))
            assert same(one(conn, "SELECT tensor_min(%b::tensor, %s)", x, axis), x.min(axis))
            assert same(one(conn, "SELECT argmax(%b::tensor, %s)", x, axis), np.argmax(x, axis))
    x = odd_floats(r, (50, 9))
    for axis in (None, 0, 1):
        assert same(one(conn, "SELECT tensor_max(%b::tensor, %s)", x, axis), x.max(axis))
        assert same(one(conn, "SELECT argmax(%b::tensor, %s)", x, axis), np.argmax(x, axis))


def test_moving(conn):
    """transpose, slice, reshape, concat and stack give NumPy's results."""
    r = rng(5)
    for _ in range(60):
        shape = tuple(int(n) for n in r.integers(0, 7, r.integers(0, 5)))
        x = odd_floats(r, shape)
        axes = [int(a) for a in r.permutation(len(shape))]
        assert same(one(conn, "SELECT transpose(%b::tensor, %s::int[])", x, axes), np.transpose(x, axes))
        assert same(one(conn, "SELECT transpose(%b::tensor)", x), np.swapaxes(x, -1, -2) if x.ndim > 1 else x)
        assert same(one(conn, "SELECT reshape(%b::tensor, %s::int[])", x, [x.size]), x.ravel())
        starts = [int(r.integers(0, n + 1)) for n in shape[: r.integers(0, len(shape) + 1)]]
        stops = [int(r.integers(start, n + 1)) for start, n in zip(starts, shape, strict=False)]
        part = x[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))]
        assert same(one(conn, "SELECT slice(%b::tensor, %s::int[], %s::int[])", x, starts, stops), part)
        if shape:
            axis = int(r.integers(0, len(shape)))
            other = odd_floats(r, shape[:axis] + (3,) + shape[axis + 1 :])
            joined = np.concatenate([x, other, x], axis)
            assert same(
                one(conn, "SELECT concat(ARRAY[%b, %b, %b]::tensor[], %s)", x, other, x, axis), joined
            )
        if len(shape) < 8:
            assert same(
                one(conn, "SELECT stack(t ORDER BY i) FROM (VALUES (2, %b::tensor), (1, %b)) v (i, t)", x, x),
                np.stack([x, x]),
            )


def test_rows_say_where_they_stand(conn):
    x = rng(6).standard_normal((2, 3, 4)).astype(np.float32)
    rows = conn.execute("SELECT idx, value FROM tensor_rows(%b)", (x,)).fetchall()
    assert rows == [(list(index), pytest.approx(value)) for index, value in np.ndenumerate(x)]
    for index, value in np.ndenumerate(x):
        assert one(conn, "SELECT tensor_get(%b, VARIADIC %s::int[])", x, list(index)) == value


def test_arrays(conn):
    x = rng(7).standard_normal((3, 2)).astype(np.float32)
    assert np.array_equal(one(conn, "SELECT %b::tensor::real[]", x), x)
    assert np.array_equal(one(conn, "SELECT %b::tensor::float8[]", x), x.astype(np.float64))
    assert same(one(conn, "SELECT %s::float8[]::tensor", [[0.1, 1e-50], [2.0, 3.0]]), [[0.1, 0], [2, 3]])


def test_order_is_total(conn):
    """ORDER BY, and the hash and btree classes, agree with one order of shapes and bits."""
    r = rng(8)
    values = [odd_floats(r, tuple(int(n) for n in r.integers(0, 3, r.integers(0, 3)))) for _ in range(300)]
    conn.execute("CREATE TEMP TABLE ordered (t tensor)")
    conn.cursor().executemany("INSERT INTO ordered VALUES (%b)", [(v,) for v in values])

    def key(v):
        keys = bits(v).astype(np.int64)
        keys = np.where(keys >= 2**31, 2**31 - 1 - keys, keys)
        return v.ndim, v.shape, tuple(keys.ravel())

    got = [row[0] for row in conn.cursor(binary=True).execute("SELECT t FROM ordered ORDER BY t").fetchall()]
    assert [key(v) for v in got] == sorted(key(v) for v in values)
    distinct = len({key(v) for v in values})
    for setting in ("enable_hashagg", "enable_sort"):
        conn.execute(f"SET {setting} = off")
        assert one(conn, "SELECT count(*) FROM (SELECT DISTINCT t FROM ordered) d") == distinct
        conn.execute("RESET ALL")
    conn.execute("CREATE INDEX ON ordered USING hash (t); CREATE INDEX ON ordered (t)")
    conn.execute("SET enable_seqscan = off")
    for v in values[:50]:
        found = one(conn, "SELECT count(*) FROM ordered WHERE t = %b", v)
        assert found == sum(key(v) == key(other) for other in values)
    conn.execute("RESET ALL")


def test_sum_is_in_row_order(conn):
    """((a + b) + c) + … in float32, exactly, with ORDER BY."""
    x = odd_floats(rng(9), (200, 33))
    conn.execute("CREATE TEMP TABLE summed (i int, t tensor)")
    conn.cursor().executemany("INSERT INTO summed VALUES (%s, %b)", list(enumerate(x)))
    with np.errstate(all="ignore"):
        total = x[0].copy()
        for row in x[1:]:
            total = total + row
        mean = total / np.float32(len(x))
    assert same(one(conn, "SELECT sum(t ORDER BY i) FROM summed"), total)
    assert same(one(conn, "SELECT avg(t ORDER BY i) FROM summed"), mean)
    assert same(one(conn, "SELECT stack(t ORDER BY i DESC) FROM summed"), x[::-1])


# ---- the same bits everywhere ----

EXPRESSIONS = {
    "matmul": "a @ b",
    "matmul of a batch": "reshape(a, ARRAY[7,31,129]) @ reshape(c, ARRAY[7,129,31])",
    "row times matrix": "slice(a, 0, 1) @ b",
    "add": "a + g",
    "divide by rows": "a / reshape(mean(a, 1), ARRAY[-1,1])",
    "exp": "exp(a)",
    "log": "log(a)",
    "tanh": "tanh(a)",
    "sqrt": "sqrt(a)",
    "sum": "tensor_sum(a)",
    "sum down": "tensor_sum(a, 0)",
    "mean": "mean(c)",
    "variance": "var(a, 1)",
    "norm": "norm(c)",
    "argmax": "argmax(a, 1)",
    "max": "tensor_max(a, 0)",
    "transpose": "transpose(c)",
    "gelu": "pg_llm_gelu(a)",
    "exact gelu": "pg_llm_gelu(a, true)",
    "softmax": "pg_llm_softmax(a)",
    "softmax down": "pg_llm_softmax(a, 0)",
    "layernorm": "pg_llm_layernorm(a, g, g)",
    "cross entropy": "pg_llm_cross_entropy(a, ARRAY(SELECT i % 129 FROM generate_series(1, 217) i))",
    "attention": "pg_llm_attention(slice(a, 0, 50), w, reshape(slice(w, 0, 1), ARRAY[387]), v, g, 3)",
    "dropout": "pg_llm_dropout(a, 0.3, true, 11)",
    "randn": "randn(ARRAY[300,301], 5)",
}


def test_same_bits_on_every_code_path(conn):
    """One hash per operation: scalar, AVX2, AVX-512, one and two threads."""
    conn.execute(
        """CREATE TEMP TABLE operands AS SELECT randn(ARRAY[217,129], 1) a, randn(ARRAY[129,77], 2) b,
        randn(ARRAY[903,31], 3) c, randn(ARRAY[129], 4) g, randn(ARRAY[129,387], 5) w,
        randn(ARRAY[129,129], 6) v"""
    )
    query = "SELECT " + ", ".join(f"md5(({e})::bytea)" for e in EXPRESSIONS.values()) + " FROM operands"
    found = {path: conn.execute(query).fetchone() for path in code_paths(conn)}
    assert len(found) >= 2
    first = found["scalar x 1"]
    for path, hashes in found.items():
        differ = [name for name, a, b in zip(EXPRESSIONS, first, hashes, strict=True) if a != b]
        assert not differ, f"{path}: other bits in {differ}"


# ---- limits, roles, cancelling ----


def test_memory_comes_back(conn):
    """Results of a quarter of the limit, many times: all their memory is freed, errors included."""
    conn.execute("SET pg_llm.memory_limit = '64MB'")
    product = "SELECT numel(ones(ARRAY[%s,1]) @ ones(ARRAY[1,2000]))"
    for i in range(40):
        assert one(conn, product, 2000) == 4_000_000
        with pytest.raises(psycopg.errors.OutOfMemory) as refused:
            conn.execute(product, (9000,))
        if i == 0:
            assert "memory_limit" in refused.value.diag.message_hint
    with pytest.raises(psycopg.errors.OutOfMemory):
        conn.execute("SELECT stack(ones(ARRAY[100000])) FROM generate_series(1, 500)")
    conn.execute("RESET pg_llm.memory_limit")


def test_only_superusers_move_the_limit(conn):
    conn.execute("DROP ROLE IF EXISTS pupil_of_pg_llm")
    conn.execute("CREATE ROLE pupil_of_pg_llm")
    conn.execute("SET ROLE pupil_of_pg_llm")
    try:
        assert same(one(conn, "SELECT '[1,2]'::tensor + 1"), [2, 3])
        conn.execute("SET pg_llm.display_limit = 7")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SET pg_llm.memory_limit = '1TB'")
    finally:
        conn.execute("RESET ROLE; RESET ALL")
        conn.execute("DROP ROLE pupil_of_pg_llm")


@pytest.mark.slow
def test_cancel_inside_one_product(conn, connect):
    """A product that would take minutes can be canceled; the session continues."""
    import threading

    pid = conn.execute("SELECT pg_backend_pid()").fetchone()[0]
    canceller = connect()

    def cancel():
        while not canceller.execute("SELECT pg_cancel_backend(%s)", (pid,)).fetchone()[0]:
            pass

    timer = threading.Timer(1.0, cancel)
    timer.start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute("SELECT shape(t @ t @ t @ t @ t @ t @ t @ t) FROM ones(ARRAY[12000,12000]) t")
    timer.join()
    assert same(one(conn, "SELECT '[1,2]'::tensor * 2"), [2, 4])


def test_summaries_stay_in_a_session(conn, database):
    """A display limit cannot be stored with a database or role: pg_dump would write summaries for weights."""
    for owner in (f"DATABASE {database}", "ROLE postgres"):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            conn.execute(f"ALTER {owner} SET pg_llm.display_limit = 100")
    conn.execute("SET pg_llm.display_limit = 2")
    assert conn.execute("SELECT '[1,2,3]'::tensor::text").fetchone()[0].startswith("tensor(3) [1, 2, 3]")
    conn.execute("RESET pg_llm.display_limit")


def test_parallel_queries(conn):
    """Immutable functions run in parallel workers; recordable ones stay in the leader."""
    conn.execute("CREATE TABLE spread AS SELECT i, ones(ARRAY[4]) t FROM generate_series(1, 20000) i")
    conn.execute("ALTER TABLE spread SET (parallel_workers = 2); SET min_parallel_table_scan_size = 0")
    conn.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
    plan = "\n".join(
        r[0] for r in conn.execute("EXPLAIN SELECT count(*) FROM spread WHERE numel(t) = 4").fetchall()
    )
    assert "Parallel" in plan
    assert one(conn, "SELECT count(*) FROM spread WHERE t = ones(ARRAY[4]) AND numel(t) = 4") == 20000
    plan = "\n".join(
        r[0] for r in conn.execute("EXPLAIN SELECT count(*) FROM spread WHERE t + 1 > t").fetchall()
    )
    assert "Parallel" not in plan
    conn.execute("RESET ALL; DROP TABLE spread")


def test_every_function_has_a_comment(conn):
    """All objects of the tensor type have a comment."""
    bare = conn.execute(
        """SELECT p.oid::regprocedure::text FROM pg_proc p
        JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
        JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_llm'
        WHERE d.deptype = 'e' AND obj_description(p.oid, 'pg_proc') IS NULL AND p.probin IS NOT NULL
            AND 'tensor'::regtype = ANY (p.proargtypes || p.prorettype)"""
    ).fetchall()
    assert bare == []
    bare = conn.execute(
        "SELECT oid::regoperator::text FROM pg_operator WHERE 'tensor'::regtype IN (oprleft, oprright) "
        "AND obj_description(oid, 'pg_operator') IS NULL"
    ).fetchall()
    assert bare == []


def test_a_single_element_becomes_numeric(conn):
    """What round(…, digits) takes."""
    assert one(conn, "SELECT round(tensor_sum(tensor '[0.12345,2]')::numeric, 3)") == Decimal("2.123")
    assert one(conn, "SELECT tensor '[[2.567]]'::numeric(4,1)") == Decimal("2.6")
    assert one(conn, "SELECT tensor 'NaN'::numeric").is_nan()
    with pytest.raises(psycopg.errors.ArraySubscriptError, match="2 elements"):
        one(conn, "SELECT tensor '[1,2]'::numeric")
