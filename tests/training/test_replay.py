"""Replay: training repeated from a checkpoint gives the logged losses and the same weights, bit for bit."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from helpers import checkpoint_files
from helpers.checkpoints import bits, load, save
from helpers.tiny_model import make
from helpers.training import fill

folder = checkpoint_files.folder
OPTIONS = "lr_max => 0.01, warmup => 2, batch_size => 2, dataset => 'letters'"


@pytest.fixture
def m(conn, folder):
    """A model at step 0 with a dataset of rows of unequal lengths."""
    conn.execute("SELECT set_config('pg_llm.checkpoint_dir', %s, false)", [str(folder)])
    conn.execute("DELETE FROM llm_checkpoint; DELETE FROM llm_train_run")
    conn.execute("DELETE FROM llm_model_config WHERE model NOT LIKE 'gpt2%'; DELETE FROM llm_bpe_vocab")
    make(conn, "m", gain=3)
    fill(conn, "letters", np.random.default_rng(4).integers(0, 26, (7, 9)))
    conn.execute(
        "UPDATE llm_dataset SET tokens = tokens[1:5], target = target[1:5] "
        "WHERE id IN (SELECT id FROM llm_dataset ORDER BY id DESC LIMIT 3)"
    )
    return conn


def train(conn, steps, model="m", **more):
    named = "".join(f", {name} => {value}" for name, value in more.items())
    return conn.execute(f"SELECT llm_train(%s, %s, {OPTIONS}{named})", (model, steps)).fetchone()[0]


def replay(conn, id, to_step=None, model="m"):
    return conn.execute("SELECT * FROM llm_replay(%s, %s, %s)", (model, id, to_step)).fetchall()


def good(rows, first, last, compared):
    """Every loss matches; weights match after the steps in `compared`, and there alone they are compared."""
    assert [row[0] for row in rows] == list(range(first, last + 1))
    assert all(matches and loss == logged for _, loss, logged, matches, *_ in rows)
    assert {row[0]: row[5] for row in rows if row[5]} == compared
    assert all(row[4] is (True if row[5] else None) for row in rows)


@pytest.mark.parametrize("kind", ["rows", "safetensors", "npz"])
def test_every_step_again(m, kind):
    """Dropout, accumulation, clipping, several runs: replayed from any checkpoint; nothing changes."""
    ids = [save(m, kind)]
    train(m, 3, dropout_p=0.3, accumulation=2, grad_clip=1, seed=5)
    ids.append(save(m, kind))
    train(m, 4, beta1=0.8, beta2=0.9, eps=1e-6, wd=0.1, min_lr=0.001)
    ids.append(save(m, kind))
    m.execute(
        "SELECT llm_train_step('m', (SELECT min(id) FROM llm_dataset), positions => '{3,2,1,0,4,5,6,7}')"
    )
    before, version = bits(m), m.execute("SELECT version FROM llm_model_version WHERE model = 'm'").fetchone()
    good(replay(m, ids[0]), 1, 8, {3: f"checkpoint {ids[1]}", 7: f"checkpoint {ids[2]}", 8: "model m"})
    good(replay(m, ids[1]), 4, 8, {7: f"checkpoint {ids[2]}", 8: "model m"})
    good(replay(m, ids[1], 5), 4, 5, {})
    good(replay(m, ids[2]), 8, 8, {8: "model m"})
    assert bits(m) == before
    assert m.execute("SELECT version FROM llm_model_version WHERE model = 'm'").fetchone() == version
    logged = m.execute("SELECT loss FROM llm_train_log WHERE model = 'm' ORDER BY step").fetchall()
    assert [(row[2],) for row in replay(m, ids[0])] == logged


def test_same_bits_on_every_level(m):
    """Training with one instruction set and thread count is replayed by all others."""
    m.execute("SET pg_llm.isa = scalar; SET pg_llm.threads = 1")
    id = save(m, "rows")
    train(m, 4, dropout_p=0.2)
    try:
        for isa in ("scalar", "avx2", "avx512"):
            try:
                m.execute(f"SET pg_llm.isa = {isa}")
            except psycopg.errors.InvalidParameterValue:
                continue  # not on this machine
            for threads in (1, 2):
                m.execute(f"SET pg_llm.threads = {threads}")
                good(replay(m, id), 1, 4, {4: "model m"})
    finally:
        m.execute("RESET pg_llm.isa; RESET pg_llm.threads")


def test_the_loop_and_a_role_that_only_reads(m):
    id = save(m, "rows")
    m.execute(f"CALL llm_train_loop('m', 5, {OPTIONS}, commit_every => 2)")
    m.execute("CREATE ROLE reader; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    try:
        m.execute("REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public FROM PUBLIC; SET ROLE reader")
        good(replay(m, id), 1, 5, {5: "model m"})
    finally:
        m.execute("RESET ROLE; GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC")
        m.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_while_another_session_trains(m, connect):
    id, other = save(m, "rows"), connect()
    train(m, 3)
    with other.transaction():
        train(other, 2)
        good(replay(m, id), 1, 3, {3: "model m"})
    good(replay(m, id), 1, 5, {5: "model m"})


def test_a_model_taken_back(m):
    """Several rows of the log have the same step: the newest path that leads to it is replayed."""
    start = save(m, "rows")
    train(m, 3, seed=1)
    third = save(m, "rows")
    train(m, 4, seed=2)
    seventh = save(m, "rows")
    load(m, third)
    good(replay(m, start), 1, 7, {3: f"checkpoint {third}", 7: f"checkpoint {seventh}"})
    train(m, 2, seed=3)
    good(replay(m, start), 1, 5, {3: f"checkpoint {third}", 5: "model m"})
    good(replay(m, third), 4, 5, {5: "model m"})
    good(replay(m, start, 7), 1, 7, {3: f"checkpoint {third}", 7: f"checkpoint {seventh}"})
    load(m, seventh)
    train(m, 1, seed=4)
    good(replay(m, start), 1, 8, {3: f"checkpoint {third}", 7: f"checkpoint {seventh}", 8: "model m"})


def test_a_copy_trained_on_its_own(m):
    train(m, 2)
    id = save(m)
    load(m, id, "copy")
    train(m, 3, model="copy", seed=9)
    train(m, 1)
    good(replay(m, id, model="copy"), 3, 5, {5: "model copy"})
    good(replay(m, id), 3, 3, {3: "model m"})


def test_parameters_with_their_own_steps(m):
    """A part whose optimizer was reset separately counts its own steps, in replay as in training."""
    train(m, 2)
    m.execute("UPDATE llm_param SET m = NULL, v = NULL, step = 0 WHERE model = 'm' AND name LIKE 'h.1.%'")
    id = save(m, "rows")
    train(m, 3)
    good(replay(m, id), 3, 5, {5: "model m"})


@pytest.mark.parametrize(
    ("change", "matching", "weights"),
    [
        ("UPDATE llm_param SET data = data * 1.5::real::tensor WHERE name = 'ln_f.weight'", 4, False),
        ("UPDATE llm_train_log SET loss = loss * 1.0001 WHERE step = 3", 2, True),
        ("UPDATE llm_train_log SET grad_norm = grad_norm * (1 + 1e-15) WHERE step = 3", 2, True),
        ("UPDATE llm_train_run SET lr_max = lr_max * 1.5", 1, False),
        ("UPDATE llm_train_run SET seed = 77", 0, False),
    ],
)
def test_differences_are_told(m, change, matching, weights):
    """The number of matching steps from the first on, and whether the last one's weights match."""
    id = save(m, "rows")
    train(m, 4, dropout_p=0.1)
    m.execute(change)
    rows = replay(m, id)
    assert len(rows) == 4
    assert next((i for i, row in enumerate(rows) if not row[3]), 4) == matching
    assert rows[-1][4:] == (weights, "model m")


