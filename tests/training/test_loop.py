"""llm_train_loop: commits as it goes, coordinates with other sessions, and resumes with the same bits."""

import contextlib
import threading
import time

import numpy as np
import psycopg
import pytest
from helpers.training import SIZE, bits, fill

CALL = (
    "CALL llm_train_loop('small', %s, lr_max => 0.01, warmup => 3, batch_size => 2, accumulation => 2,"
    " dropout_p => 0.2, seed => 4, notice_every => 0, commit_every => %s)"
)
PLAIN = CALL.replace("CALL llm_train_loop", "SELECT llm_train").replace(", commit_every => %s", "")


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(5).integers(0, SIZE[4], (6, 13))


@pytest.fixture
def small(conn, tokens):
    """A connection with a small model, its dataset and no runs."""
    conn.execute("DELETE FROM llm_model_config WHERE model = 'small'")
    conn.execute("DELETE FROM llm_train_run")
    conn.execute("SELECT llm_create_model('small', 1, 2, 8, 16, %s), llm_init_model('small', 1)", (SIZE[4],))
    fill(conn, "small", tokens)
    yield conn
    conn.execute("DROP TRIGGER IF EXISTS stop ON llm_train_log")
    conn.execute("DROP TRIGGER IF EXISTS stop ON llm_param")


@pytest.fixture
def background(connect):
    """Runs a statement in another session: .error is its result after .join()."""
    threads = []

    class Statement(threading.Thread):
        def __init__(self, query, arguments=()):
            super().__init__(daemon=True)
            self.conn, self.query, self.arguments, self.error = connect(), query, arguments, None
            self.pid = self.conn.info.backend_pid
            self.start()
            threads.append(self)

        def run(self):
            try:
                self.conn.execute(self.query, self.arguments)
            except psycopg.Error as error:
                self.error = error

    yield Statement
    for thread in threads:
        if thread.is_alive():  # a failed test leaves its statement running
            thread.conn.cancel()
        thread.join(30)
        assert not thread.is_alive()


def until(conn, query, *arguments):
    """Waits until a query returns true."""
    end = time.monotonic() + 30
    while not conn.execute(query, arguments).fetchone()[0]:
        assert time.monotonic() < end, query
        time.sleep(0.005)


def steps(conn):
    return conn.execute("SELECT count(*) FROM llm_train_log WHERE model = 'small'").fetchone()[0]


def committed(n):
    return f"SELECT count(*) >= {n} FROM llm_train_log WHERE model = 'small'"


def plain(conn, n):
    """The bits of n uninterrupted steps in one transaction, which is rolled back."""
    with conn.transaction(force_rollback=True):
        conn.execute("SELECT llm_init_model('small', 1)")
        conn.execute(PLAIN, (n,))
        return bits(conn)


def stop_at(conn, table, condition):
    """Makes a statement fail when it writes a row with this condition."""
    conn.execute(
        "CREATE OR REPLACE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'stopped here' USING ERRCODE = 'disk_full'; END $$"
    )
    conn.execute(f"CREATE OR REPLACE TRIGGER stop BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW"
        f" WHEN ({condition}) EXECUTE FUNCTION stop()")  # fmt: skip


