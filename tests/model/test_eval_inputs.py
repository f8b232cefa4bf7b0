"""llm_eval with any node as an input: activation patching, the logit lens, tensors beside JSON."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from helpers.tiny_model import attention, gelu, layernorm, logits, make, params

CLEAN, OTHER = [1, 2, 3, 4], [5, 2, 9, 4]


@pytest.fixture(scope="module")
def m(database):
    import pg_llm

    with pg_llm.connect(database) as conn:
        make(conn, "m", n_layer=3)
        yield conn


def run(conn, node, tokens=None, **given):
    """A node's value; given nodes as tensors, tokens as JSON."""
    inputs = None if tokens is None else f'{{"tokens": {tokens}}}'
    names = [name.replace("__", ".") for name in given]
    query = "SELECT llm_eval('m', %s, %s::jsonb, %s::text[], %s::tensor[])"
    return conn.execute(query, [node, inputs, names, list(given.values())]).fetchone()[0]


def test_a_node_put_back_changes_nothing(m):
    """Every node that another run computed, given to a run of the same tokens, gives the same bits."""
    expected = run(m, "logits", CLEAN)
    names = m.execute("SELECT name FROM llm_graph WHERE model = 'm' AND op <> 'input' AND name <> 'loss'")
    for (name,) in names.fetchall():
        same = run(m, "logits", CLEAN, **{name: run(m, name, CLEAN)})
        assert np.array_equal(same.view("u4"), expected.view("u4")), name


def test_patching_a_block_is_the_other_run_from_there_on(m):
    """The residual stream carries all: patched as a whole, later logits are those of the other sequence."""
    patch = run(m, "h.0", OTHER)
    assert np.array_equal(run(m, "logits", CLEAN, h__0=patch), run(m, "logits", OTHER))
    alone = run(m, "logits", h__0=patch)  # nothing else is read: no tokens are needed
    assert np.array_equal(alone, run(m, "logits", OTHER))
    assert np.array_equal(run(m, "logits", h__0=patch[0])[0], alone[0])  # (T,C) is a batch of one


def test_patching_one_position(m):
    """Earlier positions keep their logits; the change is that of float64 NumPy."""
    mixed = run(m, "h.1", CLEAN).copy()
    mixed[0, 2] = run(m, "h.1", OTHER)[0, 2]
    got = run(m, "logits", CLEAN, h__1=mixed)[0]
    clean = run(m, "logits", CLEAN)[0]
    assert np.array_equal(got[:2], clean[:2]) and not np.allclose(got[2:], clean[2:])
    w, x = params(m, "m"), mixed[0].astype(float)
    x = x + attention(layernorm(x, w, "h.2.ln_1"), w, "h.2", 2)
    inner = gelu(layernorm(x, w, "h.2.ln_2") @ w["h.2.mlp.c_fc.weight"] + w["h.2.mlp.c_fc.bias"])
    x = x + inner @ w["h.2.mlp.c_proj.weight"] + w["h.2.mlp.c_proj.bias"]
    np.testing.assert_allclose(got, layernorm(x, w, "ln_f") @ w["wte.weight"].T, rtol=1e-3, atol=1e-4)


def test_logit_lens(m):
    """Each layer's stream through the final norm and head; the last is the model's output."""
    w = params(m, "m")
    for layer in range(3):
        stream = run(m, f"h.{layer}", CLEAN)
        (lens,) = m.execute(
            "SELECT llm_eval('m', 'logits', jsonb_build_object('h.2', llm_eval('m', %s, %s)))",
            [f"h.{layer}", f'{{"tokens": {CLEAN}}}'],
        ).fetchone()
        assert np.array_equal(lens, run(m, "logits", h__2=stream)), layer
        expected = layernorm(stream[0].astype(float), w, "ln_f") @ w["wte.weight"].T
        np.testing.assert_allclose(lens[0], expected, rtol=1e-4, atol=1e-4)
    assert np.array_equal(lens[0], logits(m, "m", CLEAN))


