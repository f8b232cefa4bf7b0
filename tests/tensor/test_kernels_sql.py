"""The kernels as SQL functions against PyTorch, over tensors and over bytea."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def one(conn, query, *args):
    return conn.cursor(binary=True).execute(query, args).fetchone()[0]


def close(got, expected, tolerance=2e-6):
    """Equal shapes, and no element differs by more than tolerance times the largest."""
    expected = expected.double().numpy() if isinstance(expected, torch.Tensor) else np.asarray(expected)
    assert np.shape(got) == expected.shape
    if expected.size:
        assert np.abs(got - expected).max() <= tolerance * max(1, np.abs(expected).max())


def wide(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).double()


SHAPES = [(1,), (7,), (3, 5), (0, 4), (2, 3, 129), (65, 1), (33, 1000)]


@pytest.mark.parametrize("shape", SHAPES)
def test_gelu(conn, shape):
    x = normal(1, *shape) * 3
    close(one(conn, "SELECT pg_llm_gelu(%b::tensor)", x), F.gelu(wide(x), approximate="tanh"))
    close(one(conn, "SELECT pg_llm_gelu(%b::tensor, true)", x), F.gelu(wide(x)))
    assert bytes(one(conn, "SELECT pg_llm_gelu(%s::bytea)", x.tobytes())) == bytes(
        one(conn, "SELECT pg_llm_gelu(%b::tensor)::bytea", x)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_softmax(conn, shape):
    x = normal(2, *shape) * 5
    for axis in range(-len(shape), len(shape)):
        close(one(conn, "SELECT pg_llm_softmax(%b::tensor, %s)", x, axis), F.softmax(wide(x), axis))
    row = x.ravel()
    close(
        np.frombuffer(one(conn, "SELECT pg_llm_softmax(%s::bytea)", row.tobytes()), np.float32),
        F.softmax(wide(row), 0),
    )


def test_softmax_of_extremes(conn):
    inf = np.float32(np.inf)
    for x in ([1e38, -1e38], [-inf, 3], [88, 89, 90], [-1000, -1001], [0] * 17):
        x = np.array(x, np.float32)
        close(one(conn, "SELECT pg_llm_softmax(%b::tensor)", x), F.softmax(wide(x), 0))
    for x in ([inf, 1], [np.nan, 1], [-inf, -inf]):
        assert np.isnan(one(conn, "SELECT pg_llm_softmax(%b::tensor)", np.array(x, np.float32))).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_layernorm(conn, shape):
    C = shape[-1]
    x, gamma, beta = normal(3, *shape) * 2 + 1, normal(4, C), normal(5, C)
    expected = F.layer_norm(wide(x), (C,), wide(gamma), wide(beta), 1e-5)
    close(one(conn, "SELECT pg_llm_layernorm(%b, %b::tensor, %b)", x, gamma, beta), expected, 5e-6)
    raw = one(
        conn,
        "SELECT pg_llm_layernorm(%s::bytea, %s::bytea, %s::bytea, 1e-5)",
        x.tobytes(),
        gamma.tobytes(),
        beta.tobytes(),
    )
    close(np.frombuffer(raw, np.float32).reshape(shape), expected, 5e-6)


@pytest.mark.parametrize("rows, V", [(1, 1), (1, 7), (5, 3), (64, 50257), (129, 65)])
def test_cross_entropy(conn, rows, V):
    logits = normal(6, rows, V) * 4
    targets = np.random.default_rng(7).integers(0, V, rows)
    targets[1::3] = -100
    expected = F.cross_entropy(wide(logits), torch.from_numpy(targets), ignore_index=-100)
    got = one(conn, "SELECT pg_llm_cross_entropy(%b::tensor, %s::int[])", logits, targets.tolist())
    assert abs(got - expected.item()) <= 2e-6 * max(1, abs(expected.item()))
    raw = one(conn, "SELECT pg_llm_cross_entropy(%s::bytea, %s::int)", logits[0].tobytes(), int(targets[0]))
    assert raw == one(conn, "SELECT pg_llm_cross_entropy(%b::tensor, %s::int)", logits[0], int(targets[0]))


def attention(x, w_qkv, b_qkv, w_o, b_o, NH, causal):
    B, T, C = x.shape
    qkv = wide(x) @ wide(w_qkv) + wide(b_qkv)
    q, k, v = (part.view(B, T, NH, C // NH).transpose(1, 2) for part in qkv.split(C, 2))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return y.transpose(1, 2).reshape(B, T, C) @ wide(w_o) + wide(b_o)


@pytest.mark.parametrize(
    "B, T, NH, HS", [(1, 1, 1, 1), (1, 5, 3, 2), (2, 33, 1, 7), (3, 130, 4, 5), (1, 64, 5, 64)]
)
@pytest.mark.parametrize("causal", [True, False])
def test_attention(conn, B, T, NH, HS, causal):
    C = NH * HS
    x = normal(8, B, T, C)
    w = [normal(9, C, 3 * C) / C**0.5, normal(10, 3 * C), normal(11, C, C) / C**0.5, normal(12, C)]
    got = one(conn, "SELECT pg_llm_attention(%b, %b, %b, %b, %b, %s, %s)", x, *w, NH, causal)
    close(got, attention(x, *w, NH, causal), 5e-6)
    if B == 1 and causal:
        raw = one(
            conn,
            "SELECT pg_llm_attention(%s::bytea, %s::bytea, %s::bytea, %s::bytea, %s::bytea, %s, %s, %s)",
            *(part.tobytes() for part in (x, *w)),
            NH,
            T,
            C,
        )
        assert bytes(raw) == got.tobytes()


def test_embedding(conn):
    """Few rows of a stored table, many, and bytea: always exactly the rows."""
    table = normal(13, 1000, 48)
    conn.execute("CREATE TEMP TABLE stored (t tensor)")
    conn.execute("INSERT INTO stored VALUES (%b)", (table,))
    for count in (0, 1, 5, 300):
        ids = np.random.default_rng(14).integers(0, 1000, count)
        got = one(conn, "SELECT pg_llm_embedding(%s::int[], t) FROM stored", ids.tolist())
        assert np.array_equal(got, table[ids])
        raw = one(conn, "SELECT pg_llm_embedding(%s::int[], %s::bytea, 48)", ids.tolist(), table.tobytes())
        assert bytes(raw) == table[ids].tobytes()
    ids = [[1, 2, 3], [999, 0, 1]]
    assert np.array_equal(one(conn, "SELECT pg_llm_embedding(%s::int[], t) FROM stored", ids), table[ids])


def test_dropout(conn):
    """Each element is 0 or x / (1 - p), a fraction p of them 0; only the seed and the position decide."""
    x = normal(15, 100_000)
    for p in (0.0, 0.1, 0.5, 0.9):
        got = one(conn, "SELECT pg_llm_dropout(%b::tensor, %s::real, true, 3)", x, p)
        kept = got != 0
        assert np.array_equal(got[kept], (x * (np.float32(1) / (np.float32(1) - np.float32(p))))[kept])
        assert abs((~kept).mean() - p) < 4 * (p * (1 - p) / x.size) ** 0.5 + 1e-9
        assert np.array_equal(
            one(conn, "SELECT pg_llm_dropout(%b::tensor, %s::real, true, 3)", x[:100], p), got[:100]
        )
    assert np.array_equal(one(conn, "SELECT pg_llm_dropout(%b::tensor, 0.9, false)", x), x)
    conn.execute("SELECT setseed(0.25)")
    first = one(conn, "SELECT pg_llm_dropout(%b::tensor, 0.5)", x)
    second = one(conn, "SELECT pg_llm_dropout(%b::tensor, 0.5)", x)
    conn.execute("SELECT setseed(0.25)")
    assert np.array_equal(one(conn, "SELECT pg_llm_dropout(%b::tensor, 0.5)", x), first)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    "m, k, n", [(1, 1, 1), (3, 0, 2), (0, 3, 2), (7, 129, 33), (1, 300, 65), (130, 64, 96)]
)
def test_matmul_of_bytea(conn, m, k, n):
    a, b = normal(16, m, k), normal(17, k, n)
    raw = one(
        conn, "SELECT pg_llm_matmul(%s::bytea, %s::bytea, %s, %s, %s)", a.tobytes(), b.tobytes(), m, k, n
    )
    assert bytes(raw) == one(conn, "SELECT pg_llm_matmul(%b::tensor, %b::tensor)", a, b).tobytes()
    close(np.frombuffer(raw, np.float32).reshape(m, n), wide(a) @ wide(b), 1e-6 * max(1, k))
    flipped = one(conn, "SELECT pg_llm_transpose(%s::bytea, %s, %s)", a.tobytes(), m, k)
    assert bytes(flipped) == a.T.tobytes()
    doubled = one(conn, "SELECT pg_llm_add(%s::bytea, %s::bytea)", a.tobytes(), a.tobytes())
    assert bytes(doubled) == (a + a).tobytes()
