"""Frozen parameters ("trainable": false): training, gradients, checkpoints and replay leave them out."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from helpers import checkpoint_files
from helpers.checkpoints import bits, load, save
from helpers.tiny_model import ids, make, params
from helpers.training import fill

folder = checkpoint_files.folder
ALL = "SET CONSTRAINTS llm_graph_fits DEFERRED"
FREEZE = """UPDATE llm_graph SET attrs = attrs || '{"trainable": %s}' WHERE model = 'm' AND op = 'param'"""


@pytest.fixture
def m(conn, folder):
    """A model whose stream is multiplied by a parameter, 0.5, and a dataset."""
    conn.execute("SELECT set_config('pg_llm.checkpoint_dir', %s, false)", [str(folder)])
    conn.execute("DELETE FROM llm_checkpoint; DELETE FROM llm_train_run; DELETE FROM llm_param_share")
    conn.execute("DELETE FROM llm_model_config WHERE model NOT LIKE 'gpt2%'; DELETE FROM llm_bpe_vocab")
    make(conn, "m", gain=3)
    with conn.transaction():
        conn.execute(ALL)
        conn.execute(
            "INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES "
            "('m', 'half', 'param', '{}', '{\"shape\": [1]}'), ('m', 'scaled', 'mul', '{h.1,half}', '{}')"
        )
        conn.execute("UPDATE llm_graph SET inputs[1] = 'scaled' WHERE model = 'm' AND name = 'ln_f'")
    conn.execute("INSERT INTO llm_param (model, name, data) VALUES ('m', 'half', '[0.5]')")
    fill(conn, "letters", np.random.default_rng(4).integers(0, 26, (7, 9)))
    return conn


def freeze(conn, names: str = "half", trainable: bool = False) -> None:
    conn.execute(f"{FREEZE % str(trainable).lower()} AND name ~ %s", [f"^({names})$"])


def train(conn, steps: int, **more):
    named = "".join(f", {name} => {value}" for name, value in more.items())
    options = "lr_max => 0.02, warmup => 2, batch_size => 2, dataset => 'letters'"
    query = f"SELECT llm_train('m', %s, {options}{named})"
    return conn.execute(query, [steps]).fetchone()[0]


def test_it_keeps_its_bits(m):
    """Weight decay and gradients move what is trained, and nothing of what is not."""
    train(m, 3)
    assert params(m, "m")["half"] != 0.5
    m.execute("UPDATE llm_param SET data = '[0.5]', m = NULL, v = NULL, step = 0 WHERE name = 'half'")
    freeze(m, r"half|wte\.weight|h\.0\.mlp\.c_fc\.weight")
    before = {row[0]: row for row in bits(m)}
    train(m, 20, wd=0.1)
    after = {row[0]: row for row in bits(m)}
    same = {name for name in before if before[name] == after[name]}
    assert same == {"half", "wte.weight", "h.0.mlp.c_fc.weight"}
    assert params(m, "m")["half"] == [0.5]
    freeze(m, ".*", True)
    train(m, 1)
    assert params(m, "m")["half"] != [0.5]


def test_the_norm_leaves_it_out(m):
    """The logged norm is that of the gradients from llm_accumulate_grads, without the frozen one."""
    freeze(m, r"half|wte\.weight")
    id, tokens, target = m.execute("SELECT id, tokens, target FROM llm_dataset LIMIT 1").fetchone()
    m.execute("UPDATE llm_autograd_mode SET flag = true")
    m.execute("SELECT llm_loss('m', %s, %s)", (tokens, target))
    m.execute("UPDATE llm_autograd_mode SET flag = false")
    m.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'm')")
    m.execute("SELECT llm_accumulate_grads('m')")
    grads = dict(m.execute("SELECT name, grad FROM llm_param WHERE model = 'm'"))
    assert {name for name, grad in grads.items() if grad is None} == {"half", "wte.weight"}
    total = sum((np.asarray(grad, float) ** 2).sum() for grad in grads.values() if grad is not None)
    m.execute("SELECT llm_train_step('m', %s, dropout_p => 0)", [id])
    (norm,) = m.execute("SELECT grad_norm FROM llm_train_log WHERE model = 'm'").fetchone()
    assert abs(norm / total**0.5 - 1) < 1e-6


def test_mapped_values_of_it_get_no_gradient(m):
    freeze(m)
    m.execute("UPDATE llm_autograd_mode SET flag = true")
    m.execute(
        "SELECT tensor_sum(pg_llm_autograd_map_param('m', 'half', NULL, '[0.5]', NULL) * llm_var('[3]', 'x'))"
    )
    m.execute("UPDATE llm_autograd_mode SET flag = false")
    m.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'm')")
    m.execute("SELECT llm_accumulate_grads('m')")
    assert m.execute("SELECT grad FROM llm_param WHERE name = 'half'").fetchone() == (None,)


@pytest.mark.parametrize("kind", ["rows", "safetensors", "npz"])
def test_checkpoints_hold_no_moments_of_it(m, kind):
    """Neither before nor after it was trained; loading asks for none; replay is exact from either."""
    freeze(m)
    first = save(m, kind)
    train(m, 3, seed=3)
    freeze(m, "half", True)
    train(m, 2, seed=4)
    freeze(m)
    assert m.execute("SELECT m IS NOT NULL FROM llm_param WHERE name = 'half'").fetchone() == (True,)
    second = save(m, kind)
    tensors = [name for (name,) in m.execute("SELECT name FROM _llm_checkpoint_tensors('m')")]
    assert "half" in tensors and "optimizer.m.wte.weight" in tensors
    assert not [name for name in tensors if name.startswith("optimizer.") and name.endswith(".half")]
    train(m, 3, seed=5)
    weights = bits(m)
    replayed = "SELECT step, loss = logged AND matches, weights_match FROM llm_replay('m', %s)"
    assert m.execute(replayed, [second]).fetchall() == [(6, True, None), (7, True, None), (8, True, True)]
    load(m, second)
    assert m.execute("SELECT m, v FROM llm_param WHERE name = 'half'").fetchone() == (None, None)
    train(m, 3, seed=5)
    again = bits(m)
    for old, new in zip(weights, again, strict=True):
        assert old == new or (old[0] == "half" and old[:2] == new[:2])
    load(m, first)
    assert params(m, "m")["half"] == [0.5]


def test_nothing_left_to_train_is_an_error(m):
    freeze(m, ".*")
    before = bits(m)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="no parameter to train") as error:
        train(m, 1)
    assert "trainable" in error.value.diag.message_hint
    assert bits(m) == before
    assert len(m.execute("SELECT llm_logits(%s::int[], 'm')", [ids("abc")]).fetchone()[0]) == 3


def test_what_shares_it_is_frozen(m):
    """A row of llm_param that two nodes read stays, whichever of the two is frozen."""
    with m.transaction():
        m.execute(ALL)
        m.execute(
            "INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES "
            "('m', 'also', 'param', '{}', '{\"shape\": [1]}'), ('m', 'twice', 'mul', '{h.0,also}', '{}')"
        )
        m.execute(
            "UPDATE llm_graph SET inputs = array_replace(inputs, 'h.0', 'twice') "
            "WHERE model = 'm' AND name LIKE 'h.1.%'"
        )
    m.execute("SELECT llm_share_param('m', 'half', 'm', 'also')")
    for name in ("half", "also"):
        freeze(m, "half|also", True)
        freeze(m, name)
        train(m, 2)
        assert params(m, "m")["half"] == [0.5]
    freeze(m, "half|also", True)
    train(m, 1)
    assert params(m, "m")["half"] != [0.5]


@pytest.mark.parametrize("value", ["0", "1", '"no"', "[]", '"false"'])
def test_other_values_are_refused(m, value):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="trainable of param must be true"):
        m.execute(f"{FREEZE % value} AND name = 'half'")


def test_null_is_the_default(m):
    m.execute(f"{FREEZE % 'null'} AND name = 'half'")
    train(m, 2)
    assert params(m, "m")["half"] != [0.5]
