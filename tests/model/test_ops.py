"""Operations of graphs and SQL: llm_op is the engine's table; values and gradients are PyTorch's."""

from __future__ import annotations

import json
import os
import subprocess

import numpy as np
import psycopg
import pytest
from helpers.paths import REPO, cache_folder
from helpers.tiny_model import ids, logits, make, params

ALL = "SET CONSTRAINTS llm_graph_fits DEFERRED"


def test_llm_op_says_what_the_engine_knows(conn):
    """Each operation of engine/op_facts.h has its row, with its arity and attributes."""
    program = cache_folder() / "op_facts"
    sources = [REPO / "extension/test/c/test_op_facts.c", REPO / "extension/engine/op_facts.c"]
    folders = [f"-I{REPO}/extension", f"-I{REPO}/extension/test/c"]
    command = [os.environ.get("CC", "cc"), "-std=gnu11", "-DLLM_CORE", "-D_GNU_SOURCE", *folders, *sources]
    subprocess.run([*command, "-o", program], check=True)
    printed = subprocess.run([program, "print"], check=True, capture_output=True, text=True).stdout
    facts = [line.split("\t") for line in printed.splitlines()]
    rows = conn.execute(
        "SELECT op, min_inputs, max_inputs, ARRAY(SELECT jsonb_object_keys(attributes)) FROM llm_op"
    )
    assert {op: (least, most, set(attributes)) for op, least, most, attributes in rows} == {
        op: (int(least), None if most == "-1" else int(most), set(attributes.split()))
        for op, least, most, attributes in facts
    }


# ---- tensor functions ----

SHAPES = [(1,), (7,), (3, 5), (0, 4), (2, 3, 129), (65, 1), (33, 1000), (2, 70000)]


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * scale, np.float32)


def row(conn, query: str, *args):
    return conn.cursor(binary=True).execute(query, args).fetchone()


def close(got, expected, tolerance=3e-6):
    expected = expected.detach().numpy() if hasattr(expected, "detach") else np.asarray(expected)
    assert np.shape(got) == expected.shape
    if expected.size:
        assert np.abs(got - expected).max() <= tolerance * max(1, np.abs(expected).max())


def leaf(torch, x: np.ndarray):
    return torch.from_numpy(x).double().requires_grad_()


@pytest.mark.parametrize("shape", SHAPES)
def test_elementwise(conn, shape):
    torch = pytest.importorskip("torch")
    x, dy = normal(1, *shape, scale=4), normal(2, *shape)
    for name, f in (("sigmoid", torch.sigmoid), ("silu", torch.nn.functional.silu)):
        wide = leaf(torch, x)
        y = f(wide)
        (dx,) = torch.autograd.grad(y, wide, torch.from_numpy(dy).double())
        (got,) = row(conn, f"SELECT pg_llm_{name}(%b::tensor)", x)
        close(got, y)
        close(row(conn, f"SELECT pg_llm_{name}_backward(%b, %b)", got if name == "sigmoid" else x, dy)[0], dx)
    large = x * np.float32(1e6)
    for name in ("sin", "cos"):
        for values in (x, large):
            close(row(conn, f"SELECT {name}(%b::tensor)", values)[0], getattr(np, name)(values.astype(float)))


@pytest.mark.parametrize("shape", SHAPES)
def test_log_softmax(conn, shape):
    torch = pytest.importorskip("torch")
    x, dy = normal(3, *shape, scale=5), normal(4, *shape)
    for axis in range(-len(shape), len(shape)):
        wide = leaf(torch, x)
        y = torch.nn.functional.log_softmax(wide, axis)
        (dx,) = torch.autograd.grad(y, wide, torch.from_numpy(dy).double())
        (got,) = row(conn, "SELECT pg_llm_log_softmax(%b::tensor, %s)", x, axis)
        close(got, y)
        close(row(conn, "SELECT pg_llm_log_softmax_backward(%b, %b, %s)", got, dy, axis)[0], dx)


