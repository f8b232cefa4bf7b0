"""Gradients of the kernels and the optimizer over tensors: PyTorch's, numeric ones, the bytea forms' bits."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * scale, np.float32)


def row(conn, query: str, *args):
    return conn.cursor(binary=True).execute(query, args).fetchone()


def leaf(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).double().requires_grad_()


def close(got, expected: torch.Tensor, tolerance=3e-6) -> None:
    expected = expected.detach().numpy()
    assert np.shape(got) == expected.shape
    if expected.size:
        assert np.abs(got - expected).max() <= tolerance * max(1, np.abs(expected).max())


def slopes(conn, forward: str, at: list, dy: np.ndarray, i: int, eps=1e-2) -> np.ndarray:
    """d(sum(dy * forward))/d(argument i), element by element, by central differences of the SQL forward."""
    out = np.zeros_like(at[i], np.float64)
    for index in np.ndindex(at[i].shape):
        total = 0
        for sign in (1, -1):
            moved = at[i].copy()
            moved[index] += sign * eps
            arguments = [moved if j == i else a for j, a in enumerate(at)]
            (y,) = row(conn, forward, *arguments)
            total += sign * (np.asarray(y, np.float64) * dy).sum()
        out[index] = total / (2 * eps)
    return out


def agrees_with_slopes(conn, forward: str, at: list, dy: np.ndarray, grads) -> None:
    for i, grad in enumerate(grads):
        numeric = slopes(conn, forward, at, dy, i)
        assert np.abs(grad - numeric).max() <= 2e-3 * max(1, np.abs(numeric).max()), i


PRODUCTS = [
    ((3, 5), (5, 7)),
    ((300, 40), (40, 50)),
    ((1, 1), (1, 1)),
    ((5,), (5, 3)),
    ((4, 5), (5,)),
    ((6,), (6,)),
    ((2, 3, 4, 5), (5, 6)),
    ((2, 4, 5), (2, 5, 6)),
    ((4, 5), (3, 5, 6)),
    ((2, 1, 4, 5), (3, 5, 2)),
    ((7, 130, 9), (1, 9, 4)),
    ((0, 5), (5, 3)),
    ((3, 0), (0, 2)),
]


@pytest.mark.parametrize("a, b", PRODUCTS)
def test_matmul(conn, a, b):
    a, b = normal(1, *a), normal(2, *b)
    ta, tb = leaf(a), leaf(b)
    y = ta @ tb
    dy = normal(3, *y.shape)
    y.backward(torch.from_numpy(dy).double())
    da, db = row(conn, "SELECT * FROM pg_llm_matmul_backward(%b::tensor, %b, %b)", a, b, dy)
    close(da, ta.grad, 1e-5)
    close(db, tb.grad, 1e-5)


@pytest.mark.parametrize(
    "a, b",
    [((4, 3), (4, 3)), ((4, 3), (3,)), ((2, 1, 5), (3, 1)), ((), (2, 2)), ((300, 7), (1, 7)), ((0, 3), (3,))],
)
def test_add(conn, a, b):
    a, b = normal(1, *a), normal(2, *b)
    ta, tb = leaf(a), leaf(b)
    y = ta + tb
    dy = normal(3, *y.shape)
    y.backward(torch.from_numpy(dy).double())
    da, db = row(conn, "SELECT * FROM pg_llm_add_backward(%b::tensor, %b, %b)", a, b, dy)
    close(da, ta.grad)
    close(db, tb.grad)


@pytest.mark.parametrize("exact", [False, True])
def test_gelu(conn, exact):
    x, dy = normal(1, 13, 77, scale=3), normal(2, 13, 77)
    t = leaf(x)
    F.gelu(t, approximate="none" if exact else "tanh").backward(torch.from_numpy(dy).double())
    (dx,) = row(conn, "SELECT pg_llm_gelu_backward(%b, %b, %b)", x, dy, exact)
    close(dx, t.grad)
    forward = f"SELECT pg_llm_gelu(%b::tensor, {exact})"
    small = [x[:2, :5]]
    (grad,) = row(conn, "SELECT pg_llm_gelu_backward(%b, %b, %b)", small[0], dy[:2, :5], exact)
    agrees_with_slopes(conn, forward, small, dy[:2, :5], [grad])


@pytest.mark.parametrize(
    "shape, axis", [((5,), -1), ((3, 4100), -1), ((3, 5, 7), 1), ((2, 9), 0), ((0, 4), 1)]
)
def test_softmax(conn, shape, axis):
    x, dy = normal(1, *shape), normal(2, *shape)
    t = leaf(x)
    F.softmax(t, axis).backward(torch.from_numpy(dy).double())
    query = "SELECT pg_llm_softmax_backward(pg_llm_softmax(%b::tensor, %s), %b, %s)"
    close(row(conn, query, x, axis, dy, axis)[0], t.grad)


@pytest.mark.parametrize("shape", [(1,), (3, 7), (2, 150, 48), (2, 4100), (0, 3)])
def test_layernorm(conn, shape):
    x, dy = normal(1, *shape, scale=2), normal(2, *shape)
    gamma, beta = normal(3, shape[-1]), normal(4, shape[-1])
    tensors = [leaf(v) for v in (x, gamma, beta)]
    F.layer_norm(tensors[0], shape[-1:], *tensors[1:], 1e-5).backward(torch.from_numpy(dy).double())
    got = row(conn, "SELECT * FROM pg_llm_layernorm_backward(%b::tensor, %b, %b)", x, dy, gamma)
    for mine, theirs in zip(got, tensors, strict=True):
        close(mine, theirs.grad, 1e-5)


def test_layernorm_against_slopes(conn):
    at = [normal(1, 3, 4), normal(2, 4), normal(3, 4)]
    dy = normal(4, 3, 4)
    grads = row(conn, "SELECT * FROM pg_llm_layernorm_backward(%b::tensor, %b, %b)", at[0], dy, at[1])
    agrees_with_slopes(conn, "SELECT pg_llm_layernorm(%b::tensor, %b, %b)", at, dy, grads)


def test_cross_entropy(conn):
    logits, targets = normal(1, 2, 3, 50, scale=3), [3, 0, -100, 49, 7, 7]
    t = leaf(logits)
    F.cross_entropy(t.reshape(6, 50), torch.tensor(targets)).backward()
    close(
        row(conn, "SELECT pg_llm_cross_entropy_backward(%b::tensor, %s::int[])", logits, targets)[0],
        t.grad,
        1e-6,
    )
    one = row(conn, "SELECT pg_llm_cross_entropy_backward(%b::tensor, 3)", logits[0, 0])[0]
    again = row(conn, "SELECT pg_llm_cross_entropy_backward(%b::tensor, ARRAY[3])", logits[0, 0])[0]
    assert np.array_equal(one, again)
    small = [logits[0, 0, :6]]
    (grad,) = row(conn, "SELECT pg_llm_cross_entropy_backward(%b::tensor, 3)", small[0])
    agrees_with_slopes(conn, "SELECT pg_llm_cross_entropy(%b::tensor, 3)", small, np.float32(1), [grad])
    none = row(conn, "SELECT pg_llm_cross_entropy_backward(%b::tensor, ARRAY[-100])", small[0])[0]
    assert not none.any()


def attention(x, w_qkv, b_qkv, w_o, b_o, heads, causal):
    B, T, C = x.shape
    q, k, v = ((x @ w_qkv) + b_qkv).split(C, 2)
    parts = [t.reshape(B, T, heads, C // heads).transpose(1, 2) for t in (q, k, v)]
    y = F.scaled_dot_product_attention(*parts, is_causal=causal).transpose(1, 2).reshape(B, T, C)
    return (y @ w_o) + b_o


def attention_arguments(B: int, T: int, C: int) -> list[np.ndarray]:
    shapes = (B, T, C), (C, 3 * C), (3 * C,), (C, C), (C,)
    return [normal(i, *s, scale=1 if i in (0, 2, 4) else C**-0.5) for i, s in enumerate(shapes)]


@pytest.mark.parametrize("B, T, C, heads", [(1, 1, 1, 1), (2, 5, 6, 3), (3, 33, 20, 2), (1, 150, 48, 3)])
@pytest.mark.parametrize("causal", [True, False])
def test_attention(conn, B, T, C, heads, causal):
    at = attention_arguments(B, T, C)
    dy = normal(9, B, T, C)
    tensors = [leaf(x) for x in at]
    attention(*tensors, heads, causal).backward(torch.from_numpy(dy).double())
    query = "SELECT * FROM pg_llm_attention_backward(%b, %b, %b, %b, %b, %b::tensor, %s, %s)"
    for mine, theirs in zip(row(conn, query, *at, dy, heads, causal), tensors, strict=True):
        close(mine, theirs.grad, 1e-5)


def test_attention_against_slopes(conn):
    at, dy = [x[0] if x.ndim == 3 else x for x in attention_arguments(1, 3, 4)], normal(9, 3, 4)
    query = "SELECT * FROM pg_llm_attention_backward(%b, %b, %b, %b, %b, %b::tensor, 2)"
    grads = row(conn, query, *at, dy)
    agrees_with_slopes(conn, "SELECT pg_llm_attention(%b, %b, %b, %b, %b::tensor, 2)", at, dy, grads)


def mlp_arguments(shape: tuple[int, ...], width: int) -> list:
    C = shape[-1]
    weights = normal(2, C, width, scale=0.3), normal(3, width), normal(4, width, C, scale=0.3), normal(5, C)
    return [normal(1, *shape), *weights]


@pytest.mark.parametrize(
    "shape, width", [((1, 1), 4), ((2, 5, 6), 24), ((3, 33, 20), 7), ((300, 48), 192), ((0, 3), 12)]
)
def test_mlp(conn, shape, width):
    at, dy = mlp_arguments(shape, width), normal(9, *shape)
    tensors = x, w_fc, b_fc, w_proj, b_proj = [leaf(a) for a in at]
    y = F.gelu(x @ w_fc + b_fc, approximate="tanh") @ w_proj + b_proj
    y.backward(torch.from_numpy(dy).double())
    got = row(conn, "SELECT * FROM pg_llm_mlp_backward(%b::tensor, %b, %b, %b, %b, %b)", *at, dy)
    for mine, theirs in zip(got, tensors, strict=True):
        close(mine, theirs.grad, 1e-5)


def test_mlp_over_bytea_has_the_same_bits(conn):
    at, dy = mlp_arguments((7, 12), 48), normal(9, 7, 12)
    tensors = row(conn, "SELECT * FROM pg_llm_mlp_backward(%b::tensor, %b, %b, %b, %b, %b)", *at, dy)
    buffers = [a.tobytes() for a in (*at, dy)]
    raw = row(conn, "SELECT * FROM pg_llm_mlp_backward(%b::bytea, %b, %b, %b, %b, %b, 7, 12)", *buffers)
    assert [t.tobytes() for t in tensors] == [bytes(b) for b in raw]


@pytest.mark.parametrize(
    "shapes, message",
    [
        ("{2,3} {3,8} {7} {8,3} {3} {2,3}", "w_fc has shape"),
        ("{2,3} {3,8} {8} {8,4} {3} {2,3}", "w_proj has shape"),
        ("{2,3} {3,8} {8} {8,3} {4} {2,3}", "b_proj has shape"),
        ("{3} {3,8} {8} {8,3} {3} {3}", "x has shape"),
        ("{2,3} {3,8} {8} {8,3} {3} {3,2}", "dy has shape"),
    ],
)
def test_mlp_of_wrong_shapes(conn, shapes, message):
    zeros = ", ".join(f"zeros('{shape}')" for shape in shapes.split())
    with pytest.raises(psycopg.Error, match=message):
        conn.execute(f"SELECT pg_llm_mlp_backward({zeros})")


def test_mlp_of_wrong_buffers(conn):
    call = "SELECT pg_llm_mlp_backward(%b::bytea, ''::bytea, '', '', '', '', %s, 1)"
    for x, t, message in ((bytes(4), 1, "w_fc has 0 floats"), (b"", -1, "is negative"), (b"1", 1, "1 bytes")):
        with pytest.raises(psycopg.Error, match=message):
            conn.execute(call, [x, t])


def test_dropout_by_its_result(conn):
    """Over bytea the mask is read from the forward pass's input and output; a zero of the input is kept."""
    x, dy = normal(1, 500), normal(2, 500)
    x[::50] = 0
    query = "SELECT pg_llm_dropout_backward(%b::bytea, %b, %b, %s::real, %s)"
    for p, training in ((0.25, True), (0, True), (0.25, False)):
        (y,) = row(conn, "SELECT pg_llm_dropout(%b::bytea, %s::real, %s, 7)", x.tobytes(), p, training)
        (raw,) = row(conn, query, x.tobytes(), y, dy.tobytes(), p, training)
        dx, kept = np.frombuffer(raw, "<f4"), (np.frombuffer(y, "<f4") != 0) | (x == 0)
        expected = dy * np.float32(1 / (1 - np.float32(p))) if training else dy
        assert np.array_equal(dx, np.where(kept, expected, 0).astype(np.float32))
        assert kept.all() or training and 100 < np.sum(~kept) < 150
    zero = row(conn, query, x.tobytes(), bytes(2000), dy.tobytes(), 1, True)[0]
    assert not np.frombuffer(zero, "<f4").any()
    with pytest.raises(psycopg.Error, match="output has 3 floats"):
        row(conn, query, x.tobytes(), bytes(12), dy.tobytes(), 0.5, True)
    with pytest.raises(psycopg.Error, match="probability NaN"):
        row(conn, query, x.tobytes(), x.tobytes(), dy.tobytes(), float("nan"), True)


