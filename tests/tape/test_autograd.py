"""Gradients of SQL expressions over tensors, against PyTorch, and how values stay on the tape."""

import math

import numpy as np
import psycopg
import pytest
from helpers.recording import backward, close, leaves, on, rand

__all__ = ["on"]  # a fixture

torch = pytest.importorskip("torch")
F = torch.nn.functional


A, B, ROW, POSITIVE = rand(3, 4), rand(3, 4, seed=1), rand(4, seed=2), rand(3, 4, seed=3, low=0.5)
CUBE = rand(2, 3, 4)

EXPRESSIONS = {
    "scalar": ("x * x + 3 * x - x / 2", {"x": rand()}, lambda x: x * x + 3 * x - x / 2),
    "numbers": (
        "(2 - a) * (a + 1.5) / (a - 7) + 3 / a",
        {"a": POSITIVE},
        lambda a: (2 - a) * (a + 1.5) / (a - 7) + 3 / a,
    ),
    "broadcast": (
        "a * row + row - a / p",
        {"a": A, "row": ROW, "p": POSITIVE[:, :1]},
        lambda a, row, p: a * row + row - a / p,
    ),
    "unary": (
        "exp(-a) + tanh(a) * relu(a)",
        {"a": A},
        lambda a: torch.exp(-a) + torch.tanh(a) * torch.relu(a),
    ),
    "roots": ("log(p) * sqrt(p)", {"p": POSITIVE}, lambda p: torch.log(p) * torch.sqrt(p)),
    "matmul": ("a @ transpose(b)", {"a": A, "b": B}, lambda a, b: a @ b.T),
    "row times matrix": ("row @ transpose(a)", {"a": A, "row": ROW}, lambda a, row: row @ a.T),
    "matrix times column": ("a @ row", {"a": A, "row": ROW}, lambda a, row: a @ row),
    "dot": ("row @ col", {"row": ROW, "col": rand(4, seed=8)}, lambda row, col: row @ col),
    "batched": ("cube @ m", {"cube": CUBE, "m": rand(2, 4, 5)}, lambda cube, m: cube @ m),
    "batches broadcast": ("x @ y", {"x": rand(2, 1, 3, 4), "y": rand(5, 4, 2)}, lambda x, y: x @ y),
    "sum": ("tensor_sum(a * a) * tensor_sum(a)", {"a": A}, lambda a: (a * a).sum() * a.sum()),
    "sum of an axis": ("tensor_sum(cube * cube, 1)", {"cube": CUBE}, lambda cube: (cube * cube).sum(1)),
    "mean": ("mean(a * a, -1) + mean(a)", {"a": A}, lambda a: (a * a).mean(-1) + a.mean()),
    "var": ("var(a, 0) * var(a)", {"a": A}, lambda a: a.var(0, correction=0) * a.var(correction=0)),
    "norm": ("norm(a, 1) * norm(a)", {"a": A}, lambda a: a.norm(dim=1) * a.norm()),
    "extremes": (
        "tensor_max(a, 0) - tensor_min(a) * tensor_min(a, -1) * tensor_max(a)",
        {"a": rand(4, 4)},
        lambda a: a.amax(0) - a.min() * a.amin(-1) * a.max(),
    ),
    "reshape": ("reshape(a, ARRAY[2, -1]) * c", {"a": A, "c": rand(6)}, lambda a, c: a.reshape(2, -1) * c),
    "transpose": (
        "transpose(cube, ARRAY[2, 0, 1]) * c",
        {"cube": CUBE, "c": rand(4, 2, 3)},
        lambda cube, c: cube.permute(2, 0, 1) * c,
    ),
    "rows": ("slice(a, 1, 3) * slice(a, -2) * slice(a, 0, 2)", {"a": A}, lambda a: a[1:3] * a[-2:] * a[:2]),
    "slice": (
        "slice(cube, ARRAY[0, -2], ARRAY[1, 3]) * slice(cube, ARRAY[1, 0], ARRAY[2, 2])",
        {"cube": CUBE},
        lambda cube: cube[0:1, -2:3] * cube[1:2, 0:2],
    ),
    "concat": (
        "concat(ARRAY[a, b, a * b], 1) * concat(ARRAY[b, a, b], -1)",
        {"a": A, "b": B},
        lambda a, b: torch.cat([a, b, a * b], 1) * torch.cat([b, a, b], -1),
    ),
    "concat of rows": (
        "concat(ARRAY[a, a]) @ row",
        {"a": A, "row": ROW},
        lambda a, row: torch.cat([a, a]) @ row,
    ),
    "gelu": (
        "pg_llm_gelu(a) * pg_llm_gelu(a, true)",
        {"a": A},
        lambda a: F.gelu(a, approximate="tanh") * F.gelu(a),
    ),
    "softmax": (
        "pg_llm_softmax(a) * pg_llm_softmax(b, 0)",
        {"a": A, "b": B},
        lambda a, b: torch.softmax(a, -1) * torch.softmax(b, 0),
    ),
    "layernorm": (
        "pg_llm_layernorm(cube, g, b, 0.01)",
        {"cube": CUBE, "g": ROW, "b": rand(4, seed=5)},
        lambda cube, g, b: F.layer_norm(cube, (4,), g, b, 0.01),
    ),
    "cross entropy": (
        "pg_llm_cross_entropy(a, ARRAY[1, -100, 3])",
        {"a": A},
        lambda a: F.cross_entropy(a, torch.tensor([1, -100, 3])),
    ),
    "cross entropy of a row": (
        "pg_llm_cross_entropy(row, 2)",
        {"row": ROW},
        lambda row: F.cross_entropy(row, torch.tensor(2)),
    ),
    "embedding": (
        "pg_llm_embedding(ARRAY[[2, 0], [2, 1]], a) * c",
        {"a": A, "c": rand(2, 2, 4)},
        lambda a, c: a[torch.tensor([[2, 0], [2, 1]])] * c,
    ),
    "kernels by name": (
        "pg_llm_add(pg_llm_matmul(a, pg_llm_transpose(b)), row)",
        {"a": A, "b": B, "row": rand(3)},
        lambda a, b, row: a @ b.T + row,
    ),
}