@pytest.mark.parametrize("shape", SHAPES)
def test_rmsnorm(conn, shape):
    torch = pytest.importorskip("torch")
    C = shape[-1]
    x, weight, dy = normal(5, *shape, scale=2), normal(6, C), normal(7, *shape)
    for eps in (1e-5, 0.5):
        wide = leaf(torch, x), leaf(torch, weight)
        y = torch.nn.functional.rms_norm(wide[0], (C,), wide[1], float(np.float32(eps)))
        grads = torch.autograd.grad(y, wide, torch.from_numpy(dy).double())
        close(row(conn, "SELECT pg_llm_rmsnorm(%b, %b::tensor, %s::real)", x, weight, eps)[0], y, 5e-6)
        found = row(conn, "SELECT (pg_llm_rmsnorm_backward(%b, %b, %b, %s::real)).*", x, dy, weight, eps)
        for got, expected in zip(found, grads, strict=True):
            close(got, expected, 1e-5)


def test_extremes(conn):
    """Equal to PyTorch for infinities, NaN and values whose exponentials overflow float32."""
    torch = pytest.importorskip("torch")
    inf, nan = np.float32(np.inf), np.float32(np.nan)
    x = np.array([0, -0.0, 1e38, -1e38, 88, -80, 3e38, 1e-40, inf, nan], np.float32)
    for name, f in (("sigmoid", torch.sigmoid), ("silu", torch.nn.functional.silu)):
        (got,) = row(conn, f"SELECT pg_llm_{name}(%b::tensor)", x)
        np.testing.assert_allclose(got, f(torch.from_numpy(x).double()).numpy(), 1e-6, 1e-38)
    for name in ("sin", "cos"):
        (got,) = row(conn, f"SELECT {name}(%b::tensor)", np.append(x, -inf))
        assert np.isnan(got[-3:]).all()
        np.testing.assert_allclose(got[:-3], getattr(np, name)(x[:-2].astype(float)), 1e-6)
    for x in ([1e38, -1e38], [-inf, 3], [88, 89, 90], [0] * 17):
        x = np.array(x, np.float32)
        (got,) = row(conn, "SELECT pg_llm_log_softmax(%b::tensor)", x)
        np.testing.assert_allclose(got, torch.log_softmax(torch.from_numpy(x), 0).numpy(), 1e-6)
    for x in ([inf, 1], [nan, 1], [-inf, -inf]):
        assert np.isnan(row(conn, "SELECT pg_llm_log_softmax(%b::tensor)", np.array(x, np.float32))[0]).all()


