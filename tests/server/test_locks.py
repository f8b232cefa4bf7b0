"""Sessions that change one model, or one role's tape, at the same time: they wait, without a deadlock."""

import random
import threading
import time

import psycopg
import pytest
from helpers.tiny_model import make

SECONDS = 5
TRAIN = "SELECT llm_train('m', 1, dataset => 'd', lr_max => 1e-4, warmup => 1, wait => true)"


@pytest.fixture
def m(conn):
    conn.execute(
        "DELETE FROM llm_model_config WHERE model = 'm'; DELETE FROM llm_bpe_vocab WHERE model = 'm'"
    )
    make(conn, "m", n_layer=1)
    conn.execute("INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('d', '{1,2,3}', '{2,3,4}')")
    return conn


def together(connect, *workers):
    """Calls each function repeatedly in a session of its own; returns the unexpected errors."""
    end, errors, turns = time.monotonic() + SECONDS, [], [0] * len(workers)

    def work(number, worker):
        conn, chance = connect(), random.Random(number)
        conn.execute("SET deadlock_timeout = '50ms'; SET client_min_messages = error")
        while time.monotonic() < end and not errors:
            try:
                worker(conn, chance)
            except psycopg.errors.SerializationFailure:
                pass
            except psycopg.Error as error:
                errors.append(f"{worker.__name__}: {error}")
            turns[number] += 1

    threads = [threading.Thread(target=work, args=item) for item in enumerate(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == [] and min(turns) > 1, (errors, turns)


def train(conn, chance):
    conn.execute(TRAIN)


def train_in_a_block(conn, chance):
    """Locks rows of the model before it takes the right to train."""
    with conn.transaction():
        conn.execute("UPDATE llm_param SET step = step WHERE model = 'm' AND name = 'wpe.weight'")
        conn.execute(TRAIN)


def one_row(conn, chance):
    names = ["wte.weight", "wpe.weight", "ln_f.bias", "h.0.ln_1.weight"]
    query = "UPDATE llm_param SET grad = NULL WHERE model = 'm' AND name = %s"
    conn.execute(query, [chance.choice(names)])


def all_rows(conn, chance):
    conn.execute("UPDATE llm_param SET grad = NULL WHERE model = 'm'")


def graph(conn, chance):
    conn.execute("UPDATE llm_graph SET attrs = attrs WHERE model = 'm' AND name = 'h.0.mlp.act'")


@pytest.mark.slow
def test_training_that_waits_and_changes_by_hand(m, connect):
    """A change by hand locks rows before the version; training held versions while it waited for rows."""
    together(connect, train, train, one_row, all_rows, graph)
    assert m.execute("SELECT count(*) > 1 FROM llm_train_log WHERE model = 'm'").fetchone() == (True,)


@pytest.mark.slow
def test_training_in_a_block_that_holds_rows(m, connect):
    together(connect, train, train, train_in_a_block)


def test_training_waits_for_a_row_that_is_held(m, connect):
    """The statement continues when the other transaction ends, and trains its result."""
    other, done = connect(), []
    other.execute("BEGIN; UPDATE llm_param SET data = data * 2::real::tensor WHERE name = 'wpe.weight'")
    before = m.execute("SELECT data FROM llm_param WHERE model = 'm' AND name = 'wpe.weight'").fetchone()[0]
    thread = threading.Thread(target=lambda: done.append(m.execute(TRAIN).fetchone()))
    thread.start()
    time.sleep(0.3)
    assert done == []
    other.execute("COMMIT")
    thread.join(30)
    after = m.execute("SELECT data FROM llm_param WHERE model = 'm' AND name = 'wpe.weight'").fetchone()[0]
    assert len(done) == 1 and abs(after - 2 * before).max() < 0.01 < abs(after - before).max()


def test_a_version_seen_by_no_snapshot_is_a_serialization_failure(m, connect):
    """In REPEATABLE READ, a change of a model that another has changed since, whichever row it was."""
    other = connect()
    for first in ("ln_f.bias", "wpe.weight"):
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM llm_model_version")
        m.execute("UPDATE llm_param SET step = step WHERE model = 'm' AND name = %s", [first])
        with pytest.raises(psycopg.errors.SerializationFailure):
            other.execute("UPDATE llm_param SET step = step WHERE model = 'm' AND name = 'wpe.weight'")
        other.execute("ROLLBACK")
    m.execute(
        "DELETE FROM llm_bpe_vocab WHERE model = 'late'; DELETE FROM llm_model_version WHERE model = 'late'"
    )
    other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM llm_model_version")
    token = "INSERT INTO llm_bpe_vocab (model, token_id, token, bytes) VALUES ('late', %s, %s, '')"
    m.execute(token, (1, "a"))
    with pytest.raises(psycopg.errors.SerializationFailure):
        other.execute(token, (2, "b"))
    other.execute("ROLLBACK")


def test_the_first_change_of_two_sessions(m, connect):
    """Neither sees the other's row of llm_model_version; the second waits, and both have their version."""
    other, done = connect(), []
    m.execute(
        "DELETE FROM llm_bpe_vocab WHERE model = 'new'; DELETE FROM llm_model_version WHERE model = 'new'"
    )
    token = "INSERT INTO llm_bpe_vocab (model, token_id, token, bytes) VALUES ('new', %s, %s, '')"
    m.execute("BEGIN")
    m.execute(token, (1, "a"))
    thread = threading.Thread(target=lambda: done.append(other.execute(token, (2, "b"))))
    thread.start()
    time.sleep(0.3)
    assert done == []
    m.execute("COMMIT")
    thread.join(30)
    assert len(done) == 1
    assert m.execute("SELECT count(*) FROM llm_model_version WHERE model = 'new'").fetchone() == (1,)


def test_only_who_may_change_models_locks_them(m, connect):
    """A reader gets an error instead of the lock, and takes no lock that training needs."""
    m.execute("DROP ROLE IF EXISTS reader; CREATE ROLE reader")
    m.execute("REVOKE INSERT, UPDATE, DELETE ON llm_param FROM PUBLIC; GRANT SELECT ON llm_param TO reader")
    reader = connect()
    try:
        reader.execute("SET ROLE reader; BEGIN")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="llm_param"), reader.transaction():
            reader.execute("SELECT llm_train_lock('m')")
        m.execute(TRAIN.replace(", wait => true", ""))
    finally:
        reader.close()
        m.execute(
            "GRANT INSERT, UPDATE, DELETE ON llm_param TO PUBLIC; DROP OWNED BY reader; DROP ROLE reader"
        )


# ---- the tape ----


def walk(conn, chance):
    with conn.transaction():
        run = conn.execute("SELECT llm_trace('m', '{1,2,3}', '{2,3,4}')").fetchone()[0]
        query = "SELECT max(id) FROM llm_tape WHERE run = %s"
        conn.execute("SELECT llm_backprop(%s, 'm')", conn.execute(query, [run]).fetchone())


def walk_in_steps(conn, chance):
    """Commits the run before gradients are written to it: another session may prune it in between."""
    run = conn.execute("SELECT llm_trace('m', '{1,2,3}', '{2,3,4}')").fetchone()[0]
    last = conn.execute("SELECT max(id) FROM llm_tape WHERE run = %s", [run]).fetchone()
    try:
        conn.execute("SELECT llm_backprop(%s, 'm')", last)
        conn.execute("SELECT llm_accumulate_grads('m')")
    except psycopg.errors.UndefinedObject as gone:
        assert "NULL" in str(gone) or "there is no operation" in str(gone) or "empty" in str(gone)


def record(conn, chance):
    conn.execute("SET pg_llm.autograd = on; SELECT llm_loss('m', '{1,2,3}', '{2,3,4}')")
    conn.execute("SELECT * FROM llm_backward(mean(llm_var('[1,2]', 'w') * llm_var('[1,2]', 'w')))")
    conn.execute("SET pg_llm.autograd = off")


def prune(conn, chance):
    conn.execute("SELECT llm_prune_autograd_state()")


@pytest.mark.slow
def test_tapes_and_pruning(m, connect):
    """The backward pass wrote tensors, then operations; the cascade deleted operations, then tensors."""
    together(connect, walk, walk_in_steps, record, prune, prune)