@pytest.mark.parametrize("case", EXPRESSIONS)
def test_gradients_of_operators_equal_pytorch(on, case):
    """Every operator, reduction, shape operation and kernel, weighted so that no gradient is all ones."""
    expression, values, function = EXPRESSIONS[case]
    tensors = {name: torch.tensor(v, requires_grad=True) for name, v in values.items()}
    out = function(**tensors)
    weights = rand(*out.shape, seed=77)
    (out * torch.tensor(weights)).sum().backward()
    plain = on.execute(
        f"SELECT {expression} FROM (SELECT "
        + ", ".join(f"%({name})s::tensor AS {name}" for name in values)
        + ") AS s",
        values,
    ).fetchone()[0]
    close(np.asarray(plain), out)
    ours = backward(on, f"tensor_sum(({expression}) * %(weights)s::tensor)", values, {"weights": weights})
    assert set(ours) == set(values)
    for name, tensor in tensors.items():
        close(ours[name], tensor.grad)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6)], ids=str)
def test_attention_layer(on, shape, causal):
    """pg_llm_attention is recorded step by step; its value has the bits of the fused layer."""
    values = {
        "x": rand(*shape),
        "w": rand(6, 18),
        "b": rand(18),
        "wo": rand(6, 6, seed=4),
        "bo": rand(6, seed=4),
    }
    call = f"pg_llm_attention(x, w, b, wo, bo, 3, {causal})"
    tensors = {name: torch.tensor(v, requires_grad=True) for name, v in values.items()}
    x = tensors["x"].reshape(-1, 5, 6)
    q, k, v = (x @ tensors["w"] + tensors["b"]).reshape(-1, 5, 3, 3, 2).permute(2, 0, 3, 1, 4)
    heads = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).reshape(x.shape)
    out = (heads @ tensors["wo"] + tensors["bo"]).reshape(shape)
    weights = rand(*shape, seed=9)
    (out * torch.tensor(weights)).sum().backward()
    given = ", ".join(f"%({name})s::tensor AS {name}" for name in values)
    recorded = on.execute(f"SELECT ({call})::bytea FROM (SELECT {given}) AS s", values).fetchone()
    on.execute("SET pg_llm.autograd = off")
    assert on.execute(f"SELECT ({call})::bytea FROM (SELECT {given}) AS s", values).fetchone() == recorded
    on.execute("SET pg_llm.autograd = on")
    ours = backward(on, f"tensor_sum({call} * %(weights)s::tensor)", values, {"weights": weights})
    for name, tensor in tensors.items():
        close(ours[name], tensor.grad)
    names = on.execute(
        "SELECT r.name FROM llm_tape t JOIN llm_tensor_rt r ON r.id = ANY (t.outputs) "
        "WHERE t.run = (SELECT max(run) FROM llm_run) AND op = 'attention' "
        "ORDER BY r.id"
    )
    shown = ["scores", "probs", "head.0", "head.1", "head.2"]
    assert [name for (name,) in names] == [None, *(f"attention.{name}" for name in shown)]