def test_recorded_on_the_tape(conn):
    """llm_backward differentiates each of them, with PyTorch's gradients."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    x, w, k = normal(8, 5, 7), normal(9, 7), normal(10, 5, 7)
    forms = {
        "pg_llm_sigmoid(x)": lambda x, w: torch.sigmoid(x),
        "pg_llm_silu(x)": lambda x, w: F.silu(x),
        "sin(x)": lambda x, w: torch.sin(x),
        "cos(x)": lambda x, w: torch.cos(x),
        "pg_llm_log_softmax(x)": lambda x, w: torch.log_softmax(x, 1),
        "pg_llm_log_softmax(x, 0)": lambda x, w: torch.log_softmax(x, 0),
        "pg_llm_rmsnorm(x, w, 0.1)": lambda x, w: F.rms_norm(x, (7,), w, float(np.float32(0.1))),
    }
    for form, f in forms.items():
        wide = leaf(torch, x), leaf(torch, w)
        (f(*wide) * torch.from_numpy(k).double()).sum().backward()
        conn.execute("SET pg_llm.autograd = on")
        query = form.replace("(x", "(llm_var(%(x)b, 'x')").replace(", w", ", llm_var(%(w)b, 'w')")
        found = conn.cursor(binary=True).execute(
            f"SELECT name, grad FROM llm_backward(tensor_sum({query} * %(k)b)) ORDER BY name DESC",
            {"x": x, "w": w, "k": k},
        )
        grads = dict(found.fetchall())
        conn.execute("RESET pg_llm.autograd")
        close(grads["x"], wide[0].grad)
        if "w" in grads:
            close(grads["w"], wide[1].grad, 1e-5)


def test_shapes_that_do_not_fit_are_refused_when_planned(conn):
    conn.execute("CREATE TEMP TABLE declared (x tensor(4,3), w tensor(3), u tensor(4))")
    for good in ("pg_llm_rmsnorm(x, w)", "pg_llm_silu(x) + w", "sin(x) * w", "pg_llm_log_softmax(x) + w"):
        conn.execute(f"EXPLAIN SELECT {good} FROM declared")
    for bad in ("pg_llm_rmsnorm(x, u)", "pg_llm_rmsnorm(x, w) + u", "pg_llm_sigmoid(x) + u", "cos(x) + u"):
        with pytest.raises(psycopg.errors.ArraySubscriptError):
            conn.execute(f"EXPLAIN SELECT {bad} FROM declared")
    conn.execute("DROP TABLE declared")


# ---- in a graph ----


@pytest.fixture
def g(conn):
    conn.execute("DELETE FROM llm_model_config WHERE model = 'g'")
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model = 'g'")
    make(conn, "g")
    return conn


# Root mean square norms, SiLU, sines and a gate of constants: what Llama and its descendants are made of.
LLAMA = """
    UPDATE llm_graph SET op = 'rmsnorm', inputs = inputs[1:2] WHERE model = 'g' AND op = 'layernorm';
    DELETE FROM llm_graph WHERE model = 'g' AND name LIKE '%ln\\__.bias';
    DELETE FROM llm_param WHERE model = 'g' AND name ~ 'ln_(1|2|f).bias$';
    UPDATE llm_graph SET op = 'silu', attrs = '{}' WHERE model = 'g' AND op = 'gelu';
    INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES
        ('g', 'rates', 'constant', '{}', '{"value": [1, 0.5, 0.25, 0.125, -1, -0.5, 3, 40]}'),
        ('g', 'half', 'constant', '{}', '{"value": 0.5}'),
        ('g', 'angles', 'mul', '{embd,rates}', '{}'),
        ('g', 'sines', 'sin', '{angles}', '{}'),
        ('g', 'cosines', 'cos', '{angles}', '{}'),
        ('g', 'gate', 'sigmoid', '{embd}', '{}'),
        ('g', 'turned', 'add', '{sines,cosines}', '{}'),
        ('g', 'gated', 'mul', '{turned,gate}', '{}'),
        ('g', 'scaled', 'mul', '{gated,half}', '{}'),
        ('g', 'logprobs', 'log_softmax', '{logits}', '{}');
    UPDATE llm_graph SET inputs = '{scaled}' WHERE model = 'g' AND name = 'drop'