def test_the_same_bits_as_one_call(small):
    expected = plain(small, 30)
    for commit_every in (None, 1, 7, 100):
        small.execute("SELECT llm_init_model('small', 1)")
        small.execute(CALL, (30, commit_every))
        assert bits(small) == expected
        query = "SELECT count(DISTINCT xmin::text), count(*) FROM llm_train_log WHERE run ="
        query += " (SELECT max(run) FROM llm_train_run)"
        transactions, logged = small.execute(query).fetchone()
        assert logged == 30
        if commit_every:
            assert transactions == -(-30 // commit_every)


def test_resumed_on_other_levels_to_the_same_bits(small):
    """Stopped three times and resumed with other instruction sets and threads; dropout and accumulation."""
    expected = plain(small, 40)
    for at, isa, workers in ((11, "scalar", 1), (12, "avx2", 2), (30, "auto", 1), (None, "auto", 2)):
        with contextlib.suppress(psycopg.errors.InvalidParameterValue):
            small.execute(f"SET pg_llm.isa = {isa}")
        call = CALL[:-1] + f", grad_workers => {workers})"
        if at:
            stop_at(small, "llm_train_log", f"NEW.step = {at}")
            with pytest.raises(psycopg.errors.DiskFull):
                small.execute(call, (40, 4))
            small.execute("DROP TRIGGER stop ON llm_train_log")
            assert steps(small) == (at - 1) // 4 * 4 or at == 12
        else:
            small.execute(call, (40, 9))
    small.execute("RESET pg_llm.isa")
    assert small.execute("SHOW pg_llm.threads").fetchone()[0] == "0"
    assert bits(small) == expected
    log = "SELECT count(DISTINCT run), array_agg(step ORDER BY step) FROM llm_train_log WHERE model = 'small'"
    assert small.execute(log).fetchone() == (1, list(range(1, 41)))


def test_complete_runs_are_not_resumed(small):
    """The same call computes the rest of an interrupted run, or n_steps more after a complete one."""
    runs = "SELECT array_agg((first_step, n_steps)::text ORDER BY run) FROM llm_train_run"
    stop_at(small, "llm_train_log", "NEW.step = 6")
    with pytest.raises(psycopg.errors.DiskFull):
        small.execute(CALL, (10, 5))
    small.execute("DROP TRIGGER stop ON llm_train_log")
    notices = []
    small.add_notice_handler(lambda n: notices.append(n.message_primary))
    small.execute(CALL.replace("notice_every => 0", "notice_every => 100"), (10, 5))
    assert any("after step 5 of 10" in n for n in notices)
    small.execute(CALL, (10, 5))
    assert small.execute(runs).fetchone()[0] == ["(0,10)", "(10,10)"]
    assert small.execute("SELECT max(step) FROM llm_param WHERE model = 'small'").fetchone()[0] == 20
    stop_at(small, "llm_train_log", "NEW.step = 26")
    for _ in range(2):
        with pytest.raises(psycopg.errors.DiskFull):
            small.execute(CALL, (10, 5))
    assert small.execute(runs).fetchone()[0] == ["(0,10)", "(10,10)", "(20,10)"]
    small.execute("DROP TRIGGER stop ON llm_train_log")
    small.execute(CALL.replace("seed => 4", "seed => 5"), (1, 1))  # other arguments: another run
    small.execute(CALL[:-1] + ", resume => false)", (1, 1))
    assert small.execute(runs).fetchone()[0][3:] == ["(25,1)", "(26,1)"]


def test_notice_every_0_is_silent_when_a_run_continues(small):
    notices = []
    small.add_notice_handler(lambda n: notices.append(n.message_primary))
    small.execute(CALL[:-1] + ", until_step => 3)", (10, 5))
    small.execute(CALL, (10, 5))
    assert steps(small) == 10 and not any("step" in n for n in notices)


def test_until_a_step_and_on_to_the_same_bits(small):
    """The schedule is that of the whole run; a step already reached is reported and changes nothing."""
    expected = plain(small, 40)
    notices = []
    small.add_notice_handler(lambda n: notices.append(n.message_primary))
    for step in (7, 7, 20, 1):
        small.execute(CALL[:-1] + ", until_step => %s)", (40, 4, step))
    assert [n for n in notices if "nothing" in n] == [
        'model "small" is at step 7: until_step 7 is reached, nothing was done',
        'model "small" is at step 20: until_step 1 is reached, nothing was done',
    ]
    small.execute(CALL[:-1] + ", until_step => 1000)", (40, 100))
    assert bits(small) == expected
    log = "SELECT count(DISTINCT run), array_agg(step ORDER BY step) FROM llm_train_log WHERE model = 'small'"
    assert small.execute(log).fetchone() == (1, list(range(1, 41)))
    small.execute(CALL[:-1] + ", until_step => 40)", (40, 100))
    assert small.execute("SELECT count(*) FROM llm_train_run").fetchone() == (1,)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="until_step is 0; it must be 1 or more"):
        small.execute(CALL[:-1] + ", until_step => 0)", (40, 100))