def test_changed_data_is_told(m):
    id = save(m, "rows")
    train(m, 4)
    (used,) = m.execute("SELECT rows[1] FROM llm_train_log WHERE step = 3").fetchone()
    first = m.execute("SELECT min(step) FROM llm_train_log WHERE %s = ANY (rows)", [used]).fetchone()[0]
    m.execute("UPDATE llm_dataset SET target[1] = (target[1] + 1) %% 26 WHERE id = %s", [used])
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="have changed since") as error:
        replay(m, id)
    assert error.value.diag.message_primary.startswith(f"step {first} cannot be replayed")
    assert str(used) in error.value.diag.message_detail
    if first > 1:
        good(replay(m, id, first - 1), 1, first - 1, {})
    m.execute("DELETE FROM llm_dataset WHERE id = %s", [used])
    with pytest.raises(psycopg.errors.NoData, match="are missing") as error:
        replay(m, id)
    assert f"step {first}: row {used}" in error.value.diag.message_detail


def test_errors(m):
    id = save(m, "rows")
    with pytest.raises(psycopg.errors.NoData, match="no step of model"):
        replay(m, id)
    train(m, 3)
    later = save(m, "rows")
    for args, state, text in (
        ((later,), "02000", "no step of model"),
        ((later, 3), "22023", f"to_step is 3, and checkpoint {later} is of step 3"),
        ((id, 0), "22023", "to_step is 0"),
        ((id, 9), "02000", "no row for step 9"),
        ((id + 100,), "42704", "there is no checkpoint"),
        ((None,), "42704", "there is no checkpoint NULL"),
        ((id, None, "nobody"), "02000", "no step of model"),
        ((id, None, None), "02000", "no step of model"),
    ):
        with pytest.raises(psycopg.Error, match=text) as error:
            replay(m, *args)
        assert error.value.sqlstate == state and error.value.diag.message_hint, args
    m.execute("DELETE FROM llm_train_log WHERE step = 2")
    with pytest.raises(psycopg.errors.NoData, match='no row for step 2 of model "m"'):
        replay(m, id)
    m.execute("UPDATE llm_train_log SET rows = '{1}' WHERE step = 3")
    with pytest.raises(psycopg.Error, match="no row for step 2"):
        replay(m, id)
    m.execute("UPDATE llm_train_log SET step = 2, rows = NULL::bigint[] || rows WHERE step = 3")
    with pytest.raises(psycopg.Error):
        replay(m, id)


def test_logs_that_training_never_wrote(m):
    id = save(m, "rows")
    train(m, 2)
    for rows in ("'{}'", "rows[1:1]", "ARRAY[rows[1], NULL]", "rows || rows"):
        with m.transaction(force_rollback=True):
            m.execute(f"UPDATE llm_train_log SET rows = {rows} WHERE step = 2")
            with pytest.raises(psycopg.Error, match="step 2|gone"):
                replay(m, id)
    with m.transaction(force_rollback=True):
        m.execute("UPDATE llm_checkpoint_param SET data = data + 1 WHERE name = 'ln_f.bias'")
        with pytest.raises(psycopg.errors.DataCorrupted):
            replay(m, id)
    make(m, "wide", d_model=12)
    train(m, 2, model="wide")
    with pytest.raises(psycopg.errors.ArraySubscriptError, match="parameters are not those"):
        replay(m, id, model="wide")
    m.execute("DELETE FROM llm_param WHERE model = 'm'")
    with pytest.raises(psycopg.errors.UndefinedObject, match="has no weights"):
        replay(m, id)
