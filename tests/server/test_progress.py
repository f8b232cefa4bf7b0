"""llm_progress: what runs on the server, seen from another session, on PostgreSQL 15, 16 and 18."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import psycopg
import pytest
from helpers.pg_install import PgServer, installed, pg_config_of

import pg_llm

pytestmark = pytest.mark.slow

MODEL = "SELECT llm_create_model(%s, 1, 2, 16, 32, 300), llm_init_model(%s, 1)"
# More steps than any machine makes before the test stops it.
TRAIN = "SELECT llm_train('{0}', 100000000, dataset => 'd', lr_max => 1e-4, warmup => 1, notice_every => 0)"
LOOP = "CALL llm_train_loop('{0}', 100000000, dataset => 'd', lr_max => 1e-4, warmup => 1, notice_every => 0)"
ROWS = "SELECT * FROM llm_progress ORDER BY pid"


@pytest.fixture(scope="module", params=[15, 16, 18])
def postgres(request, home):
    """A running server of that version, which does not preload the library, with two databases."""
    if pg_config_of(request.param) is None:
        pytest.skip(f"PostgreSQL {request.param} with its headers is not on this machine")
    server = PgServer(installed(request.param), home)
    with server.connect() as conn:
        conn.execute("CREATE DATABASE one")
    with server.connect("one") as conn:
        conn.execute("CREATE EXTENSION pg_llm")
        for model in ("a", "b"):
            conn.execute(MODEL, [model, model])
            conn.execute("SELECT llm_bpe_train('SELECT ''a''::text', 257, %s)", [model])
        conn.execute(
            "INSERT INTO llm_dataset (dataset, tokens, target) SELECT 'd', array_agg(i * j % 300), "
            "array_agg((i * j + i) % 300) FROM generate_series(1, 9) AS i, generate_series(1, 16) AS j "
            "GROUP BY i"
        )
    with server.connect() as conn:
        conn.execute("CREATE DATABASE two TEMPLATE one")
    yield server
    server.stop()


@pytest.fixture
def sessions(postgres):
    """A function that opens a session; at the end each is cancelled, and nothing may be left in the view."""
    opened: list[psycopg.Connection] = []

    def connect(database="one", **more):
        more["options"] = "-c jit=off"  # Debian's server would compile for seconds in each of fifty sessions
        opened.append(
            psycopg.connect(
                host=str(postgres.sockets), user="postgres", dbname=database, autocommit=True, **more
            )
        )
        return opened[-1]

    yield connect
    for conn in opened:
        with contextlib.suppress(psycopg.Error):
            conn.cancel()
        conn.close()
    with until(lambda: connected(postgres), "the server is not there") as conn:
        until(lambda: rows(conn) == [], "a row is left")


def until(condition, otherwise):
    """Waits until a condition is true and returns its value; fails after a minute."""
    end = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)
    return value


def rows(conn, where=""):
    """The view's rows as dicts."""
    cursor = conn.execute(f"SELECT * FROM llm_progress {where} ORDER BY pid")
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


class Running:
    """A statement in another thread, and the error it ended with."""

    def __init__(self, conn, statement):
        self.conn, self.error = conn, None
        self.pid = conn.info.backend_pid
        self.thread = threading.Thread(target=self._run, args=[statement], daemon=True)
        self.thread.start()

    def _run(self, statement):
        try:
            self.conn.execute(statement)
        except psycopg.Error as error:
            self.error = error

    def row(self, reader, condition=lambda row: True):
        """Its row in the view once that fulfils the condition."""

        def found():
            mine = rows(reader, f"WHERE pid = {self.pid}")
            return mine and condition(mine[0]) and mine[0]

        return until(found, f"no such row of process {self.pid}: {self.error}")

    def cancel(self):
        self.conn.cancel()
        self.thread.join()
        assert isinstance(self.error, psycopg.errors.QueryCanceled)


def moving(row):
    return row["step"] > 2 and row["tokens_per_second"]


def test_two_trainings_and_a_reader_in_a_third_session(sessions):
    """Steps move; a loop and a call, in two databases; cancelled, they leave no row at once."""
    reader = sessions("two")
    first = Running(sessions(application_name="notebook 12"), TRAIN.format("a"))
    second = Running(sessions("two"), LOOP.format("b"))
    before, other = first.row(reader, moving), second.row(reader, moving)
    assert {key: before[key] for key in ("datname", "usename", "application_name", "kind", "model")} == {
        "datname": "one",
        "usename": "postgres",
        "application_name": "notebook 12",
        "kind": "train",
        "model": "a",
    }
    assert (other["datname"], other["model"], other["kind"]) == ("two", "b", "train")
    assert before["steps"] == 100000000 and before["unit"] == "step"
    after = first.row(reader, lambda row: row["step"] > before["step"])
    assert after["started"] == before["started"] < after["eta"]
    # As many steps as the log will have is not visible yet: nothing is committed.
    assert reader.execute("SELECT count(*) FROM llm_train_log WHERE model = 'a'").fetchone() == (0,)
    first.cancel()
    second.cancel()
    assert rows(reader) == []


