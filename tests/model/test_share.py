"""Shared parameters: one storage for several nodes, in one model or between models; resets."""

import numpy as np
import psycopg
import pytest
from helpers.training import fill

NAMES = ("a", "b", "c")


@pytest.fixture
def models(conn):
    """A connection with three models of one architecture, with separate heads, and data for each."""
    conn.execute("DELETE FROM llm_param_share")
    conn.execute("DELETE FROM llm_model_config WHERE model IN ('a', 'b', 'c', 'tied')")
    tokens = np.random.default_rng(3).integers(0, 31, (6, 9))
    for seed, name in enumerate(NAMES):
        create = "SELECT llm_create_model(%s, 1, 2, 8, 16, 31, options => '{\"tied_head\": false}')"
        conn.execute(create, (name,))
        conn.execute("SELECT llm_init_model(%s, %s)", (name, seed))
        fill(conn, name, tokens)
    conn.execute("SELECT llm_create_model('tied', 1, 2, 8, 16, 31), llm_init_model('tied', 0)")
    fill(conn, "tied", tokens)
    return conn


def share(conn, *arguments):
    conn.execute("SELECT llm_share_param(%s, %s, %s, %s)", arguments)


def row(conn, model, name):
    query = "SELECT data, m, v, step FROM llm_param WHERE model = %s AND name = %s"
    return conn.execute(query, (model, name)).fetchone()


def shares(conn):
    query = (
        "SELECT target_model || '.' || target_name, source_model || '.' || source_name FROM llm_param_share"
    )
    return dict(conn.execute(query).fetchall())


def train(conn, model, n=5):
    query = (
        "SELECT llm_train(%s, %s, lr_max => 0.01, warmup => 1, batch_size => 2, grad_clip => 1, seed => 1)"
    )
    return conn.execute(query, (model, n)).fetchone()[0]


def logits(conn, model):
    return conn.execute("SELECT llm_logits(ARRAY[1, 2, 3], %s)", (model,)).fetchone()[0]


def test_two_nodes_of_a_model_are_the_tied_model(models):
    """Both contributions add up in one gradient, with the bits of a model whose head is wte.weight."""
    share(models, "a", "wte.weight", "a", "lm_head.weight")
    assert row(models, "a", "lm_head.weight") is None
    assert np.array_equal(logits(models, "a"), logits(models, "tied"))
    assert train(models, "a") == train(models, "tied")
    ours, tied = (
        models.execute(
            "SELECT name, (data, m, v, step)::text FROM llm_param WHERE model = %s ORDER BY name", (m,)
        ).fetchall()
        for m in ("a", "tied")
    )
    assert ours == tied
    assert np.array_equal(logits(models, "a"), logits(models, "tied"))
    norms = "SELECT array_agg((loss, grad_norm)::text ORDER BY step) FROM llm_train_log WHERE model = %s"
    assert models.execute(norms, ("a",)).fetchone() == models.execute(norms, ("tied",)).fetchone()


def test_the_earlier_node_may_be_the_target(models):
    """The result does not depend on which of the two owns the row."""
    models.execute("UPDATE llm_param SET data = (SELECT data FROM llm_param WHERE model = 'tied' AND name ="
        " 'wte.weight') WHERE model = 'a' AND name = 'lm_head.weight'")  # fmt: skip
    share(models, "a", "lm_head.weight", "a", "wte.weight")
    assert train(models, "a") == train(models, "tied")
    for ours, tied in zip(row(models, "a", "lm_head.weight"), row(models, "tied", "wte.weight"), strict=True):
        assert np.array_equal(ours, tied)


def test_between_models(models):
    """The target trains the source's tensor, whose own steps are counted; others keep theirs."""
    train(models, "a", 3)
    share(models, "a", "wte.weight", "b", "wte.weight")
    before = row(models, "a", "wte.weight")
    wpe = row(models, "a", "wpe.weight")
    of_a = logits(models, "a")
    train(models, "b", 4)
    after = row(models, "a", "wte.weight")
    assert not np.array_equal(before[0], after[0]) and after[3] == 3 + 4
    assert not np.array_equal(of_a, logits(models, "a"))
    assert row(models, "b", "wpe.weight")[3] == 4
    assert all(np.array_equal(x, y) for x, y in zip(wpe, row(models, "a", "wpe.weight"), strict=True))
    steps = "SELECT array_agg(step ORDER BY step) FROM llm_train_log WHERE run ="
    steps += " (SELECT max(run) FROM llm_train_run)"
    assert models.execute(steps).fetchone()[0] == [1, 2, 3, 4]
    train(models, "a", 1)
    assert models.execute(steps).fetchone()[0] == [4]
    assert row(models, "a", "wte.weight")[3] == 8


