"""The kernels' gradients and the optimizer, over bytea, against PyTorch's autograd and AdamW in float64."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional


def raw(x) -> bytes:
    return np.ascontiguousarray(x.detach().numpy() if hasattr(x, "detach") else x, "<f4").tobytes()


def floats(b: bytes, shape=None) -> torch.Tensor:
    x = torch.from_numpy(np.frombuffer(b, "<f4").copy())
    return (x.reshape(shape) if shape is not None else x).double()


def randn(*shape) -> torch.Tensor:
    """Normal random values exactly representable in float32, as float64."""
    return torch.randn(*shape, dtype=torch.float32).double()


def leaf(*shape, scale=1.0) -> torch.Tensor:
    return (randn(*shape) * scale).float().double().requires_grad_()


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance=3e-6) -> bool:
    scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1
    return ours.shape == theirs.shape and ((ours - theirs).abs() <= tolerance * scale).all().item()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("m,k,n", [(1, 1, 1), (3, 5, 7), (17, 33, 65), (300, 40, 50), (5, 257, 129)])
def test_matmul(conn, m, k, n):
    a, b, dc = leaf(m, k), leaf(k, n), randn(m, n)
    (a @ b).backward(dc)
    query = "SELECT * FROM pg_llm_matmul_backward(%b, %b, %b, %s, %s, %s)"
    da, db = conn.execute(query, (raw(a), raw(b), raw(dc), m, k, n), binary=True).fetchone()
    assert close(floats(da, (m, k)), a.grad) and close(floats(db, (k, n)), b.grad)


def test_gelu(conn):
    x, dy = leaf(1001, scale=3), randn(1001)
    F.gelu(x, approximate="tanh").backward(dy)
    (dx,) = conn.execute("SELECT pg_llm_gelu_backward(%b, %b)", (raw(x), raw(dy)), binary=True).fetchone()
    assert close(floats(dx), x.grad)


@pytest.mark.parametrize("n", [1, 2, 17, 5000])
def test_softmax(conn, n):
    x, dy = leaf(n), randn(n)
    y = F.softmax(x, -1)
    y.backward(dy)
    (dx,) = conn.execute("SELECT pg_llm_softmax_backward(%b, %b)", (raw(y), raw(dy)), binary=True).fetchone()
    assert close(floats(dx), x.grad)


@pytest.mark.parametrize("rows,C", [(1, 1), (3, 7), (300, 48), (2, 4100)])
def test_layernorm(conn, rows, C):
    x, gamma, beta, dy = leaf(rows, C, scale=2), leaf(C), leaf(C), randn(rows, C)
    F.layer_norm(x, (C,), gamma, beta, 1e-5).backward(dy)
    query = "SELECT * FROM pg_llm_layernorm_backward(%b, %b, %b, 1e-5)"
    dx, dgamma, dbeta = conn.execute(query, (raw(x), raw(dy), raw(gamma)), binary=True).fetchone()
    assert close(floats(dx, (rows, C)), x.grad, 1e-5)
    assert close(floats(dgamma), gamma.grad) and close(floats(dbeta), beta.grad)


@pytest.mark.parametrize("V", [1, 3, 50257])
def test_cross_entropy(conn, V):
    x, target = leaf(V, scale=3), V // 2
    F.cross_entropy(x[None], torch.tensor([target])).backward()
    query = "SELECT pg_llm_cross_entropy_backward(%b, %s)"
    (dx,) = conn.execute(query, (raw(x), target), binary=True).fetchone()
    assert close(floats(dx), x.grad, 1e-6)


@pytest.mark.parametrize("T,C,NH", [(1, 1, 1), (5, 6, 3), (33, 20, 2), (150, 48, 3), (260, 130, 1)])
def test_attention(conn, T, C, NH):
    x, dy = leaf(T, C), randn(T, C)
    weights = [leaf(C, 3 * C, scale=C**-0.5), leaf(3 * C), leaf(C, C, scale=C**-0.5), leaf(C)]
    q, k, v = ((x @ weights[0]) + weights[1]).split(C, 1)
    heads = [t.reshape(T, NH, C // NH).transpose(0, 1)[None] for t in (q, k, v)]
    y = F.scaled_dot_product_attention(*heads, is_causal=True)[0].transpose(0, 1).reshape(T, C)
    ((y @ weights[2]) + weights[3]).backward(dy)
    query = "SELECT * FROM pg_llm_attention_backward(%b, %b, %b, %b, %b, %b, %s, %s, %s)"
    arguments = (raw(x), *map(raw, weights), raw(dy), NH, T, C)
    ours = conn.execute(query, arguments, binary=True).fetchone()
    for mine, theirs in zip(ours, (x, *weights), strict=True):
        assert close(floats(mine, theirs.shape), theirs.grad, 1e-5)


@pytest.mark.slow
def test_adamw_step_by_step(conn):
    w = randn(333).requires_grad_()
    optimizer = torch.optim.AdamW([w], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    ours = (raw(w), raw(torch.zeros(333)), raw(torch.zeros(333)))
    query = "SELECT * FROM pg_llm_adamw_step(%b, %b, %b, %b, 1e-2, 0.9, 0.999, 1e-8, 0.1, %s)"
    for step in range(1, 21):
        w.grad = randn(333)
        weight, m, v = ours
        ours = conn.execute(query, (weight, raw(w.grad), m, v, step), binary=True).fetchone()
        optimizer.step()
        state = optimizer.state[w]
        assert close(floats(ours[0]), w.detach(), 1e-6)
        assert close(floats(ours[1]), state["exp_avg"], 1e-6) and close(
            floats(ours[2]), state["exp_avg_sq"], 1e-6
        )


def test_clip_and_schedule(conn):
    g = randn(100)
    for clip in (0.5, 1e6):
        (ours,) = conn.execute(
            "SELECT pg_llm_grad_clip(%b, %s::real)", (raw(g), clip), binary=True
        ).fetchone()
        assert close(floats(ours), g * min(1, clip / g.norm()))
    rates = [
        conn.execute("SELECT pg_llm_lr_schedule(%s, 10, 110, 0.5)", (s,)).fetchone()[0] for s in range(112)
    ]
    assert rates[0] == 0 and rates[5] == 0.25 and rates[10] == 0.5 and rates[110] == rates[111] == 0
    expected = [0.25 * (1 + np.cos(np.pi * (s - 10) / 100)) for s in range(10, 110)]
    assert np.allclose(rates[10:110], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT pg_llm_adamw_step(''::bytea, '', '', '', 'NaN', 0.9, 0.999, 1e-8, 0, 1)",
        "SELECT pg_llm_adamw_step(''::bytea, '', '', '', 0.1, 1, 0.999, 1e-8, 0, 1)",
        "SELECT pg_llm_adamw_step(''::bytea, '', '', '', 0.1, 0.9, 0.999, 1e-8, 0, 0)",
        "SELECT pg_llm_grad_clip(''::bytea, 0)",
        "SELECT pg_llm_softmax_backward('\\x00000000'::bytea, '')",
        "SELECT pg_llm_cross_entropy_backward(''::bytea, 0)",
        "SELECT pg_llm_layernorm_backward('\\x00000000'::bytea, '\\x00000000', '', 1e-5)",
        "SELECT pg_llm_attention_backward('', '', '', '', '', '', 0, 0, 0)",
    ],
)
def test_bad_arguments_are_errors(conn, query):
    import psycopg

    with pytest.raises(psycopg.DataError):
        conn.execute(query)


def test_same_bits_on_every_instruction_set(conn):
    T, C = 70, 36
    arguments = [raw(randn(*s)) for s in ((T, C), (C, 3 * C), (3 * C,), (C, C), (C,), (T, C))]
    results = set()
    for (isa,) in conn.execute(
        "SELECT unnest(enumvals) FROM pg_settings WHERE name = 'pg_llm.isa'"
    ).fetchall():
        try:
            conn.execute(f"SET pg_llm.isa = {isa}")
        except Exception:  # this machine cannot run it
            continue
        for threads in (1, 2):
            conn.execute(f"SET pg_llm.threads = {threads}")
            query = "SELECT * FROM pg_llm_attention_backward(%b, %b, %b, %b, %b, %b, 3, 70, 36)"
            results.add(conn.execute(query, arguments, binary=True).fetchone())
            conn.execute("RESET pg_llm.threads")
    conn.execute("RESET pg_llm.isa")
    assert len(results) == 1