def test_dropout_drops_the_same_elements_on_the_way_back(on):
    values = {"a": rand(40, 50)}
    out = on.execute("SELECT pg_llm_dropout(%(a)s::tensor, 0.25, true, 11)", values).fetchone()[0]
    ours = backward(on, "tensor_sum(pg_llm_dropout(a, 0.25, true, 11))", values)["a"]
    assert np.array_equal(ours != 0, np.asarray(out) != 0) and 0.7 < (ours != 0).mean() < 0.8
    close(ours[ours != 0], np.full((ours != 0).sum(), 1 / 0.75, np.float32))
    assert (backward(on, "tensor_sum(pg_llm_dropout(a, 0.25, false) * 2)", values)["a"] == 2).all()
    # without a seed, random() provides one, which the tape records
    two = "tensor_sum(pg_llm_dropout(a, 0.5)) + tensor_sum(pg_llm_dropout(a, 0.5))"
    assert {0.0, 2.0, 4.0} == set(np.unique(backward(on, two, values)["a"]).tolist())


def test_aggregates(on):
    """sum, avg and stack over rows and over windows; NULL rows are skipped."""
    values = {"a": rand(2, 3), "b": rand(2, 3, seed=1), "c": rand(2, 3, seed=2)}
    a, b, c = (torch.tensor(v, requires_grad=True) for v in values.values())
    rows = "(VALUES (1, a * b), (2, b), (3, NULL), (4, c * c)) AS rows(i, t)"
    cases = {
        f"(SELECT sum(t ORDER BY i) FROM {rows})": a * b + b + c * c,
        f"(SELECT avg(t ORDER BY i) FROM {rows})": (a * b + b + c * c) / 3,
        f"(SELECT stack(t ORDER BY i) FROM {rows})": torch.stack([a * b, b, c * c]),
        f"(SELECT stack(s) FROM (SELECT sum(t) OVER (ORDER BY i) AS s FROM {rows}) AS w)": torch.stack(
            [a * b, a * b + b, a * b + b, a * b + b + c * c]
        ),
    }
    for expression, out in cases.items():
        for tensor in (a, b, c):
            tensor.grad = None
        (out**3).sum().backward()
        ours = backward(
            on, f"tensor_sum((SELECT s * s * s FROM (SELECT {expression} AS s OFFSET 0) AS t))", values
        )
        for name, tensor in zip("abc", (a, b, c), strict=True):
            close(ours[name], tensor.grad)


# ---- models written in SQL ----


