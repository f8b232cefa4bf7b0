"""A connection that records, and gradients of SQL expressions over named leaves."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.tiny_model import ids, make

TOKENS, TARGETS = ids("thequick"), ids("hequickx")


@pytest.fixture
def on(conn):
    """The connection with recording on and a run of its own."""
    conn.execute("SELECT llm_prune_autograd_state()")
    conn.execute("UPDATE llm_autograd_mode SET flag = true")
    yield conn
    conn.execute("UPDATE llm_autograd_mode SET flag = false")


def leaves(values):
    """A FROM item with one leaf per column; OFFSET 0 keeps the planner from duplicating each at its uses."""
    columns = ", ".join(f"llm_var(%({name})s::tensor, '{name}') AS {name}" for name in values)
    return f"(SELECT {columns} OFFSET 0) AS leaves"


def backward(conn, expression, values, constants=None):
    """name -> gradient of the sum of an expression times the constant `weights`, if given."""
    query = f"SELECT * FROM llm_backward((SELECT {expression} FROM {leaves(values)}))"
    rows = conn.execute(query, {**values, **(constants or {})}).fetchall()
    return {name: np.asarray(grad) for name, grad in rows}


def close(ours, theirs, tolerance=1e-5):
    theirs = np.asarray(theirs.detach() if hasattr(theirs, "detach") else theirs)
    assert ours.shape == theirs.shape
    scale = np.linalg.norm(theirs)
    assert np.linalg.norm(ours.astype(float) - theirs) <= tolerance * max(scale, 1e-6)


def rand(*shape, seed=0, low=-2.0, high=2.0):
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(np.float32)


@pytest.fixture
def m(conn):
    """A small model 'm' of two layers and two heads, and no runs."""
    conn.execute("DELETE FROM llm_param_share; DELETE FROM llm_model_config WHERE model IN ('m', 'n')")
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model IN ('m', 'n')")
    make(conn, "m")
    conn.execute("SELECT llm_prune_autograd_state()")
    return conn


def trace(conn, model="m", tokens=TOKENS, targets=TARGETS):
    query = "SELECT llm_trace(%s, %s::int[], %s::int[])"
    return conn.execute(query, (model, tokens, targets)).fetchone()[0]


def grads(conn, model="m"):
    query = "SELECT name, grad FROM llm_param WHERE model = %s AND grad IS NOT NULL"
    return {name: np.asarray(grad) for name, grad in conn.execute(query, (model,))}


def tensors(conn, run):
    query = "SELECT name, data FROM llm_tensor_rt WHERE run = %s AND data IS NOT NULL"
    return {name: np.asarray(data) for name, data in conn.execute(query, (run,))}