def test_the_step_is_that_of_the_log(sessions):
    """Committed at each step, a loop has logged what the view says, and at most one step more or less."""
    reader = sessions()
    reader.execute("DELETE FROM llm_train_run WHERE model = 'a'")
    running = Running(sessions(), LOOP.format("a").replace(")", ", commit_every => 1)"))
    running.row(reader, moving)
    lowest = reader.execute(
        "SELECT max(step) - min(step) + 1 FROM llm_train_log WHERE model = 'a'"
    ).fetchone()[0]
    shown = running.row(reader)["step"]
    query = "SELECT max(step) - min(step) + 2 FROM llm_train_log WHERE model = 'a'"
    assert lowest <= shown <= reader.execute(query).fetchone()[0]
    running.cancel()


def test_rates_are_those_of_the_steps(sessions):
    """tokens_per_second and eta follow from each other: 16 tokens a step."""
    reader = sessions()
    running = Running(sessions(), TRAIN.format("a"))
    row = running.row(reader, lambda row: row["step"] > 20)
    query = (
        "SELECT extract(epoch FROM eta - started)::float8, (steps * 16 / tokens_per_second)::float8 "
        f"FROM llm_progress WHERE pid = {running.pid}"
    )
    remaining, computed = reader.execute(query).fetchone()
    # The time before the first step, loading and locks, is in neither the rate nor the estimate.
    assert row["steps"] and abs(remaining / computed - 1) < 0.2
    running.cancel()


def test_a_role_without_rights(sessions):
    """Another role sees that a session works, and nothing of its work; who may read all does."""
    reader = sessions()
    reader.execute("CREATE ROLE looker")
    running = Running(sessions(), TRAIN.format("a"))
    try:
        running.row(reader, moving)
        reader.execute("SET ROLE looker")
        row = running.row(reader)
        seen = {"pid": running.pid, "datname": "one", "usename": "postgres", "application_name": ""}
        assert {name: value for name, value in row.items() if value is not None} == seen
        reader.execute("RESET ROLE; GRANT pg_read_all_stats TO looker; SET ROLE looker")
        assert running.row(reader)["model"] == "a"
    finally:
        running.cancel()
        reader.execute("RESET ROLE; DROP OWNED BY looker; DROP ROLE looker")


def test_errors_and_subtransactions_leave_no_row(sessions):
    """In the same session, after an error that a block catches, and inside a transaction that has failed."""
    conn, reader = sessions(), sessions()
    conn.execute(
        "DO $$ BEGIN PERFORM llm_train('a', 3, dataset => 'd', lr_max => 1e6, wd => 1e6, warmup => 1);"
        " EXCEPTION WHEN others THEN NULL; END $$"
    )
    assert rows(conn) == []
    for statement in (
        "SELECT llm_train('a', 10, dataset => 'd', vocab => 7)",
        "SELECT llm_checkpoint_load('a', 12345)",
        "SELECT llm_story_dataset('no tokenizer', 1, 10, 'nobody')",
        "SELECT llm_quantize('no model', 'int8')",
    ):
        with pytest.raises(psycopg.Error), conn.transaction():
            try:
                conn.execute(statement)
            finally:
                assert rows(reader) == []


KINDS = {
    "generate": "SELECT llm_generate('a', 126, model => 'big', seed => 1)",
    "load data": "SELECT llm_story_dataset('stories', 1, 1000000, 'letters')",
    "quantize": "SELECT llm_quantize('big', 'int8', 'small')",
    "checkpoint save": "SELECT llm_checkpoint_save('big', format => 'rows')",
    "checkpoint load": "SELECT llm_checkpoint_load('big', min(id)) FROM llm_checkpoint",
    "train tokenizer": "SELECT llm_bpe_train('SELECT i::text FROM generate_series(1, 99999) i', 5000, 't')",
    "replay": "SELECT * FROM llm_replay('big', (SELECT min(id) FROM llm_checkpoint))",
}


def test_every_kind(sessions, tmp_path):
    """Each kind of work is seen while it runs: it is repeated until it has been."""
    conn, reader = sessions(), sessions()
    conn.execute("SELECT llm_create_model('big', 4, 4, 128, 128, 3000), llm_init_model('big', 1)")
    conn.execute("SELECT llm_create_model('letters', 1, 2, 16, 128, 300), llm_init_model('letters', 1)")
    for model in ("big", "letters"):
        conn.execute("SELECT llm_bpe_train('SELECT ''a''::text', 257, %s)", [model])
    conn.execute("SELECT llm_checkpoint_save('big', format => 'rows')")
    conn.execute("SELECT llm_train('big', 30, dataset => 'd', warmup => 1)")
    for kind, statement in KINDS.items():
        seen = watch(conn, reader, statement)
        assert seen["kind"] == kind and (seen["steps"] is None or seen["step"] <= seen["steps"]), seen
    path = tmp_path / "model.safetensors"
    write_model(conn, path)
    seen = watch_import(conn, reader, path)
    assert (seen["kind"], seen["model"], seen["unit"]) == ("import", "imported", "tensor")
    conn.execute("DELETE FROM llm_model_config WHERE model IN ('big', 'letters', 'imported', 'small')")


