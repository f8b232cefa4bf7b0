"""Operations on images: values and gradients are PyTorch's, in SQL, on the tape and in a graph."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest

CONVOLUTIONS = [
    # x (B,C,H,W), weight (OC,C/groups,KH,KW), stride, padding, groups
    ((2, 3, 7, 5), (4, 3, 3, 3), 1, 1, 1),
    ((1, 3, 33, 35), (37, 3, 3, 3), 1, 1, 1),
    ((3, 15, 9, 6), (7, 15, 2, 3), 2, 1, 1),
    ((2, 6, 11, 8), (9, 2, 3, 3), 2, 2, 3),
    ((2, 8, 6, 6), (8, 1, 3, 3), 1, 1, 8),
    ((2, 130, 4, 4), (65, 130, 1, 1), 1, 0, 1),
    ((5, 20, 2, 2), (130, 20, 3, 3), 1, 1, 1),
    ((1, 4, 9, 9), (2, 4, 2, 2), 3, 0, 1),
]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), np.float32)


def rows(conn, query: str, *args):
    return conn.cursor(binary=True).execute(query, args)


def close(got, expected, tolerance=3e-6):
    expected = expected.detach().numpy() if hasattr(expected, "detach") else np.asarray(expected)
    assert got.shape == expected.shape
    if expected.size:
        assert np.abs(got - expected).max() <= tolerance * max(1, np.abs(expected).max())


def wide(torch, *arrays):
    return [torch.from_numpy(x).double().requires_grad_() for x in arrays]


def gradients(conn, expression: str, **tensors) -> dict[str, np.ndarray]:
    """Of the expression, a scalar in which :name is a leaf, by the tape."""
    for name in tensors:
        expression = expression.replace(f":{name}", f"llm_var(%({name})b, '{name}')")
    conn.execute("SET pg_llm.autograd = on")
    try:
        query = f"SELECT name, grad FROM llm_backward(tensor_sum({expression}))"
        return dict(conn.cursor(binary=True).execute(query, tensors).fetchall())
    finally:
        conn.execute("RESET pg_llm.autograd")


@pytest.mark.parametrize("x, weight, stride, padding, groups", CONVOLUTIONS)
@pytest.mark.parametrize("biased", [True, False])
def test_conv2d(conn, x, weight, stride, padding, groups, biased):
    torch = pytest.importorskip("torch")
    x, weight, bias = normal(1, *x), normal(2, *weight), normal(3, weight[0])
    leaves = wide(torch, x, weight, bias)
    y = torch.nn.functional.conv2d(
        *leaves[:2], leaves[2] if biased else None, stride=stride, padding=padding, groups=groups
    )
    how = f"{stride}, {padding}, {groups}"
    given = bias if biased else None
    ((got,),) = rows(
        conn, f"SELECT pg_llm_conv2d(%b::tensor, %b::tensor, %b::tensor, {how})", x, weight, given
    )
    close(got, y, 1e-5)
    k = normal(4, *y.shape)
    (y * torch.from_numpy(k)).sum().backward()
    parts = "dx, dweight, dbias"
    (found,) = rows(conn, f"SELECT {parts} FROM pg_llm_conv2d_backward(%b, %b, %b, {how})", x, k, weight)
    expected = [leaf.grad for leaf in leaves[: 2 + biased]]
    for part, gradient in zip(found, expected, strict=biased):
        close(part, gradient, 1e-5)
    form = f"pg_llm_conv2d(:x, :w, {':b' if biased else 'NULL'}, {how}) * %(k)b"
    tensors = {"x": x, "w": weight, "b": bias} if biased else {"x": x, "w": weight}
    form = form.replace("%(k)b", f"'{json.dumps(k.tolist())}'::tensor")
    for name, grad in gradients(conn, form, **tensors).items():
        close(grad, expected["xwb".index(name)], 1e-5)


@pytest.mark.parametrize(
    "shape, groups", [((2, 6, 5, 3), 3), ((3, 4, 70, 1), 1), ((2, 8), 2), ((1, 2, 130, 70), 2)]
)
def test_groupnorm(conn, shape, groups):
    torch = pytest.importorskip("torch")
    C = shape[1]
    x, gamma, beta, k = 3 * normal(1, *shape) + 5, normal(2, C), normal(3, C), normal(4, *shape)
    leaves = wide(torch, x, gamma, beta)
    y = torch.nn.functional.group_norm(leaves[0], groups, *leaves[1:], eps=float(np.float32(1e-3)))
    ((got,),) = rows(conn, f"SELECT pg_llm_groupnorm(%b, %b, %b, {groups}, 1e-3)", x, gamma, beta)
    close(got, y, 5e-6)
    (y * torch.from_numpy(k)).sum().backward()
    call = f"dx, dgamma, dbeta FROM pg_llm_groupnorm_backward(%b, %b, %b, {groups}, 1e-3)"
    (found,) = rows(conn, f"SELECT {call}", x, k, gamma)
    on_tape = gradients(
        conn,
        f"pg_llm_groupnorm(:x, :gamma, :beta, {groups}, 1e-3) * '{json.dumps(k.tolist())}'::tensor",
        x=x,
        gamma=gamma,
        beta=beta,
    )
    for part, leaf, name in zip(found, leaves, ("x", "gamma", "beta"), strict=True):
        close(part, leaf.grad, 2e-5)
        close(on_tape[name], leaf.grad, 2e-5)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_upsample_and_avgpool(conn, factor):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    x = normal(1, 2, 3, 7, 5)
    for name, f in (
        ("upsample", lambda x: F.interpolate(x, scale_factor=factor, mode="nearest")),
        ("avgpool", lambda x: F.avg_pool2d(x, factor)),
    ):
        (leaf,) = wide(torch, x)
        y = f(leaf)
        ((got,),) = rows(conn, f"SELECT pg_llm_{name}(%b, {factor})", x)
        close(got, y)
        (y * y).sum().backward()
        call = f"pg_llm_{name}(:x, {factor})"
        close(gradients(conn, f"{call} * {call}", x=x)["x"], leaf.grad)


def test_slices_with_steps(conn):
    x = normal(1, 5, 7, 9)
    for starts, stops, steps in (
        ([0, 1], [5, 7], [2, 3]),
        ([1, 0, -8], [5, 7, -1], [1, 7, 2]),
        ([4], [5], [100]),
        ([3], [3], [2]),
    ):
        part = tuple(slice(*each) for each in zip(starts, stops, steps, strict=True))
        call = f"slice(%b, ARRAY{starts}, ARRAY{stops}, ARRAY{steps})"
        ((got,),) = rows(conn, f"SELECT {call}", x)
        np.testing.assert_array_equal(got, x[part])
        grad = gradients(conn, call.replace("%b", ":x"), x=x)["x"]
        expected = np.zeros_like(x)
        expected[part] = 1
        np.testing.assert_array_equal(grad, expected)


def test_refusals(conn):
    """What does not fit is named; NULL gives NULL, and no images give none."""
    image, weight = "zeros(ARRAY[1,4,5,5])", "zeros(ARRAY[2,4,3,3])"
    for expression, says in (
        (f"pg_llm_conv2d({image}, zeros(ARRAY[2,3,3,3]))", "the channels differ"),
        (f"pg_llm_conv2d({image}, zeros(ARRAY[2,4]))", "four dimensions"),
        (f"pg_llm_conv2d({image}, {weight}, zeros(ARRAY[3]))", r"requires \(2\)"),
        (f"pg_llm_conv2d({image}, {weight}, groups => 3)", "groups do not divide"),
        (f"pg_llm_conv2d({image}, {weight}, stride => 0)", "stride 0"),
        (f"pg_llm_conv2d({image}, {weight}, padding => -1)", "padding -1"),
        (f"pg_llm_conv2d({image}, {weight}, padding => 2147483647)", "from 0 to 65536"),
        (f"pg_llm_conv2d({image}, zeros(ARRAY[2,4,6,3]))", "must fit into the padded image"),
        (f"(pg_llm_conv2d_backward({image}, {image}, {weight})).dx", "dy has shape"),
        (f"pg_llm_groupnorm({image}, zeros(ARRAY[4]), zeros(ARRAY[4]), 3)", "groups do not divide"),
        (f"pg_llm_groupnorm({image}, zeros(ARRAY[4]), zeros(ARRAY[5]), 2)", r"beta \(5\)"),
        (f"pg_llm_groupnorm({image}, zeros(ARRAY[4]), zeros(ARRAY[4]), 0)", "0 groups"),
        (f"pg_llm_upsample({image}, 0)", "at least 1"),
        (f"pg_llm_upsample({image}, 2147483647)", "does not fit"),
        (f"pg_llm_avgpool({image}, 6)", "does not fit"),
        ("pg_llm_avgpool(zeros(ARRAY[3]))", "height and a width"),
        (f"slice({image}, ARRAY[0], ARRAY[1], ARRAY[0])", "at least 1, not 0"),
        (f"slice({image}, ARRAY[0], ARRAY[1], ARRAY[1,1])", "1 starts but 2 steps"),
    ):
        with pytest.raises(psycopg.Error, match=says):
            conn.execute(f"SELECT {expression}")
    conn.execute(
        "CREATE TEMP TABLE declared (x tensor(1,4,5,5), w tensor(2,4,3,3), v tensor(2,3,3,3), u tensor(7))"
    )
    conn.execute(
        "EXPLAIN SELECT pg_llm_conv2d(x, w, NULL, 2, 1) + pg_llm_conv2d(x, w, stride => 2, padding => 1) "
        "FROM declared"
    )
    for bad in ("pg_llm_conv2d(x, v)", "pg_llm_conv2d(x, w, NULL, 2, 1) + u", "pg_llm_groupnorm(x, u, u, 2)"):
        with pytest.raises(psycopg.errors.ArraySubscriptError):
            conn.execute(f"EXPLAIN SELECT {bad} FROM declared")
    conn.execute("DROP TABLE declared")
    assert conn.execute(f"SELECT pg_llm_conv2d(NULL, {weight}), pg_llm_upsample(NULL)").fetchone() == (
        None,
        None,
    )
    empty = conn.execute(
        "SELECT shape(pg_llm_conv2d(zeros(ARRAY[0,4,5,5]), zeros(ARRAY[2,4,3,3])))"
    ).fetchone()
    assert empty == ([0, 2, 3, 3],)