def test_embedding(conn):
    ids, dy = [[3, 0, 3], [9, 9, 3]], normal(1, 2, 3, 33)
    table = torch.zeros(10, 33, dtype=torch.float64, requires_grad=True)
    F.embedding(torch.tensor(ids), table).backward(torch.from_numpy(dy).double())
    close(row(conn, "SELECT pg_llm_embedding_backward(%s::int[], %b, 10)", ids, dy)[0], table.grad)
    empty = row(conn, "SELECT pg_llm_embedding_backward('{}', zeros(ARRAY[0, 4]), 3)")[0]
    assert empty.shape == (3, 4) and not empty.any()


def test_dropout_and_transpose(conn):
    x, dy = np.ones((50, 40), np.float32), normal(1, 50, 40)
    (kept,) = row(conn, "SELECT pg_llm_dropout(%b::tensor, 0.25, true, 7)", x)
    (dx,) = row(conn, "SELECT pg_llm_dropout_backward(%b, 0.25, true, 7)", dy)
    assert np.array_equal(dx != 0, kept != 0) and np.array_equal(dx, (dy * kept).astype(np.float32))
    assert np.array_equal(row(conn, "SELECT pg_llm_dropout_backward(%b, 0.25, false, 7)", dy)[0], dy)
    (t,) = row(conn, "SELECT pg_llm_transpose_backward(%b::tensor)", normal(2, 2, 3, 4))
    assert np.array_equal(t, normal(2, 2, 3, 4).swapaxes(1, 2))