def test_fifty_sessions(sessions):
    """Fifty trainings at once have fifty rows; of 150 open streams 128 are shown, without errors."""
    reader = sessions()
    held = [sessions() for _ in range(50)]
    for i in range(len(held)):
        reader.execute(MODEL, [f"m{i}", f"m{i}"])
    running = [Running(conn, TRAIN.format(f"m{i}")) for i, conn in enumerate(held)]
    until(lambda: len(rows(reader, "WHERE step > 0")) == 50, "not every training is shown")
    assert {row["model"] for row in rows(reader)} == {f"m{i}" for i in range(50)}
    for one in running:
        one.cancel()
    assert rows(reader) == []
    stream = "DECLARE c{} CURSOR FOR SELECT * FROM llm_generate_stream('a', 20, model => 'a', seed => 1)"
    for conn in held:
        conn.execute("BEGIN")
        for i in range(3):
            conn.execute(stream.format(i))
            conn.execute(f"FETCH 1 FROM c{i}")
    assert len(rows(reader)) == 128
    for conn in held:
        conn.execute("ROLLBACK")
    assert rows(reader) == []
    reader.execute("DELETE FROM llm_model_config WHERE model ~ '^m[0-9]'")


def test_names_of_waits(sessions, postgres):
    """A loop that waits for rows has a wait event of its own from PostgreSQL 17 on; before, Extension."""
    reader, other = sessions(), sessions()
    other.execute("BEGIN; UPDATE llm_param SET grad = NULL WHERE model = 'a'")
    running = Running(sessions(), LOOP.format("a").replace(")", ", wait => true)"))
    try:
        assert running.row(reader)["phase"] == "waiting"
        query = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Extension'"
        name = until(lambda: reader.execute(query, [running.pid]).fetchone(), "no wait event")[0]
        assert name == ("PgLlmTrainingRows" if postgres.install.version >= 17 else "Extension")
    finally:
        other.execute("ROLLBACK")
        running.row(reader, moving)
        running.cancel()


def test_terminated_and_killed(sessions, postgres):
    """A session that is terminated, or whose process is killed (the server then restarts), leaves no row."""
    reader = sessions()
    running = Running(sessions(), TRAIN.format("a"))
    running.row(reader, moving)
    reader.execute("SELECT pg_terminate_backend(%s)", [running.pid])
    running.thread.join()
    until(lambda: rows(reader) == [], "a terminated training is still shown")
    running = Running(sessions(), TRAIN.format("a"))
    running.row(reader, moving)
    os.kill(running.pid, signal.SIGKILL)
    running.thread.join()
    until(
        lambda: broken(reader), "the server goes on"
    )  # from now on it accepts nobody until it has restarted
    with until(lambda: connected(postgres), "the server does not restart") as conn:
        assert rows(conn) == []
        other = Running(sessions(), TRAIN.format("a"))
        other.row(conn, moving)
        other.cancel()


def connected(postgres):
    """A connection, or None while the server restarts."""
    with contextlib.suppress(psycopg.OperationalError):
        return postgres.connect("one")


def broken(conn):
    """Whether the server has ended a session."""
    try:
        conn.execute("SELECT 1")
    except psycopg.Error:
        return True
    return False


def watch(conn, reader, statement):
    """A row of the view that a statement had while it ran; run again if it was too short."""
    for _ in range(50):
        running = Running(conn, statement)
        while running.thread.is_alive():
            for row in rows(reader, f"WHERE pid = {running.pid}"):
                if row["step"]:
                    running.conn.cancel()
                    running.thread.join()
                    assert isinstance(running.error, psycopg.errors.QueryCanceled | None)
                    until(lambda: rows(reader) == [], "a row is left")
                    return row
        assert running.error is None, running.error
        if "quantize" in statement:
            conn.execute("DELETE FROM llm_model_config WHERE model = 'small'")
    raise AssertionError(f"never seen: {statement}")


def write_model(conn, path):
    """The parameters of the model big as a file."""
    import numpy as np
    from safetensors.numpy import save_file

    tensors = conn.execute("SELECT name, data::real[], shape(data) FROM llm_param WHERE model = 'big'")
    save_file(
        {name: np.asarray(data, np.float32).reshape(shape) for name, data, shape in tensors},
        path,
        {"format": "pt"},
    )


def watch_import(conn, reader, path):
    """A row of the view while load_model runs."""
    for _ in range(50):
        conn.execute("SELECT llm_create_model('imported', 4, 4, 128, 128, 3000)")
        loading = threading.Thread(target=pg_llm.load_model, args=[conn, path, "imported"])
        loading.start()
        seen = []
        while loading.is_alive():
            seen += [row for row in rows(reader) if row["step"]]
        loading.join()
        assert rows(reader) == []
        if seen:
            return seen[0]
        conn.execute("DELETE FROM llm_model_config WHERE model = 'imported'")
    raise AssertionError("an import was never seen")
