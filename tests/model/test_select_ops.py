"""Operations that choose, limit and count up elements and rows: values and gradients are PyTorch's."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest
from helpers.tiny_model import ids, make

torch = pytest.importorskip("torch")

SHAPES = [(), (1,), (7,), (3, 5), (0, 4), (2, 3, 129), (65, 1), (2, 70001)]


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * scale, np.float32)


def close(got, expected, tolerance=3e-6):
    expected = expected.detach().numpy() if hasattr(expected, "detach") else np.asarray(expected)
    assert np.shape(got) == expected.shape
    if expected.size:
        assert np.abs(got - expected).max() <= tolerance * max(1, np.abs(expected).max())


def leaf(x: np.ndarray):
    return torch.from_numpy(np.array(x)).double().requires_grad_()


def value(conn, expression: str, **tensors):
    return conn.cursor(binary=True).execute(f"SELECT {expression}", tensors).fetchone()[0]


def gradients(conn, expression: str, **tensors) -> dict[str, np.ndarray]:
    """The gradients that llm_backward finds for a scalar, by the names of its variables."""
    conn.execute("SET pg_llm.autograd = on")
    query = f"SELECT name, grad FROM llm_backward({expression})"
    found = dict(conn.cursor(binary=True).execute(query, tensors).fetchall())
    conn.execute("RESET pg_llm.autograd")
    return found


def check(conn, expression: str, f, tolerance=3e-6, **tensors):
    """An expression of %(name)b equals f of PyTorch's tensors, and so do the gradients of all of them."""
    wide = {name: leaf(x) for name, x in tensors.items()}
    y = f(**wide)
    close(value(conn, expression, **tensors), y, tolerance)
    k = normal(99, *y.shape)
    (y * torch.from_numpy(np.array(k)).double()).sum().backward()
    marked = expression
    for name in tensors:
        marked = marked.replace(f"%({name})b", f"llm_var(%({name})b, '{name}')")
    found = gradients(conn, f"tensor_sum({marked} * %(k_)b)", k_=k, **tensors)
    for name, x in wide.items():
        if name in found:
            close(found[name], x.grad if x.grad is not None else np.zeros(x.shape), tolerance)
    assert set(found) >= {name for name, x in wide.items() if x.grad is not None}


@pytest.mark.parametrize("shape", SHAPES)
def test_elementwise(conn, shape):
    x = normal(1, *shape)
    check(conn, "clamp(%(x)b, -0.5, 0.75)", lambda x: x.clamp(-0.5, 0.75), x=x)
    check(conn, "clamp(%(x)b, max => 0)", lambda x: x.clamp(max=0), x=x)
    check(conn, "abs(%(x)b)", lambda x: x.abs(), x=x)
    check(conn, "stop_gradient(%(x)b) * %(x)b", lambda x: x.detach() * x, x=x)


BROADCAST = [((3, 5), (3, 5), (3, 5)), ((3, 1), (2, 3, 4), (4,)), ((), (5,), (3, 5)), ((0, 3), (3,), (1,))]


@pytest.mark.parametrize("shapes", BROADCAST)
def test_greater_and_where(conn, shapes):
    c, x, y = (normal(i, *shape) for i, shape in enumerate(shapes))
    assert np.array_equal(value(conn, "greater(%(c)b, %(x)b)", c=c, x=x), (c > x).astype(np.float32))
    check(
        conn,
        "tensor_where(greater(%(x)b, %(y)b), %(x)b, %(y)b * 2)",
        lambda x, y: torch.where(x > y, x, y * 2),
        x=x,
        y=y,
    )
    got = value(conn, "tensor_where(greater(%(c)b, '0'), %(x)b, %(y)b)", c=c, x=x, y=y)
    assert np.array_equal(got, np.where(c > 0, x, y))