def test_a_regression_learns(on):
    """Gradient descent by hand: a weight read twice, updated from llm_backward, reaches the answer."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 3)).astype(np.float32)
    truth = np.array([[1.5], [-2.0], [0.5]], np.float32)
    on.execute("CREATE TEMP TABLE reg AS SELECT %s::tensor AS x, %s::tensor AS y", (x, x @ truth))
    on.execute("CREATE TEMP TABLE weight AS SELECT zeros(ARRAY[3, 1]) AS w")
    step = """
        UPDATE weight SET w = w - 0.1 * g.grad FROM (
            SELECT b.grad FROM llm_backward((
                SELECT mean(((x @ llm_var(w, 'w')) - y) * ((x @ llm_var(w, 'w')) - y)) FROM reg, weight
            )) AS b) AS g"""
    w = torch.zeros(3, 1, requires_grad=True)
    for _ in range(60):
        on.execute(step)
        loss = ((torch.tensor(x) @ w - torch.tensor(x @ truth)) ** 2).mean()
        (grad,) = torch.autograd.grad(loss, w)
        w = (w - 0.1 * grad).detach().requires_grad_()
    ours = np.asarray(on.execute("SELECT w FROM weight").fetchone()[0])
    close(ours, w, 1e-4)
    assert np.abs(ours - truth).max() < 0.01
    on.execute("DROP TABLE reg, weight")


def test_an_mlp(on):
    values = {"w1": rand(5, 16), "b1": rand(16), "w2": rand(16, 3, seed=4), "b2": rand(3)}
    x, targets = rand(7, 5, seed=6), [0, 2, 1, 1, 0, 2, -100]
    tensors = {name: torch.tensor(v, requires_grad=True) for name, v in values.items()}
    hidden = torch.tanh(torch.tensor(x) @ tensors["w1"] + tensors["b1"])
    F.cross_entropy(hidden @ tensors["w2"] + tensors["b2"], torch.tensor(targets)).backward()
    expression = (
        "pg_llm_cross_entropy((tanh((%(x)s::tensor @ w1) + b1) @ w2) + b2, ARRAY[0, 2, 1, 1, 0, 2, -100])"
    )
    ours = backward(on, expression, values, {"x": x})
    for name, tensor in tensors.items():
        close(ours[name], tensor.grad)


def test_attention_written_by_hand(on):
    """Scores, a mask, softmax and the weighted values, in CTEs; one weight for both queries and keys."""
    T, C = 6, 8
    values = {"x": rand(T, C), "wqk": rand(C, C, seed=1, low=-0.5, high=0.5), "wv": rand(C, C, seed=2)}
    mask = np.triu(np.full((T, T), -1e9, np.float32), 1)
    x, wqk, wv = (torch.tensor(v, requires_grad=True) for v in values.values())
    scores = (x @ wqk) @ (x @ wqk).T / math.sqrt(C) + torch.tensor(mask)
    out = torch.softmax(scores, -1) @ (x @ wv)
    (out * out).mean().backward()
    query = f"""
        WITH q AS MATERIALIZED (SELECT x, x @ wqk AS qk, x @ wv AS v FROM {leaves(values)}),
        scores AS MATERIALIZED (
            SELECT v, ((qk @ transpose(qk)) / sqrt(%(C)s)) + %(mask)s::tensor AS s FROM q),
        mixed AS MATERIALIZED (SELECT pg_llm_softmax(s) @ v AS o FROM scores ORDER BY s)
        SELECT * FROM llm_backward((SELECT mean(o * o) FROM mixed))"""
    ours = {name: np.asarray(g) for name, g in on.execute(query, {**values, "C": C, "mask": mask})}
    for name, tensor in {"x": x, "wqk": wqk, "wv": wv}.items():
        close(ours[name], tensor.grad)


def test_double_precision_agrees(on):
    """Compared with a numeric derivative in float64 of a function that uses everything."""
    a, h = rand(3, 3).astype(float), 1e-6

    def f(a):
        s = np.exp(a - a.max(-1, keepdims=True))
        s = s / s.sum(-1, keepdims=True)
        return (np.tanh(s @ a) * a).sum() / math.sqrt((a * a).sum())

    ours = backward(on, "tensor_sum(tanh(pg_llm_softmax(a) @ a) * a) / norm(a)", {"a": a.astype(np.float32)})[
        "a"
    ]
    for i in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[i] = h
        assert ours[i] == pytest.approx((f(a + step) - f(a - step)) / (2 * h), rel=1e-3, abs=1e-4)


# ---- values stay on the tape ----


def test_values_survive_tables_variables_and_sorts(on):
    """A recorded value can be stored, sorted, kept in a variable, and still depends on its leaf."""
    on.execute("CREATE TABLE kept AS SELECT llm_var('[1,2,3]', 'k') * 2 AS t")
    both = "SELECT t FROM kept UNION ALL SELECT t * t FROM kept"
    on.execute(f"CREATE TEMP TABLE again AS SELECT t FROM ({both}) AS s ORDER BY t DESC")
    on.execute(
        "CREATE FUNCTION pg_temp.gradient() RETURNS tensor LANGUAGE plpgsql AS $$"
        " DECLARE v tensor; w tensor; g tensor;"
        " BEGIN SELECT sum(t) INTO v FROM again; w := v * 1;"
        " SELECT grad INTO g FROM llm_backward(tensor_sum(w)); RETURN g; END $$"
    )
    grad = on.execute("SELECT pg_temp.gradient()").fetchone()[0]  # of 2k + 4k²
    assert np.asarray(grad).tolist() == [10, 18, 26]
    on.execute("DROP TABLE kept; DROP TABLE again")


def test_a_loss_kept_after_switching_off_still_has_its_gradients(on):
    on.execute("CREATE TEMP TABLE loss AS SELECT tensor_sum(llm_var('[3,4]', 'w') * 5) AS l")
    on.execute("DELETE FROM llm_autograd_mode")
    assert on.execute("SELECT flag, llm_open_run() FROM llm_autograd_mode").fetchone() == (False, None)
    rows = on.execute("SELECT name, grad::text FROM llm_backward((SELECT l FROM loss))").fetchall()
    assert rows == [("w", "[5,5]")]
    assert on.execute("SELECT name, grad::text FROM llm_backward((SELECT l FROM loss))").fetchall() == rows
    on.execute("DROP TABLE loss")


def test_unmarked_and_old_values_are_constants(on):
    """A value unknown to the open run is a constant, also one of a closed run; it has no gradient."""
    on.execute("CREATE TEMP TABLE old AS SELECT llm_var('[1,2]', 'old') * 3 AS t")
    on.execute("UPDATE llm_autograd_mode SET flag = false")
    on.execute("UPDATE llm_autograd_mode SET flag = true")
    query = (
        "SELECT name, grad::text FROM llm_backward((SELECT tensor_sum(t * llm_var('[5,7]', 'new')) FROM old))"
    )
    assert on.execute(query).fetchall() == [("new", "[3,6]")]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="no leaf leads to tensor") as error:
        on.execute("SELECT * FROM llm_backward((SELECT tensor_sum(t) FROM old))")
    assert "llm_var(w, 'w')" in error.value.diag.message_hint
    on.execute("DROP TABLE old")


def test_the_same_name_is_the_same_leaf(on):
    assert backward(on, "tensor_sum(llm_var(a, 'a') * a * llm_var(a * 1, 'a'))", {"a": rand(2)})["a"] == (
        pytest.approx(3 * rand(2) ** 2)
    )
    with pytest.raises(
        psycopg.errors.ObjectNotInPrerequisiteState, match='leaf "a" .* has another value'
    ) as error:
        on.execute("SELECT llm_var('[1,2]', 'a') + llm_var('[1,3]', 'a')")
    assert "llm_backward ends a run" in error.value.diag.message_hint
    with pytest.raises(
        psycopg.errors.ObjectNotInPrerequisiteState, match=r"shape \(2\) there, shape \(1,2\)"
    ):
        on.execute("SELECT llm_var('[1,2]', 'a') + llm_var('[[1,2]]', 'a')")
    # a backward pass closes the run: the next one may have another value under the name
    for value in ("[1,2]", "[4,5]"):
        grads = on.execute(f"SELECT grad::text FROM llm_backward(tensor_sum(llm_var('{value}', 'a') * 2))")
        assert grads.fetchall() == [("[2,2]",)]
    # bits count: NaN is NaN, but 0 is not -0
    on.execute("SELECT llm_var('nan', 'n') + llm_var('nan', 'n')")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        on.execute("SELECT llm_var('0', 'z') + llm_var('-0', 'z')")


def test_the_tape_of_a_small_expression(on):
    """x * x + 3: ids, inputs, attributes and values as rows."""
    on.execute("SELECT llm_var('4', 'x') * llm_var('4', 'x') + 3, mean(llm_var('[1,2]', 'v'), 0)")
    run = on.execute("SELECT run FROM llm_run WHERE open AND pid = pg_backend_pid()").fetchone()[0]
    assert on.execute("SELECT llm_open_run()").fetchone()[0] == run
    base = run * 1000000
    tape = on.execute(
        "SELECT id - %s, op, node, (SELECT array_agg(i - %s) FROM unnest(inputs) i), "
        "(SELECT array_agg(i - %s) FROM unnest(outputs) i), extra -> 'attrs' FROM llm_tape "
        "WHERE run = %s ORDER BY id",
        (base, base, base, run),
    ).fetchall()
    assert tape == [
        (2, "mul", None, [1, 1], [2], None),
        (4, "add", None, [2, 3], [4], None),
        (6, "mean", None, [5], [6], {"axis": 0}),
    ]
    tensors = on.execute(
        "SELECT id - %s, name, shape, data::text, grad, requires_grad FROM llm_tensor_rt "
        "WHERE run = %s ORDER BY id",
        (base, run),
    ).fetchall()
    assert tensors == [
        (1, "x", [], "4", None, True),
        (2, None, [], "16", None, True),
        (3, None, [], "3", None, False),
        (4, None, [], "19", None, True),
        (5, "v", [2], "[1,2]", None, True),
        (6, None, [], "1.5", None, True),
    ]
    named = on.execute(
        "SELECT op, name, inputs FROM llm_tape_named WHERE run = %s ORDER BY id", (run,)
    ).fetchall()
    assert named == [
        ("mul", "mul 2", ["x", "x"]),
        ("add", "add 4", ["mul 2", "3"]),
        ("mean", "mean 6", ["v"]),
    ]
    # rows of the tape can be used in computations: they contain their ids
    query = "SELECT grad::text FROM llm_backward((SELECT data * 2 FROM llm_tensor_rt WHERE id = %s))"
    grad = on.execute(query, (base + 4,)).fetchone()[0]
    assert grad == "16"
    grads = on.execute(
        "SELECT id - %s, grad::text FROM llm_tensor_rt WHERE run = %s AND grad IS NOT NULL ORDER BY id",
        (base, run),
    ).fetchall()
    assert grads == [(1, "16"), (2, "2"), (4, "2"), (8, "1")]


def test_a_run_that_no_backward_pass_ended(on):
    """Its name with another value is an error once, which ends the run; a statement run again works."""
    maps = "pg_llm_autograd_map_param('mine', 'h.0.ln_1.bias', NULL, '%s')"
    on.execute("SELECT llm_create_model('mine', 1, 1, 2, 4, 4), llm_init_model('mine')")
    for leaf, name in (("llm_var('%s', 'x')", "x"), (maps, "h.0.ln_1.bias")):
        on.execute(f"SELECT {leaf % '[1,2]'} * 2")
        again = f"SELECT tensor_sum({leaf % '[5,6]'} * 2)"
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=f'leaf "{name}"') as error:
            on.execute(again)
        assert "run the statement again" in error.value.diag.message_hint
        assert on.execute(again).fetchone() == (22,)
        on.execute("UPDATE llm_autograd_mode SET flag = false; UPDATE llm_autograd_mode SET flag = true")
    on.execute("SELECT llm_var('[1]', 'x') * 2")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match='leaf "x"'):
        on.execute("SELECT llm_var('[7]', 'x') * 2")
    grads = on.execute("SELECT grad::text FROM llm_backward(tensor_sum(llm_var('[7]', 'x') * 3))")
    assert grads.fetchall() == [("[3]",)]
    on.execute("DELETE FROM llm_model_config WHERE model = 'mine'")
