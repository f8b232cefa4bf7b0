"""Expressions as they are typed elsewhere: softmax, abs, maximum, ^, comparisons, max and min over rows."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest

X = np.array([[-2.5, -0.0, 0.5], [3.0, -1.0, 7.25]], "f4")
Y = np.array([0.5, -1.0, 8.0], "f4")
VALUES = {
    "softmax(x)": np.exp(X) / np.exp(X).sum(-1, keepdims=True),
    "softmax(x, 0)": np.exp(X) / np.exp(X).sum(0),
    "abs(x)": np.abs(X),
    "maximum(x, y)": np.maximum(X, Y),
    "minimum(y, x)": np.minimum(X, Y),
    "maximum(x, 0)": np.maximum(X, 0),
    "minimum(x, 0.5)": np.minimum(X, 0.5),
    "maximum(x, '[[1],[-9]]')": np.maximum(X, [[1], [-9]]),
    "x ^ 2": X**2,
    "x ^ 3": X**3,
    "x ^ 13": X.astype(float) ** 13,
    "x ^ 0": np.ones_like(X),
    "(abs(x) + 1) ^ -2": (np.abs(X) + 1.0) ** -2,
    "abs(x) ^ 0.5": np.abs(X) ** 0.5,
    "abs(x) ^ 1.7": np.abs(X) ** 1.7,
    "x > 0.5": X > 0.5,
    "x >= 0.5": X >= 0.5,
    "x < -1": X < -1,
    "x <= -1": X <= -1,
    "(x - y) > 0": (X - Y) > 0,
    "x * (x > 0)": X * (X > 0),
}


def value(conn, expression, **tensors):
    tensors = {"x": X, "y": Y} | tensors
    columns = ", ".join(f"%({name})s::tensor AS {name}" for name in tensors)
    return conn.execute(f"SELECT {expression} FROM (SELECT {columns} OFFSET 0) AS v", tensors).fetchone()[0]


@pytest.mark.parametrize("expression", VALUES)
def test_values_are_numpys(conn, expression):
    np.testing.assert_allclose(value(conn, expression), VALUES[expression], rtol=2e-6, atol=0)


def test_what_is_no_number(conn):
    """NaN compares with nothing; of a pair it is the result; infinities are exact."""
    x = np.array([np.nan, np.inf, -np.inf, 0], "f4")
    for operator in ("<", "<=", ">", ">="):
        with np.errstate(invalid="ignore"):
            expected = {"<": x < 0, "<=": x <= 0, ">": x > 0, ">=": x >= 0}[operator]
        assert np.array_equal(value(conn, f"x {operator} 0", x=x), expected), operator
    assert np.array_equal(value(conn, "abs(x)", x=x), np.abs(x), equal_nan=True)
    assert np.array_equal(value(conn, "maximum(x, -1)", x=x)[1:], [np.inf, -1, 0])


@pytest.mark.parametrize(
    ("expression", "gradient"),
    [
        ("abs(v)", np.sign(X)),
        ("maximum(v, 0.5)", X >= 0.5),  # of equal elements, the first argument's
        ("minimum(v, y)", X <= Y),
        ("v ^ 3", 3 * X**2),
        ("(abs(v) + 1) ^ -1", -np.sign(X) / (np.abs(X) + 1) ** 2),
        ("v * (v > 0)", X > 0),
        ("softmax(v) * y", None),
    ],
)
def test_gradients(conn, expression, gradient):
    if gradient is None:
        p = np.exp(X) / np.exp(X).sum(-1, keepdims=True)
        gradient = p * (Y - (p * Y).sum(-1, keepdims=True))
    with conn.transaction(force_rollback=True):
        conn.execute("UPDATE llm_autograd_mode SET flag = true")
        query = f"""SELECT b.grad FROM (SELECT llm_var(%s, 'v') AS v, %s::tensor AS y OFFSET 0) AS leaf,
            LATERAL llm_backward(tensor_sum({expression})) AS b WHERE b.name = 'v'"""
        (grad,) = conn.execute(query, [X, Y]).fetchone()
    np.testing.assert_allclose(grad, gradient, rtol=1e-5, atol=1e-7)


def test_max_and_min_over_rows(conn):
    rows = "FROM (VALUES ('[1,5]'::tensor), (NULL), ('[3,-2]'), ('[3,0]')) AS v (t)"
    got = conn.execute(f"SELECT max(t)::text, min(t)::text, max(t) FILTER (WHERE false) {rows}").fetchone()
    assert got == ("[3,5]", "[1,-2]", None)
    by_group = f"SELECT max(t)::text {rows} WHERE t IS NOT NULL GROUP BY tensor_max(t) ORDER BY 1"
    assert conn.execute(by_group).fetchall() == [("[1,5]",), ("[3,0]",)]
    with pytest.raises(psycopg.errors.ArraySubscriptError, match=r"row 2 has shape \(1\)"):
        conn.execute("SELECT max(t) FROM (VALUES ('[1,5]'::tensor), ('[1]')) AS v (t)")


def test_one_row_is_told(conn):
    """Where nothing groups the rows, once a statement; not for a scalar, for several rows, or for groups."""
    notices = []
    conn.add_notice_handler(lambda notice: notices.append((notice.message_primary, notice.message_hint)))
    for name in ("sum", "max", "min"):
        got = conn.execute(f"SELECT {name}('[1,2,3]'::tensor)::text").fetchone()
        assert got == ("[1,2,3]",)
        assert len(notices) == 1 and f"{name} of one row is that row" in notices[0][0]
        assert f"tensor_{name}(t)" in notices.pop()[1]
    pair = "FROM (VALUES ('[1,2]'::tensor), ('[3,4]')) AS v (t)"
    conn.execute(f"SELECT sum(t) {pair}")
    conn.execute(f"SELECT sum(t), t {pair} GROUP BY t")
    conn.execute("SELECT sum('5'::tensor)")
    assert notices == []
    conn.execute(f"SELECT (SELECT sum(u) FROM (SELECT t) AS x (u)) {pair}")
    assert len(notices) == 1


def test_names_that_postgresql_has_keep_their_results(conn):
    query = "SELECT max(5), max('a'), abs(-3), abs('-3'), 2 ^ 3, max(NULL), min('b'::text), 3 > '2', exp('1')"
    row = conn.execute(query).fetchone()
    assert row == (5, "a", 3, 3.0, 8.0, None, "b", True, pytest.approx(2.718281828))
    order = (
        "SELECT '[1,2]'::tensor < '[1,3]'::tensor, '[1]'::tensor > '0', GREATEST('[1]'::tensor, '[2]')::text"
    )
    assert conn.execute(order).fetchone() == (True, True, "[2]")