def test_a_weight_may_be_given(m):
    """A head that is silenced for one run: the rows are as they were."""
    before = m.execute("SELECT md5(string_agg(md5(data::bytea), '' ORDER BY name)) FROM llm_param").fetchone()
    zeros = np.zeros((8, 8), "f4")
    got = run(m, "h.0.attn.c_proj", CLEAN, **{"h.0.attn.c_proj.weight": zeros})
    bias = params(m, "m")["h.0.attn.c_proj.bias"]
    np.testing.assert_array_equal(got[0], np.broadcast_to(bias.astype("f4"), (4, 8)))
    wte = params(m, "m")["wte.weight"].astype("f4")
    assert np.array_equal(run(m, "logits", CLEAN, **{"wte.weight": wte}), run(m, "logits", CLEAN))
    after = m.execute("SELECT md5(string_agg(md5(data::bytea), '' ORDER BY name)) FROM llm_param").fetchone()
    assert before == after


def test_it_is_recorded_with_the_value_given(m):
    with m.transaction(force_rollback=True):
        m.execute("UPDATE llm_autograd_mode SET flag = true")
        recorded = run(m, "logits", h__1=np.ones((1, 2, 8), "f4"))
        ops = m.execute("SELECT node FROM llm_tape WHERE run = llm_open_run() AND node LIKE 'h.%'").fetchall()
        names = {node for (node,) in ops}
        assert names and all(name.startswith("h.2") for name in names)
        leaf = "SELECT data, requires_grad FROM llm_tensor_rt WHERE run = llm_open_run() AND name = 'h.1'"
        data, wanted = m.execute(leaf).fetchone()
        assert (data == 1).all() and not wanted
    assert np.array_equal(recorded, run(m, "logits", h__1=np.ones((1, 2, 8), "f4")))


@pytest.mark.parametrize(
    ("arguments", "state", "message"),
    [
        (
            """'{"tokens": [1, 2], "h.1": [[1, 2]]}'""",
            "2202E",
            r'"h.1": dimension 3 is 2 .*\(B,T,C\), here 8',
        ),
        (
            """'{"tokens": [1], "h.1.attn.drop": [[0,0,0,0,0,0,0,0],[0,0,0,0,0,0,0,0]]}'""",
            "2202E",
            "dimension 2 is 2",
        ),
        ("""'{"h.1": [1]}'""", "2202E", '"h.1" has 1 dimensions'),
        ("""'{"tokens": [1]}', '{h.9}', '{1}'""", "42704", 'no node "h.9"'),
        ("""'{"tokens": [1]}', '{tokens}', '{1}'""", "22023", '"tokens" is given twice'),
        ("""'{"tokens": [1]}', '{h.1,h.1}', '{1,1}'""", "22023", '"h.1" is given twice'),
        ("""'{"tokens": [1]}', '{h.1}', NULL""", "22023", "1 names are given, but 0 tensors"),
        ("""'{"tokens": [1]}', '{NULL}', '{1}'""", "22004", "must not contain NULL"),
        ("""'{"tokens": [1]}', '{h.1}', '{NULL}'""", "22004", "must not contain NULL"),
        ("""NULL, '{tokens}', '{1.5}'""", "22023", "whole numbers, not 1.5"),
        ("NULL, '{}', '{}'", "22023", "inputs must be a JSON object"),
        ("""'[1]', '{tokens}', '{1}'""", "22023", "inputs must be a JSON object"),
    ],
)
def test_errors(m, arguments, state, message):
    with pytest.raises(psycopg.Error, match=message) as error:
        m.execute(f"SELECT llm_eval('m', 'logits', {arguments})")
    assert error.value.sqlstate == state


def test_a_tensor_as_json(m):
    """Every bit survives, also of numbers that JSON does not have, whatever display_limit says."""
    value = np.array([[1 / 3, -1e-45, 3.4028235e38], [np.nan, np.inf, -np.inf]], "f4")
    with m.transaction(force_rollback=True):
        m.execute("SET LOCAL pg_llm.display_limit = 2")
        query = "SELECT %(t)s::tensor::jsonb, %(t)s::tensor::json::text, to_jsonb(%(t)s::tensor), "
        query += "jsonb_build_object('x', '[]'::tensor), to_json('5'::tensor)::text"
        row = m.execute(query, {"t": value}).fetchone()
    assert row[0] == row[2] == [[0.33333334, -1e-45, 34028235 * 10**31], ["NaN", "Infinity", "-Infinity"]]
    assert row[1].startswith("[[0.33333334,-1e-45,3.4028235e+38],[") and row[3:] == ({"x": []}, "5")
    stream = np.resize(value, (1, 4, 8))
    (back,) = m.execute(
        "SELECT llm_eval('m', 'h.1', jsonb_build_object('h.1', %s::tensor))", [stream]
    ).fetchone()
    assert np.array_equal(back.view("u4"), stream.view("u4"))