def test_taken_back_to_an_earlier_step(small):
    """Weights of an earlier step (as from a checkpoint) continue in the schedule, with a separate log."""
    expected = plain(small, 20)
    stop_at(small, "llm_train_log", "NEW.step = 6 OR NEW.step = 11")
    with pytest.raises(psycopg.errors.DiskFull):
        small.execute(CALL, (20, 5))
    small.execute("CREATE TEMP TABLE kept AS SELECT * FROM llm_param WHERE model = 'small'")
    stop_at(small, "llm_train_log", "NEW.step = 11")
    with pytest.raises(psycopg.errors.DiskFull):
        small.execute(CALL, (20, 5))
    small.execute("DROP TRIGGER stop ON llm_train_log")
    small.execute("DELETE FROM llm_param WHERE model = 'small'")
    small.execute("INSERT INTO llm_param SELECT * FROM kept")
    small.execute("DROP TABLE kept")
    notices = []
    small.add_notice_handler(lambda n: notices.append(n.message_primary))
    small.execute(CALL.replace("notice_every => 0", "notice_every => 100"), (20, 5))
    assert notices[1].endswith("after step 5 of 20, as another run: it was at step 10 of the model")
    assert bits(small) == expected
    log = (
        "SELECT r.first_step, min(step), max(step), count(*) FROM llm_train_log AS l JOIN llm_train_run AS r"
    )
    log += " USING (run) GROUP BY run, r.first_step ORDER BY run"
    assert small.execute(log).fetchall() == [(0, 1, 10, 10), (0, 6, 20, 15)]


def test_others_see_the_log_grow_and_cancel_keeps_what_was_committed(small, background):
    training = background(CALL, (1000000, 3))
    seen = 0
    for _ in range(4):
        until(small, committed(seen + 1))
        seen = steps(small)
        assert seen % 3 == 0
    small.execute("SELECT pg_cancel_backend(%s)", (training.pid,))
    training.join(30)
    assert isinstance(training.error, psycopg.errors.QueryCanceled)
    n = steps(small)
    assert n % 3 == 0
    steps_of_rows = "SELECT min(step), max(step) FROM llm_param WHERE model = 'small'"
    assert small.execute(steps_of_rows).fetchone() == (n, n)
    last = bits(small)
    small.execute("SELECT llm_init_model('small', 1)")
    stop_at(small, "llm_train_log", f"NEW.step = {n + 1}")
    with pytest.raises(psycopg.errors.DiskFull):
        small.execute(CALL, (1000000, n))
    assert bits(small) == last


def test_vacuum_hears_of_dead_rows_while_it_runs(small, background):
    """Otherwise the weights of thousands of steps would fill the disk before the call ends."""
    dead = (
        "SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid ="
        " (SELECT reltoastrelid FROM pg_class WHERE oid = 'llm_param'::regclass)"
    )
    training = background(CALL, (1000000, 3))
    until(small, f"SELECT ({dead}) > 1000")
    small.execute("SELECT pg_cancel_backend(%s)", (training.pid,))
    training.join(30)


@pytest.mark.slow
def test_a_timeout_keeps_what_was_committed(small):
    small.execute("SET statement_timeout = 3000")
    with pytest.raises(psycopg.errors.QueryCanceled):
        small.execute(CALL, (1000000, 1))
    small.execute("RESET statement_timeout")
    n = steps(small)
    assert n >= 1
    assert small.execute("SELECT max(step) FROM llm_param WHERE model = 'small'").fetchone()[0] == n