def test_elements_that_are_not_chosen_leave_no_trace(conn):
    x = np.array([np.nan, np.inf, 3, -0.0], np.float32)
    c = np.array([0, 0, 1, np.nan], np.float32)
    got = value(conn, "tensor_where(%(c)b, %(x)b, tensor '0')", c=c, x=x)
    assert got.tolist() == [0, 0, 3, 0] and np.signbit(got[3])
    found = gradients(
        conn, "tensor_sum(tensor_where(%(c)b, llm_var(%(x)b, 'x'), tensor '0') * %(x)b)", c=c, x=x
    )
    assert found["x"].tolist() == [0, 0, 3, 0]
    assert value(conn, "greater(%(x)b, tensor '0')", x=x).tolist() == [0, 1, 1, 0]
    got = value(conn, "clamp(%(x)b, -1, 1)", x=x)
    assert np.isnan(got[0]) and got[1:].tolist() == [1, 1, 0]


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape])
def test_cumsum(conn, shape):
    x = normal(2, *shape)
    for axis in range(-len(shape), len(shape)):
        check(conn, f"cumsum(%(x)b, {axis})", lambda x, a=axis: x.cumsum(a), tolerance=1e-6, x=x)


# ---- rows by ids ----


@pytest.mark.parametrize(
    "shape, k", [((7,), 1), ((3, 5), 5), ((0, 4), 2), ((2, 3, 129), 17), ((2, 70001), 300)]
)
def test_topk(conn, shape, k):
    x = normal(3, *shape)
    check(conn, f"topk(%(x)b, {k})", lambda x: x.topk(k).values, x=x)
    chosen = torch.from_numpy(x).topk(k).indices.numpy()
    assert np.array_equal(value(conn, f"topk(%(x)b, {k}, 'indices')", x=x), chosen)
    mask = np.zeros(shape)
    np.put_along_axis(mask, chosen, 1, -1)
    assert np.array_equal(value(conn, f"topk(%(x)b, {k}, 'mask')", x=x), mask)


def test_equal_elements_are_chosen_by_index(conn):
    x = np.array([2, np.nan, 5, -np.inf, 5, 2, np.nan], np.float32)
    assert value(conn, "topk(%(x)b, 7, 'indices')", x=x).tolist() == [1, 6, 2, 4, 0, 5, 3]


@pytest.mark.parametrize(
    "ids, shape", [((4,), (3, 5)), ((2, 3), (7,)), ((), (3, 2, 70)), ((0,), (3, 5)), ((999,), (9, 3))]
)
def test_rows_by_id(conn, ids, shape):
    i = np.random.default_rng(4).integers(0, shape[0], ids).astype(np.float32)
    x, y = normal(5, *shape), normal(6, *ids, *shape[1:])
    chosen = torch.from_numpy(i.astype(np.int64))

    def scatter(y):
        zeros = torch.zeros(shape, dtype=torch.float64)
        return zeros.index_add(0, chosen.reshape(-1), y.reshape(-1, *shape[1:]))

    check(conn, f"gather_rows(%(x)b, '{i.tolist()}')", lambda x: x[chosen], x=x)
    check(conn, f"scatter_rows(%(y)b, '{i.tolist()}', {shape[0]})", scatter, y=y)
    hot = torch.nn.functional.one_hot(chosen, shape[0]).numpy()
    assert np.array_equal(value(conn, f"one_hot('{i.tolist()}', {shape[0]})"), hot)


EXPERTS = [  # the shapes of x, ids and w
    ((2, 3, 4), (2, 3, 2), (5, 4, 7)),
    ((2, 3, 2, 4), (2, 3, 2), (5, 4, 7)),
    ((130,), (3,), (4, 130, 33)),
    ((300, 9), (300, 1), (3, 9, 1)),
    ((0, 4), (0, 2), (3, 4, 5)),
]


def experts(x, i, w):
    """What expert_matmul computes, in PyTorch."""
    x = x.unsqueeze(-2) if x.ndim == i.ndim else x
    return (x.unsqueeze(-2) @ w[i]).squeeze(-2)