@pytest.mark.slow
def test_adamw_is_torchs_step_by_step(conn):
    w = torch.from_numpy(normal(0, 9, 37)).double().requires_grad_()
    optimizer = torch.optim.AdamW([w], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    ours = (normal(0, 9, 37), np.zeros((9, 37), np.float32), np.zeros((9, 37), np.float32))
    query = "SELECT * FROM pg_llm_adamw_step(%b::tensor, %b, %b, %b, 1e-2, 0.9, 0.999, 1e-8, 0.1, %s)"
    for step in range(1, 21):
        g = normal(step, 9, 37)
        w.grad = torch.from_numpy(g).double()
        ours = row(conn, query, ours[0], g, ours[1], ours[2], step)
        optimizer.step()
        state = optimizer.state[w]
        for mine, theirs in zip(ours, (w, state["exp_avg"], state["exp_avg_sq"]), strict=True):
            close(mine, theirs, 1e-6)


def test_clip(conn):
    g = normal(1, 10, 10)
    for clip in (0.1, 5.0, 1e6):
        (ours,) = row(conn, "SELECT pg_llm_grad_clip(%b::tensor, %s::float8)", g, clip)
        close(ours, torch.from_numpy(g * min(1, clip / np.linalg.norm(g.astype(np.float64)))))
    zero = row(conn, "SELECT pg_llm_grad_clip(zeros(ARRAY[3]), 1)")[0]
    assert not zero.any()


def bytes_of(values) -> list[bytes]:
    return [np.ascontiguousarray(v).tobytes() for v in values]


def test_the_bits_are_those_of_the_bytea_forms(conn):
    """Both are thin wrappers of the functions that the executor's backward pass calls."""
    a, b, dc = normal(1, 45, 300), normal(2, 300, 70), normal(3, 45, 70)
    x, dy, gamma = normal(4, 30, 48), normal(5, 30, 48), normal(6, 48)
    at = attention_arguments(1, 70, 36)
    at[0], dout = at[0][0], normal(9, 70, 36)
    hyper = "1e-2, 0.9, 0.999, 1e-8, 0.1, 3"
    pairs = [
        ("matmul_backward(%b, %b, %b", (a, b, dc), "", ", 45, 300, 70"),
        ("gelu_backward(%b, %b", (x, dy), "", ""),
        ("softmax_backward(%b, %b", (x[0], dy[0]), "", ""),
        ("layernorm_backward(%b, %b, %b", (x, dy, gamma), "", ", 1e-5"),
        ("cross_entropy_backward(%b, 7", (x[0],), "", ""),
        ("attention_backward(%b, %b, %b, %b, %b, %b", (*at, dout), ", 3", ", 3, 70, 36"),
        ("adamw_step(%b, %b, %b, %b", (x, dy, x, dy * dy), ", " + hyper, ", " + hyper),
        ("grad_clip(%b, 0.1", (x,), "", ""),
    ]
    for call, arguments, tensors, buffers in pairs:
        as_bytes = row(conn, f"SELECT * FROM pg_llm_{call}{buffers})", *bytes_of(arguments))
        as_tensors = row(conn, f"SELECT * FROM pg_llm_{call}{tensors})", *arguments)
        assert bytes_of(as_tensors) == [bytes(v) for v in as_bytes], call


T2, T3 = "ones(ARRAY[2,3])", "ones(ARRAY[3,2])"
WRONG = {
    f"SELECT pg_llm_matmul_backward({T2}, {T2}, {T2})": "inner",
    f"SELECT pg_llm_matmul_backward({T2}, {T3}, {T2})": r"dc has shape \(2,3\), a @ b has \(2,2\)",
    f"SELECT pg_llm_add_backward({T2}, {T3}, {T2})": "add",
    f"SELECT pg_llm_add_backward({T2}, {T2}, {T3})": r"dc has shape \(3,2\), a \+ b has \(2,3\)",
    f"SELECT pg_llm_gelu_backward({T2}, {T3})": r"dy has shape \(3,2\), x has \(2,3\)",
    f"SELECT pg_llm_softmax_backward({T2}, {T2}, 2)": "axis",
    "SELECT pg_llm_softmax_backward('1'::tensor, '1'::tensor)": "axis",
    f"SELECT pg_llm_softmax_backward({T2}, {T3})": "dy",
    f"SELECT pg_llm_layernorm_backward({T2}, {T2}, ones(ARRAY[2]))": "gamma",
    "SELECT pg_llm_layernorm_backward('1'::tensor, '1', '1')": "scalar",
    f"SELECT pg_llm_cross_entropy_backward({T2}, ARRAY[0])": "targets",
    f"SELECT pg_llm_cross_entropy_backward({T2}, ARRAY[0, 3])": "id 3",
    f"SELECT pg_llm_cross_entropy_backward({T2}, ARRAY[0, NULL])": "NULL",
    "SELECT pg_llm_cross_entropy_backward('1'::tensor, 0)": "targets",
    f"SELECT pg_llm_attention_backward({T2}, {T2}, {T2}, {T2}, {T2}, {T2}, 2)": "heads",
    f"SELECT pg_llm_embedding_backward(ARRAY[1], {T2}, 3)": r"dy has shape \(2,3\)",
    f"SELECT pg_llm_embedding_backward(ARRAY[1,5], {T2}, 3)": "id 5",
    f"SELECT pg_llm_embedding_backward(ARRAY[1,2], {T2}, -1)": "id 1",
    "SELECT pg_llm_embedding_backward('{}', zeros(ARRAY[0,2]), -1)": "negative",
    f"SELECT pg_llm_dropout_backward({T2}, 0.1, true, NULL)": "seed",
    f"SELECT pg_llm_dropout_backward({T2}, 2, true, 1)": "probability",
    f"SELECT pg_llm_adamw_step({T2}, {T3}, {T2}, {T2}, 0.1, 0.9, 0.9, 0, 0, 1)": "grad has shape",
    f"SELECT pg_llm_adamw_step({T2}, {T2}, {T2}, {T2}, 'NaN', 0.9, 0.9, 0, 0, 1)": "lr",
    f"SELECT pg_llm_adamw_step({T2}, {T2}, {T2}, {T2}, 0.1, 0.9, 1, 0, 0, 1)": "beta2",
    f"SELECT pg_llm_adamw_step({T2}, {T2}, {T2}, {T2}, 0.1, 0.9, 0.9, 0, 0, 0)": "step is 0",
    f"SELECT pg_llm_adamw_step({T2}, NULL, {T2}, {T2}, 0.1, 0.9, 0.9, 0, 0, 1)": "grad is NULL",
    f"SELECT pg_llm_adamw_step({T2}, {T2}, {T2}, NULL, 0.1, 0.9, 0.9, 0, 0, 1)": "v is NULL",
    f"SELECT pg_llm_adamw_step({T2}, {T2}, {T2}, {T2}, 0.1, 0.9, 0.9, 0, NULL, 1)": "weight_decay is NULL",
    "SELECT pg_llm_adamw_step(''::bytea, NULL, '', '', 0.1, 0.9, 0.9, 0, 0, 1)": "grad is NULL",
    f"SELECT pg_llm_grad_clip({T2}, 0)": "clip",
    f"SELECT pg_llm_grad_clip({T2}, 'NaN')": "clip",
}


@pytest.mark.parametrize("query", WRONG)
def test_what_does_not_fit_is_refused(conn, query):
    with pytest.raises((psycopg.DataError, psycopg.errors.ProgramLimitExceeded), match=WRONG[query]):
        conn.execute(query)


def test_null_gives_null_and_nothing_is_recorded(conn):
    for query in (
        "SELECT (pg_llm_matmul_backward(NULL, '1'::tensor, '1')).da",
        "SELECT pg_llm_gelu_backward(NULL, '1'::tensor)",
        "SELECT pg_llm_dropout_backward(NULL, 0.1, true, 1)",
        "SELECT pg_llm_grad_clip(NULL::tensor, 1)",
    ):
        assert row(conn, query)[0] is None
    marks = conn.execute(
        "SELECT DISTINCT provolatile, proparallel FROM pg_proc WHERE proname ~ '^pg_llm_.*_backward$'"
    ).fetchall()
    assert marks == [("i", "s")]


def test_the_same_bits_on_every_instruction_set_and_number_of_threads(conn):
    at, dout = attention_arguments(2, 70, 36), normal(9, 2, 70, 36)
    a, b, dc = normal(1, 2, 45, 300), normal(2, 3, 1, 300, 70), normal(3, 3, 2, 45, 70)
    calls = [
        ("pg_llm_matmul_backward(%b::tensor, %b, %b)", (a, b, dc)),
        ("pg_llm_attention_backward(%b, %b, %b, %b, %b, %b::tensor, 3, false)", (*at, dout)),
        ("pg_llm_layernorm_backward(%b::tensor, %b, %b)", (at[0], dout, normal(4, 36))),
        ("pg_llm_add_backward(%b::tensor, %b, %b)", (at[0], normal(5, 2, 1, 36), dout)),
    ]
    levels = conn.execute("SELECT unnest(enumvals) FROM pg_settings WHERE name = 'pg_llm.isa'").fetchall()
    results = set()
    for (isa,) in levels:
        try:
            conn.execute(f"SET pg_llm.isa = {isa}")
        except psycopg.Error:  # this machine cannot run it
            continue
        for threads in (1, 2):
            conn.execute(f"SET pg_llm.threads = {threads}")
            rows = [row(conn, f"SELECT * FROM {call}", *arguments) for call, arguments in calls]
            results.add(tuple(part for values in rows for part in bytes_of(values)))
    conn.execute("RESET pg_llm.threads; RESET pg_llm.isa")
    assert len(results) == 1