def locks(conn):
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'userlock' AND database ="
    return conn.execute(
        query + " (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).fetchone()[0]


def test_one_trainer_at_a_time(small, connect, background):
    """The second is told immediately who trains, or waits; every exit releases the lock."""
    training = background(CALL, (1000000, 2))
    until(small, committed(2))
    for query in (
        CALL.replace("%s", "5"),
        PLAIN.replace("%s", "5"),
        "SELECT llm_train_step('small', (SELECT min(id) FROM llm_dataset))",
        "SELECT llm_reset_optimizer('small')",
    ):
        with pytest.raises(psycopg.errors.LockNotAvailable, match=f"process {training.pid} of"):
            small.execute(query)
    assert locks(small) == 1
    waiting = background(CALL[:-1] + ", wait => true)", (50, 1))
    until(small, "SELECT wait_event = 'userlock' FROM pg_stat_activity WHERE pid = %s", waiting.pid)
    small.execute("SELECT pg_terminate_backend(%s)", (training.pid,))
    training.join(30)
    assert isinstance(training.error, psycopg.errors.AdminShutdown)
    waiting.join(30)
    assert waiting.error is None
    assert locks(small) == 0
    stop_at(small, "llm_train_log", "true")
    with pytest.raises(psycopg.errors.DiskFull):
        small.execute(CALL, (5, 1))
    assert locks(small) == 0


DOUBLE = "UPDATE llm_param SET data = data * 2::real::tensor WHERE model = 'small' AND name = 'wte.weight'"
NORM = "SELECT norm(data)::real FROM llm_param WHERE model = 'small' AND name = 'wte.weight'"


def test_a_hand_update_during_the_loop_counts(small, background):
    """The update waits at most until the next commit, and the loop continues with its result."""
    call = CALL.replace("0.01", "1e-9")  # changes little, so that the doubling shows
    before = small.execute(NORM).fetchone()[0]
    training = background(call, (1000000, 200))
    until(small, committed(1))
    for _ in range(3):
        small.execute(DOUBLE)
    n = steps(small)
    until(small, committed(n + 600))
    small.execute("SELECT pg_cancel_backend(%s)", (training.pid,))
    training.join(30)
    assert isinstance(training.error, psycopg.errors.QueryCanceled)
    assert small.execute(NORM).fetchone()[0] == pytest.approx(8 * before, rel=1e-2)


@pytest.mark.slow
def test_no_deadlock_with_transactions_that_update_by_hand(small, background):
    """Long transactions change rows in any order, graph and config included: the loop waits and continues."""
    training = background(CALL, (1000000, 5))
    until(small, committed(5))
    for rows in (("wte.weight", "h.0.ln_1.bias"), ("h.0.ln_1.bias", "wte.weight")):
        with small.transaction():
            small.execute("UPDATE llm_graph SET attrs = attrs WHERE model = 'small' AND name = 'loss'")
            for name in rows:
                query = "UPDATE llm_param SET data = data WHERE model = 'small' AND name = %s"
                small.execute(query, (name,))
                time.sleep(0.2)
            n = steps(small)
            time.sleep(0.3)
            assert steps(small) == n
        until(small, committed(n + 10))
    assert training.is_alive()
    small.execute("UPDATE llm_param SET step = 3 WHERE model = 'small'")
    training.join(30)
    assert isinstance(training.error, psycopg.errors.ObjectNotInPrerequisiteState)
    assert "to step 3" in str(training.error)


def test_the_architecture_changed_during_the_loop(small, background):
    training = background(CALL, (1000000, 5))
    until(small, committed(5))
    small.execute("UPDATE llm_graph SET op = 'relu', attrs = '{}' WHERE model = 'small' AND op = 'gelu'")
    until(small, committed(steps(small) + 20))
    small.execute("DELETE FROM llm_param WHERE model = 'small' AND name = 'wpe.weight'")
    training.join(30)
    assert isinstance(training.error, psycopg.errors.UndefinedObject)
    assert "wpe.weight" in str(training.error)


def test_rows_held_by_others(small, connect):
    other = connect()
    with other.transaction(force_rollback=True):
        other.execute(DOUBLE)
        for query in (CALL.replace("%s", "5"), PLAIN.replace("%s", "5")):
            with pytest.raises(psycopg.errors.LockNotAvailable, match="has not ended"):
                small.execute(query)
    assert locks(small) == 0


def test_a_write_that_fails_leaves_the_last_commit(small, background):
    """Some rows have been written when the disk is full, or a cancel arrives."""
    stop_at(small, "llm_param", "NEW.name = 'ln_f.bias' AND NEW.step > 10")
    with pytest.raises(psycopg.errors.DiskFull):
        small.execute(CALL, (20, 5))
    small.execute("DROP TRIGGER stop ON llm_param")
    at_ten = bits(small)
    assert steps(small) == 10
    small.execute(
        "CREATE OR REPLACE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$"
    )
    small.execute("CREATE TRIGGER stop BEFORE UPDATE ON llm_param FOR EACH ROW"
        " WHEN (NEW.name = 'ln_f.bias') EXECUTE FUNCTION stop()")  # fmt: skip
    training = background(CALL, (20, 5))
    until(small, "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s", training.pid)
    small.execute("SELECT pg_cancel_backend(%s)", (training.pid,))
    training.join(30)
    assert isinstance(training.error, psycopg.errors.QueryCanceled)
    small.execute("DROP TRIGGER stop ON llm_param")
    assert (bits(small), steps(small)) == (at_ten, 10)
    small.execute(CALL, (20, 5))
    assert bits(small) == plain(small, 20)


def test_a_dataset_drained_in_the_middle(small, background):
    training = background(CALL, (1000000, 5))
    until(small, committed(5))
    small.execute("DELETE FROM llm_dataset WHERE dataset = 'small'")
    training.join(30)
    assert isinstance(training.error, psycopg.errors.NoData)
    assert "llm_dataset has no row" in str(training.error)
    assert steps(small) % 5 == 0
    with pytest.raises(psycopg.errors.NoData, match="neither"):
        small.execute(CALL, (1000000, 5))


def test_a_dataset_that_changed_between(small, tokens):
    stop_at(small, "llm_train_log", "NEW.step = 6")
    with pytest.raises(psycopg.errors.DiskFull):
        small.execute(CALL, (10, 5))
    small.execute("DROP TRIGGER stop ON llm_train_log")
    small.execute("INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('small', '{1}', '{2}')")
    notices = []
    small.add_notice_handler(lambda n: notices.append(n.message_primary))
    small.execute(CALL, (10, 5))
    assert any("had 6 rows when the run began and has 7 now" in n for n in notices)


def test_where_it_cannot_run(small):
    before = bits(small)
    with pytest.raises(psycopg.errors.ActiveSqlTransaction, match="transaction block"), small.transaction():
        small.execute(CALL, (5, 1))
    query = "DO $$ BEGIN CALL llm_train_loop('small', 5); EXCEPTION WHEN division_by_zero THEN NULL; END $$"
    with pytest.raises(psycopg.errors.ActiveSqlTransaction):
        small.execute(query)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="commit_every"):
        small.execute(CALL, (5, 0))
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="grad_workers"):
        small.execute(CALL[:-1] + ", grad_workers => 0)", (5, 1))
    with pytest.raises(psycopg.errors.UndefinedObject, match="no model"):
        small.execute("CALL llm_train_loop('nobody', 5)")
    assert (bits(small), steps(small), locks(small)) == (before, 0, 0)
    small.execute("DO $$ BEGIN CALL llm_train_loop('small', 5, warmup => 0); END $$")
    assert steps(small) == 5
    query = "SELECT prosecdef, proconfig FROM pg_proc WHERE proname LIKE '%llm_train_loop%'"
    assert small.execute(query).fetchall() == [(False, None)] * 2