@pytest.mark.parametrize("shapes", EXPERTS)
def test_expert_matmul(conn, shapes):
    x, w = normal(7, *shapes[0]), normal(8, *shapes[2])
    i = np.random.default_rng(9).integers(0, shapes[2][0], shapes[1])
    ids = f"tensor '{i.tolist()}'" if i.size else f"zeros(ARRAY{list(shapes[1])})"
    chosen = torch.from_numpy(i)
    check(
        conn,
        f"expert_matmul(%(x)b, {ids}, %(w)b)",
        lambda x, w: experts(x, chosen, w),
        tolerance=1e-5,
        x=x,
        w=w,
    )


# ---- losses, random tensors ----


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 129), (65, 1), (2, 70001)])
def test_losses(conn, shape):
    x, y = normal(1, *shape), normal(2, *shape)
    check(conn, "mse(%(x)b, %(y)b)", lambda x, y: torch.nn.functional.mse_loss(x, y), x=x, y=y)
    p = torch.softmax(torch.from_numpy(y), -1).numpy()

    def loss(x, p):
        rows = x.reshape(-1, shape[-1]), p.reshape(-1, shape[-1])
        return torch.nn.functional.cross_entropy(*rows)

    check(conn, "soft_cross_entropy(%(x)b, %(p)b)", loss, tolerance=1e-5, x=x, p=p)


def test_a_distribution_of_one_target_is_that_target(conn):
    x, targets = normal(3, 5, 129), [3, 0, 128, 7, 7]
    soft = "soft_cross_entropy(%(x)b, one_hot(%(t)s::int[]::tensor, 129))"
    hard = "pg_llm_cross_entropy(%(x)b, %(t)s::int[])"
    close(value(conn, soft, x=x, t=targets), value(conn, hard, x=x, t=targets), 1e-6)


def test_random_tensors(conn):
    x = value(conn, "uniform(ARRAY[100, 1000], 7, -2, 3)")
    assert x.min() >= -2 and x.max() < 3 and abs(x.mean() - 0.5) < 0.02 and abs(x.var() - 25 / 12) < 0.02
    assert value(conn, "uniform(ARRAY[70000], 1, 16777215, 16777216)").max() < 16777216
    n = value(conn, "randint(ARRAY[100000], 7, -3, 4)")
    counts = np.unique(n, return_counts=True)
    assert counts[0].tolist() == [-3, -2, -1, 0, 1, 2, 3] and np.ptp(counts[1]) < 1000
    assert np.array_equal(n, value(conn, "randint(ARRAY[100000], 7, -3, 4)"))
    assert not np.array_equal(n, value(conn, "randint(ARRAY[100000], 8, -3, 4)"))


REFUSED = {
    "greater(%(x)b, tensor '[1,2]')": "neither is 1",
    "tensor_where(%(x)b, tensor '[1,2]', tensor '[1,2,3]')": "neither is 1",
    "tensor_where(tensor '[1,2]', %(x)b, tensor '1')": "neither is 1",
    "clamp(%(x)b, 1, 0)": "min must be at most max",
    "clamp(%(x)b, 'NaN')": "min must be at most max",
    "clamp(%(x)b, 1e300)": "float32",
    "cumsum(%(x)b, 1)": "no axis 1",
    "cumsum(tensor '3')": "no axis",
    "mse(%(x)b, tensor '[1,2]')": "y",
    "soft_cross_entropy(%(x)b, tensor '[1,2]')": "probabilities",
    "soft_cross_entropy(tensor '1', tensor '1')": "no vocabulary",
    "uniform(ARRAY[3], 1, 2, 2)": "low must be below high",
    "uniform(ARRAY[3], 1, 0, 'Infinity')": "float32|low must be below high",
    "randint(ARRAY[3], 1, 5, 5)": "low is 5 and high is 5",
    "randint(ARRAY[3], 1, 0, 2000000000)": "whole numbers",
    "topk(%(x)b, 8)": "k is 8, but the last axis has 7 elements",
    "topk(%(x)b, 0)": "k is 0",
    "topk(%(x)b, 1, 'best')": 'no output "best"',
    "topk(tensor '3', 1)": "a scalar has no axis",
    "one_hot(tensor '[0,3]', 3)": "id 3 at place 2 does not exist: there are 3 rows",
    "one_hot(tensor '[0,0.5]', 3)": "id 0.5 at place 2",
    "one_hot(tensor '[NaN]', 3)": "id NaN at place 1",
    "one_hot(tensor '1', 0)": "size is 0",
    "one_hot(tensor '1', 2147483647)": "too large",
    "gather_rows(%(x)b, tensor '-1')": "id -1 at place 1",
    "gather_rows(%(x)b, tensor '1e30')": "at place 1 does not exist",
    "gather_rows(tensor '3', tensor '0')": "a scalar has no rows",
    "scatter_rows(%(x)b, tensor '[0,1]', 5)": r"x \(7\) and ids \(2\) do not fit",
    "scatter_rows(%(x)b, tensor '[0,1,2,3,4,5,6]', 6)": "id 6 at place 7",
    "expert_matmul(%(x)b, tensor '[0]', tensor '[[[1]]]')": "do not fit",
    "expert_matmul(tensor '[1]', tensor '[1]', tensor '[[[1]]]')": "there are 1 rows",
}