def test_each_parameter_counts_its_own_steps(models):
    """AdamW's bias correction of a fresh parameter in a trained model is that of its first step."""
    train(models, "a", 20)
    models.execute(
        "UPDATE llm_param SET m = NULL, v = NULL, step = 0 WHERE model = 'a' AND name = 'ln_f.bias'"
    )
    before = row(models, "a", "ln_f.bias")[0]
    models.execute("SELECT llm_train_step('a', (SELECT min(id) FROM llm_dataset WHERE dataset = 'a'), 0.01)")
    after, m, v, step = row(models, "a", "ln_f.bias")
    assert step == 1 and row(models, "a", "wte.weight")[3] == 21
    assert np.allclose(before - after, 0.01 * np.sign(m), rtol=1e-3)  # m / sqrt(v) of a first step is ±1


def test_chains_lead_to_their_source(models):
    share(models, "a", "wte.weight", "b", "wte.weight")
    share(models, "b", "wte.weight", "c", "wte.weight")
    assert shares(models) == {"b.wte.weight": "a.wte.weight", "c.wte.weight": "a.wte.weight"}
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="in itself"):
        share(models, "c", "wte.weight", "a", "wte.weight")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="in itself"):
        share(models, "a", "wte.weight", "a", "wte.weight")
    share(models, "tied", "wte.weight", "a", "wte.weight")  # parameters stored there follow
    assert set(shares(models).values()) == {"tied.wte.weight"} and len(shares(models)) == 3
    share(models, "tied", "wte.weight", "a", "lm_head.weight")
    assert row(models, "a", "lm_head.weight") is None
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="already"):
        models.execute("INSERT INTO llm_param_share VALUES ('c', 'lm_head.weight', 'b', 'wte.weight')")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="already"):
        models.execute("INSERT INTO llm_param_share VALUES ('tied', 'wte.weight', 'c', 'lm_head.weight')")
    assert len(shares(models)) == 4


@pytest.mark.parametrize("state", [False, True])
def test_unsharing_copies(models, state):
    train(models, "a", 2)
    share(models, "a", "wte.weight", "b", "wte.weight")
    of_b = logits(models, "b")
    models.execute("SELECT llm_unshare_param('b', 'wte.weight', %s)", (state,))
    assert np.array_equal(logits(models, "b"), of_b) and shares(models) == {}
    data, m, v, step = row(models, "a", "wte.weight")
    ours = row(models, "b", "wte.weight")
    assert np.array_equal(ours[0], data)
    if state:
        assert np.array_equal(ours[1], m) and np.array_equal(ours[2], v) and ours[3] == step == 2
    else:
        assert ours[1:] == (None, None, 0)
    train(models, "b", 1)
    assert np.array_equal(row(models, "a", "wte.weight")[0], data)


def test_errors_change_nothing(models):
    rows = "SELECT count(*), sum(length(data::text)) FROM llm_param"
    before = models.execute(rows).fetchone()
    errors = psycopg.errors
    for arguments, error, text in (
        (("a", "wte.weight", "b", "wpe.weight"), errors.ArraySubscriptError, r"\{31,8\}.*\{16,8\}"),
        (("a", "wte.weight", "b", "nothing"), errors.UndefinedObject, "no parameter"),
        (("a", "nothing", "b", "wte.weight"), errors.UndefinedObject, "no values"),
        (("nobody", "wte.weight", "b", "wte.weight"), errors.UndefinedObject, "no values"),
        (("a", "wte.weight", "nobody", "wte.weight"), errors.UndefinedObject, "no parameter"),
        ((None, "wte.weight", "b", "wte.weight"), errors.NullValueNotAllowed, "NULL"),
    ):
        with pytest.raises(error, match=text) as caught:
            share(models, *arguments)
        assert error is errors.NullValueNotAllowed or caught.value.diag.message_hint
    for query, error in (
        ("SELECT llm_unshare_param('a', 'wte.weight')", errors.UndefinedObject),
        ("SELECT llm_unshare_param(NULL, 'wte.weight')", errors.NullValueNotAllowed),
        ("SELECT llm_zero_grad('nobody')", errors.UndefinedObject),
        ("SELECT llm_zero_grad(NULL)", errors.NullValueNotAllowed),
        ("SELECT llm_reset_optimizer('nobody')", errors.UndefinedObject),
    ):
        with pytest.raises(error):
            models.execute(query)
    assert models.execute(rows).fetchone() == before and shares(models) == {}