"""
TOKENS = ids("thequickbrown")


def llama(conn) -> None:
    with conn.transaction():
        conn.execute(ALL)
        for statement in LLAMA.split(";\n"):
            assert conn.execute(statement).rowcount > 0, statement


def forward(torch, w, tokens, n_head=2):
    """Log-probabilities (T,V), in float64."""
    F = torch.nn.functional
    w = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in w.items()}
    T, C = len(tokens), w["wte.weight"].shape[1]

    def norm(x, name):
        return F.rms_norm(x, (C,), w[name + ".weight"], 1e-5)

    def linear(x, name):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    embd = w["wte.weight"][tokens] + w["wpe.weight"][:T]
    angles = embd * torch.tensor([1, 0.5, 0.25, 0.125, -1, -0.5, 3, 40], dtype=torch.float64)
    x = (torch.sin(angles) + torch.cos(angles)) * torch.sigmoid(embd) * 0.5
    for h in ("h.0", "h.1"):
        qkv = linear(norm(x, h + ".ln_1"), h + ".attn.c_attn")
        q, k, v = (part.reshape(T, n_head, C // n_head).transpose(0, 1) for part in qkv.split(C, 1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(T, C)
        x = x + linear(y, h + ".attn.c_proj")
        x = x + linear(F.silu(linear(norm(x, h + ".ln_2"), h + ".mlp.c_fc")), h + ".mlp.c_proj")
    return torch.log_softmax(norm(x, "ln_f") @ w["wte.weight"].T, 1), w


def test_a_model_of_them_gives_what_pytorch_gives(g):
    torch = pytest.importorskip("torch")
    llama(g)
    expected, weights = forward(torch, params(g, "g"), TOKENS)
    inputs = json.dumps({"tokens": [TOKENS]})
    (got,) = g.execute("SELECT llm_eval('g', 'logprobs', %s::jsonb)", [inputs]).fetchone()
    close(got[0], expected, 1e-5)
    loss = -expected[range(len(TOKENS) - 1), TOKENS[1:]].mean()
    loss.backward()
    (run,) = g.execute(
        "SELECT llm_trace('g', %s::int[], %s::int[])", (TOKENS, TOKENS[1:] + [-100])
    ).fetchone()
    (last,) = g.execute("SELECT max(id) FROM llm_tape WHERE run = %s", [run]).fetchone()
    g.execute("SELECT llm_backprop(%s, 'g')", [last])
    g.execute("SELECT llm_accumulate_grads('g')")
    for name, grad in g.execute("SELECT name, grad FROM llm_param WHERE model = 'g'"):
        close(grad, weights[name].grad, 2e-5)
    ops = g.execute("SELECT count(*) FROM llm_tape WHERE run = %s AND op IN ('constant', 'rmsnorm')", [run])
    assert ops.fetchone() == (5,)  # a constant is a leaf of the tape, no operation


def test_decoding_gives_what_full_runs_give(g):
    llama(g)
    text = "the"
    query = "SELECT token FROM llm_generate_stream(%s, 10, 0, model => 'g') ORDER BY step"
    streamed = "".join(token for (token,) in g.execute(query, [text]))
    for _ in range(10):
        text += chr(97 + int(np.argmax(logits(g, "g", ids(text))[-1])))
    assert "the" + streamed == text


CONSTANTS = [  # value, a part of the message
    ('"x"', "must be a number"),
    ("null", "must be a number"),
    ("true", "must be a number"),
    ("[1, [2]]", "equally long"),
    ("[[1, 2], [3]]", "equally long"),
    ("[1, null]", "equally long"),
    ('[1, "2"]', "equally long"),
    ("1e39", "must be a number"),
    ("-1e999", "must be a number"),
    ('{"a": 1}', "nested too deep"),
    ('[{"a": 1}]', "nested too deep"),
    ("[[[[[[[[[1]]]]]]]]]", "nested too deep"),
    (json.dumps([0] * 4097), "4096 numbers"),
    (json.dumps([[0] * 100] * 41), "4096 numbers"),
    (json.dumps([[]] * 5000), "4096 numbers"),
]


@pytest.mark.parametrize("value, words", CONSTANTS)
def test_values_that_are_no_constant_are_refused(g, value, words):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=words):
        g.execute(
            "INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES ('g', 'k', 'constant', '{}', "
            "jsonb_build_object('value', %s::jsonb))",
            [value],
        )


@pytest.mark.parametrize("value", [7, -0.0, 1e-40, 3.4e38, [], [[], []], [[[1.5], [2]]], [[0] * 64] * 64])
def test_constants_are_what_was_written(g, value):
    g.execute(
        "INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES ('g', 'k', 'constant', '{}', %s)",
        [json.dumps({"value": value})],
    )
    (got,) = g.execute("SELECT llm_eval('g', 'k', '{}')").fetchone()
    assert np.array_equal(np.asarray(got), np.asarray(value, np.float32))


def test_a_constant_is_no_parameter(g):
    """It has no row in llm_param, and training does not move it."""
    with g.transaction():
        g.execute(ALL)
        g.execute(
            "INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES "
            "('g', 'half', 'constant', '{}', '{\"value\": 0.5}'), ('g', 'scaled', 'mul', '{h.1,half}', '{}')"
        )
        g.execute("UPDATE llm_graph SET inputs[1] = 'scaled' WHERE model = 'g' AND name = 'ln_f'")
    before = g.execute("SELECT count(*) FROM llm_param WHERE model = 'g'").fetchone()
    g.execute("DELETE FROM llm_dataset WHERE dataset = 'k'")
    g.execute("INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('k', '{1,2,3}', '{2,3,4}')")
    g.execute("SELECT llm_train('g', 20, warmup => 1, lr_max => 0.01, batch_size => 1, dataset => 'k')")
    assert g.execute("SELECT llm_eval('g', 'half', '{}')").fetchone() == (0.5,)
    assert g.execute("SELECT count(*) FROM llm_param WHERE model = 'g'").fetchone() == before
