"""kill -9 during a training loop: committed steps survive, and training resumes with the same bits."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from pg_llm.server.server import Server

pytestmark = pytest.mark.slow

N = 400
CALL = (
    "CALL llm_train_loop(%s, %s, dataset => 'd', lr_max => 0.01, warmup => 5, batch_size => 2, seed => 3,"
    " dropout_p => 0.1, notice_every => 0, commit_every => %s)"
)
STATE = "md5(tensor_send(data)::text || tensor_send(m)::text || tensor_send(v)::text)"


@pytest.fixture
def folder(extension, monkeypatch):
    """A server of the test's own."""
    monkeypatch.setenv("PG_LLM_EXTENSION", str(extension))
    path = Path(tempfile.mkdtemp(prefix="pg_llm-crash-", dir="/tmp"))
    path.chmod(0o755)
    yield path / "home"
    Server(path / "home").stop()
    shutil.rmtree(path, ignore_errors=True)


def connect(live):
    return psycopg.connect(**live.conninfo(), autocommit=True)


def prepare(conn):
    """Two equal models; every state of the uninterrupted 'plain' is kept by its step."""
    conn.execute("CREATE EXTENSION pg_llm")
    for model in ("plain", "crashed"):
        conn.execute("SELECT llm_create_model(%s, 2, 2, 32, 16, 300), llm_init_model(%s, 1)", (model, model))
    conn.execute(
        "INSERT INTO llm_dataset (dataset, tokens, target)"
        " SELECT 'd', array_agg(i * j % 300), array_agg((i * j + i) % 300)"
        " FROM generate_series(1, 9) AS i, generate_series(1, 16) AS j GROUP BY i ORDER BY i"
    )
    conn.execute("CREATE TABLE kept (step bigint, name text, state text, PRIMARY KEY (step, name))")
    conn.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$ BEGIN"
        f" INSERT INTO kept SELECT n.step, n.name, {STATE} FROM (SELECT NEW.*) AS n; RETURN NULL; END $$"
    )
    conn.execute("CREATE TRIGGER keep AFTER UPDATE ON llm_param FOR EACH ROW WHEN (NEW.model = 'plain')"
        " EXECUTE FUNCTION keep()")  # fmt: skip
    conn.execute(CALL, ("plain", N, 1))


def check(conn):
    """Checks that the model is one of plain's states and that the log ends with it. Returns its step."""
    query = (
        "SELECT count(DISTINCT p.step), max(p.step), bool_and(p.state = k.state), count(*)"
        f" FROM (SELECT name, step, {STATE} AS state FROM llm_param WHERE model = 'crashed'"
        " AND step > 0) AS p LEFT JOIN kept AS k USING (name, step)"
    )
    steps, step, same, rows = conn.execute(query).fetchone()
    parameters = conn.execute("SELECT count(*) FROM llm_param WHERE model = 'crashed'").fetchone()[0]
    log = "SELECT count(*), max(step) FROM llm_train_log WHERE model = 'crashed'"
    logged = conn.execute(log).fetchone()
    if step is None:
        assert logged == (0, None)
        return 0
    assert (steps, same, rows) == (1, True, parameters)
    assert logged == (step, step)
    return step


def train_and_kill(live, commit_every, delay, victims):
    """Trains in another session; kills the victims after a delay."""

    def train():
        with contextlib.suppress(psycopg.Error), connect(live) as conn:
            conn.execute(CALL, ("crashed", N, commit_every))

    with connect(live) as conn:
        before = check(conn)
        thread = threading.Thread(target=train)
        thread.start()
        moved = "SELECT count(*) > %s FROM llm_train_log WHERE model = 'crashed'"
        end = time.monotonic() + 30
        while not conn.execute(moved, (before,)).fetchone()[0]:
            assert time.monotonic() < end
        trainer = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CALL%'"
        pid = conn.execute(trainer).fetchone()[0]
    time.sleep(delay)
    doomed = victims(psutil.Process(live.pid), pid)
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(doomed, 10)
    thread.join(30)
    assert not thread.is_alive()


def everything(postmaster, backend):
    return [postmaster, *postmaster.children(recursive=True)]


def only_postmaster(postmaster, backend):
    return [postmaster]


def only_backend(postmaster, backend):
    return [psutil.Process(backend)]


def open_again(folder):
    """A connection, once the server accepts connections again."""
    end = time.monotonic() + 60
    while True:
        try:
            return connect(Server(folder).start())
        except psycopg.OperationalError:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_killed_and_resumed_to_the_same_bits(folder):
    """The whole server, the postmaster or the training session dies, at any moment of a step or a write."""
    rng = random.Random(os.environ.get("PG_LLM_CRASH_SEED", "1"))
    with connect(Server(folder).start()) as conn:
        prepare(conn)
    steps = [0]
    for victims, commit_every in ((everything, 1), (only_backend, 4), (only_postmaster, 1), (everything, 3)):
        if steps[-1] == N:
            break
        live = Server(folder).start()
        train_and_kill(live, commit_every, rng.uniform(0, 0.1), victims)
        with open_again(folder) as conn:
            steps.append(check(conn))
    assert steps == sorted(steps) and 0 < steps[-1]
    with open_again(folder) as conn:
        if steps[-1] < N:
            conn.execute(CALL, ("crashed", N, None))
        assert check(conn) == N
        runs = "SELECT count(*) FROM llm_train_run WHERE model = 'crashed'"
        assert conn.execute(runs).fetchone()[0] == 1