@pytest.mark.parametrize("expression", REFUSED)
def test_refused(conn, expression):
    with pytest.raises(psycopg.Error, match=REFUSED[expression]):
        value(conn, expression, x=normal(1, 7))


def test_null_is_null(conn):
    calls = ["greater(NULL, '1')", "tensor_where('1', NULL, '1')", "clamp(NULL, 0, 1)", "cumsum(NULL)"]
    for call in (*calls, "topk('[1]', NULL)", "one_hot(NULL, 3)", "expert_matmul('[1]', NULL, NULL)"):
        assert value(conn, call) is None
    assert value(conn, "clamp('[3,-3]', NULL, NULL)").tolist() == [3, -3]


# ---- in a graph ----

TOKENS = ids("thequickbrown")


@pytest.fixture
def g(conn):
    conn.execute("DELETE FROM llm_model_config WHERE model = 'g'")
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model = 'g'")
    make(conn, "g")
    return conn


def add_nodes(conn, *nodes):
    """Rows of llm_graph: (name, op, inputs, attributes)."""
    with conn.transaction():
        conn.execute("SET CONSTRAINTS llm_graph_fits DEFERRED")
        for name, op, inputs, attrs in nodes:
            conn.execute(
                "INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES ('g', %s, %s, %s, %s)",
                (name, op, inputs, json.dumps(attrs)),
            )


def check_graph(conn, nodes, f, tolerance=3e-6, **tensors):
    """Node y of these nodes over parameters w0, w1, … equals f, and so do the parameters' gradients."""
    leaves = [(name, "param", [], {"shape": list(x.shape)}) for name, x in tensors.items()]
    add_nodes(conn, *leaves, *nodes)
    for name, x in tensors.items():
        conn.cursor().execute(
            "INSERT INTO llm_param (model, name, data) VALUES ('g', %s, %b)", (name, np.array(x))
        )
    wide = {name: leaf(x) for name, x in tensors.items()}
    y = f(**wide)
    close(value(conn, "llm_eval('g', 'y', '{}')"), y, tolerance)
    k = normal(98, *y.shape)
    (y * torch.from_numpy(np.array(k)).double()).sum().backward()
    found = gradients(conn, "tensor_sum(llm_eval('g', 'y', '{}') * %(k)b)", k=k)
    for name, x in wide.items():
        close(found[name], x.grad if x.grad is not None else np.zeros(x.shape), tolerance)


def test_nodes(g):
    check_graph(
        g,
        [
            ("big", "greater", ["u", "v"], {}),
            ("chosen", "where", ["big", "u", "v"], {}),
            ("sums", "cumsum", ["chosen"], {"axis": 0}),
            ("within", "clamp", ["sums"], {"min": -1.5, "max": 2}),
            ("magnitude", "abs", ["within"], {}),
            ("fixed", "stop_gradient", ["v"], {}),
            ("scaled", "mul", ["magnitude", "fixed"], {}),
            ("cubes", "pow", ["scaled"], {"exponent": 3}),
            ("y", "add", ["cubes", "u"], {}),
        ],
        lambda u, v: (torch.where(u > v, u, v).cumsum(0).clamp(-1.5, 2).abs() * v.detach()) ** 3 + u,
        u=normal(1, 5, 7),
        v=normal(2, 7),
    )