def test_not_while_it_trains(models, connect):
    other = connect()
    with other.transaction():
        train(other, "b", 1)
        for query in ("llm_share_param('a', 'wte.weight', 'b', 'wte.weight')", "llm_reset_optimizer('b')"):
            with pytest.raises(psycopg.errors.LockNotAvailable, match="being trained by"):
                models.execute(f"SELECT {query}")


def test_rollback_brings_the_row_back(models):
    before = models.execute(
        "SELECT md5(data::text) FROM llm_param WHERE model = 'b' ORDER BY name"
    ).fetchall()
    of_b = logits(models, "b")
    with models.transaction(force_rollback=True):
        share(models, "a", "wte.weight", "b", "wte.weight")
        assert not np.array_equal(logits(models, "b"), of_b)
    after = models.execute("SELECT md5(data::text) FROM llm_param WHERE model = 'b' ORDER BY name").fetchall()
    assert after == before and np.array_equal(logits(models, "b"), of_b)


def test_resets(models):
    share(models, "a", "wte.weight", "b", "wte.weight")
    train(models, "b", 2)
    models.execute("UPDATE llm_param SET grad = data WHERE model IN ('a', 'b')")
    own = models.execute("SELECT count(*) FROM llm_param WHERE model = 'b'").fetchone()[0]
    assert models.execute("SELECT llm_zero_grad('b')").fetchone()[0] == own + 1
    assert models.execute("SELECT llm_zero_grad('b')").fetchone()[0] == 0
    assert row(models, "b", "wpe.weight")[1] is not None
    weights = row(models, "b", "wpe.weight")[0]
    assert models.execute("SELECT llm_reset_optimizer('b')").fetchone()[0] == own
    assert row(models, "b", "wpe.weight")[1:] == (None, None, 0)
    assert np.array_equal(row(models, "b", "wpe.weight")[0], weights)
    assert row(models, "a", "wte.weight")[3] == 2  # its owner's


def test_dump_and_restore_keep_shares(models):
    """The trigger accepts rows in any order of parameters, shares and configs."""
    share(models, "a", "wte.weight", "b", "wte.weight")
    rows = models.execute("SELECT * FROM llm_param_share").fetchall()
    models.execute("DELETE FROM llm_param_share")
    with models.transaction(), models.cursor().copy("COPY llm_param_share FROM STDIN") as copy:
        for r in rows:
            copy.write_row(r)
    assert shares(models) == {"b.wte.weight": "a.wte.weight"}


def test_one_trainer_of_a_shared_source(models, connect):
    """A session that shares parameters with a model in training is told which one trains it."""
    share(models, "a", "wte.weight", "b", "wte.weight")
    share(models, "a", "wpe.weight", "c", "wpe.weight")
    other = connect()
    with other.transaction():
        train(other, "b", 1)
        for name, who in (("", "process"), ("12 100%s", r"12 100%s \(process")):
            other.execute("SELECT set_config('application_name', %s, false)", [name])
            for model in ("a", "b", "c"):
                with pytest.raises(psycopg.errors.LockNotAvailable, match=rf"being trained by {who} \d+ of"):
                    train(models, model, 1)
        with pytest.raises(psycopg.errors.LockNotAvailable, match='"c" shares parameters of model "a"'):
            models.execute("CALL llm_train_loop('c', 1)")
        train(models, "tied", 1)
    train(models, "c", 1)
    assert models.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'userlock'").fetchone() == (0,)