@pytest.mark.parametrize("exponent", [0, 1, 2, -1, 0.5, 7, -3, 64, 1.5, -0.7, 65])
def test_powers(g, exponent):
    x = np.abs(normal(3, 5, 129)) * np.float32(0.3) + np.float32(0.8)
    check_graph(
        g,
        [("y", "pow", ["w"], {"exponent": exponent})],
        lambda w: w ** float(np.float32(exponent)),
        tolerance=2e-5 if abs(exponent) > 7 else 3e-6,
        w=x,
    )
    same = value(g, f"llm_eval('g', 'y', '{{}}') = (%(x)b ^ {exponent})", x=x)
    assert same  # the operator's own bits


MIXTURE = [
    ("scores", "matmul", ["x", "gate"], {}),
    ("best", "topk", ["scores"], {"k": 2}),
    ("chosen", "topk", ["scores"], {"k": 2, "output": "indices"}),
    ("shares", "softmax", ["best"], {}),
    ("up", "expert_matmul", ["x", "chosen", "w_up"], {}),
    ("bias", "gather_rows", ["b_up", "chosen"], {}),
    ("hidden", "add", ["up", "bias"], {}),
    ("act", "silu", ["hidden"], {}),
    ("down", "expert_matmul", ["act", "chosen", "w_down"], {}),
    ("weights", "reshape", ["shares"], {"shape": [6, 2, 1]}),
    ("weighted", "mul", ["down", "weights"], {}),
    ("y", "sum", ["weighted"], {"axis": 1}),
]


def test_a_mixture_of_experts(g):
    """The gate's gradient flows through the values of the chosen experts alone."""

    def mixture(x, gate, w_up, b_up, w_down):
        best, chosen = (x @ gate).topk(2)
        act = torch.nn.functional.silu(experts(x, chosen, w_up) + b_up[chosen])
        return (experts(act, chosen, w_down) * best.softmax(-1).unsqueeze(-1)).sum(1)

    shapes = {"x": (6, 9), "gate": (9, 4), "w_up": (4, 9, 13), "b_up": (4, 13), "w_down": (4, 13, 9)}
    tensors = {name: normal(i, *shape, scale=0.5) for i, (name, shape) in enumerate(shapes.items())}
    check_graph(g, MIXTURE, mixture, tolerance=1e-5, **tensors)


def test_rows_in_a_graph(g):
    """Named dimensions as sizes, ids of integers and of floats; the backward pass reads the tape."""
    add_nodes(
        g,
        ("hot", "one_hot", ["tokens"], {"size": "V"}),
        ("same", "matmul", ["hot", "wte.weight"], {}),
        ("row", "constant", [], {"value": [2, 0, 2]}),
        ("three", "gather_rows", ["wte.weight", "row"], {}),
        ("spread", "scatter_rows", ["three", "row"], {"size": "C"}),
        ("all", "mean", ["spread"], {}),
        ("looked", "gather_rows", ["wte.weight", "tokens"], {}),
        ("both", "add", ["same", "looked"], {}),
        ("y", "add", ["both", "all"], {}),
    )
    inputs = json.dumps({"tokens": [TOKENS]})
    table = leaf(np.asarray(g.execute("SELECT data FROM llm_param WHERE name = 'wte.weight'").fetchone()[0]))
    spread = torch.zeros(8, 8, dtype=torch.float64).index_add(0, torch.tensor([2, 0, 2]), table[[2, 0, 2]])
    y = 2 * table[TOKENS] + spread.mean()
    close(value(g, "llm_eval('g', 'y', %(i)s::jsonb)", i=inputs)[0], y)
    k = normal(97, *y.shape)
    (y * torch.from_numpy(k)).sum().backward()
    found = gradients(g, "tensor_sum(llm_eval('g', 'y', %(i)s::jsonb) * %(k)b)", i=inputs, k=k)
    close(found["wte.weight"], table.grad, 1e-5)


def test_decoding_continues_through_them(g):
    """Generation with the cache equals whole forward passes, with such nodes in the residual stream."""
    add_nodes(
        g,
        ("zero", "constant", [], {"value": 0}),
        ("big", "greater", ["embd", "zero"], {}),
        ("chosen", "where", ["big", "embd", "zero"], {}),
        ("sums", "cumsum", ["chosen"], {}),
        ("within", "clamp", ["sums"], {"max": 0.5}),
    )
    g.execute("UPDATE llm_graph SET inputs = '{within}' WHERE model = 'g' AND name = 'drop'")
    query = "SELECT token FROM llm_generate_stream('the', 8, 0, model => 'g') ORDER BY step"
    streamed = "".join(token for (token,) in g.execute(query))
    text = "the"
    for _ in range(8):
        (logits,) = g.execute("SELECT llm_logits(%s::int[], 'g')", [ids(text)]).fetchone()
        text += chr(97 + int(np.argmax(logits[-1])))
    assert "the" + streamed == text


DENOISING = [
    ("clean", "input", [], {"shape": ["B", 3, 4]}),
    ("noise", "normal", [], {"shape": ["B", 3, 4]}),
    ("t", "randint", [], {"shape": ["B"], "high": 5}),
    ("signal", "constant", [], {"value": [[[0.9]], [[0.7]], [[0.5]], [[0.3]], [[0.1]]]}),
    ("level", "gather_rows", ["signal", "t"], {}),
    ("kept", "mul", ["clean", "level"], {}),
    ("noisy", "add", ["kept", "noise"], {}),
    ("predicted", "mul", ["noisy", "w"], {}),
    ("y", "mse", ["predicted", "noise"], {}),
]


def test_a_denoising_loss_is_rows(g):
    """The noise and the steps are drawn inside the graph, by the seed and the nodes' names."""
    add_nodes(g, ("w", "param", [], {"shape": [4]}), *DENOISING)
    w = normal(1, 4)
    g.execute("INSERT INTO llm_param (model, name, data) VALUES ('g', 'w', %b)", [w])
    clean = normal(2, 6, 3, 4)
    inputs = {"i": json.dumps({"clean": clean.tolist()})}

    def node(name):
        return value(g, f"llm_eval('g', '{name}', %(i)s::jsonb)", **inputs)

    noise, t = node("noise"), node("t")
    assert noise.shape == (6, 3, 4) and set(t.tolist()) <= {0, 1, 2, 3, 4} and len(set(t.tolist())) > 1
    weight = leaf(w)
    signal = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64)[t.astype(int)].reshape(6, 1, 1)
    noisy = torch.from_numpy(clean) * signal + torch.from_numpy(noise)
    loss = torch.nn.functional.mse_loss(noisy * weight, torch.from_numpy(noise).double())
    close(node("y"), loss)
    loss.backward()
    close(gradients(g, "llm_eval('g', 'y', %(i)s::jsonb)", **inputs)["w"], weight.grad)
    g.execute("SET pg_llm.seed = 7")
    assert not np.array_equal(noise, node("noise")) and node("y") != loss.item()
    g.execute("RESET pg_llm.seed")
    assert np.array_equal(noise, node("noise"))


def test_a_seed_of_its_own(g):
    """A node's seed gives the numbers of the SQL function with that seed."""
    add_nodes(
        g,
        ("n", "normal", [], {"shape": [7, 129], "seed": "5"}),
        ("u", "uniform", [], {"shape": [7, 129], "seed": "5", "low": -2, "high": 3}),
        ("r", "randint", [], {"shape": [7, 129], "seed": "5", "high": 9}),
    )
    for name, same in {
        "n": "randn(ARRAY[7, 129], 5)",
        "u": "uniform(ARRAY[7, 129], 5, -2, 3)",
        "r": "randint(ARRAY[7, 129], 5, 0, 9)",
    }.items():
        assert value(g, f"llm_eval('g', '{name}', '{{}}') = {same}")
