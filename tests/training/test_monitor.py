"""The training monitor: what it trains, stops, resumes and rolls back, and what it says when that fails."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time

import psycopg
import pytest
from helpers.jupyter_kernel import Kernel

import pg_llm
from pg_llm.errors import KitError
from pg_llm.notebook import saving
from pg_llm.server import database as databases
from pg_llm.widgets import monitor as monitors

OPTIONS = {"dataset": "stories", "batch_size": 2, "lr_max": 0.01, "warmup": 5, "dropout_p": 0.1, "seed": 3}
CALL = (
    "CALL llm_train_loop(%s, %s, dataset => 'stories', batch_size => 2, lr_max => 0.01, warmup => 5, "
    "dropout_p => 0.1, seed => 3)"
)
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_llm training monitor'"


@pytest.fixture(scope="module")
def database(server):
    """Name of a database with a dataset of stories."""
    name = "test_monitor"
    databases.drop_database(name)
    databases.create_database(name)
    with pg_llm.connect(name) as conn:
        conn.execute("SELECT llm_story_dataset('stories', 1, 60, 'classroom')")
        conn.execute("SELECT llm_story_dataset('held', 900, 4, 'classroom')")
    yield name
    databases.drop_database(name)


@pytest.fixture
def conn(database):
    """A connection; models a and b are new and equal, and no training is left at the end."""
    with pg_llm.connect(database) as connection:
        connection.execute("TRUNCATE llm_train_run, llm_train_log, llm_checkpoint CASCADE")
        for model in "ab":
            connection.execute("DELETE FROM llm_model_config WHERE model = %s", [model])
            connection.execute(
                "SELECT llm_create_model(m, 1, 2, 16, 192, 786, tokenizer => 'classroom'), "
                "llm_init_model(m, 2) "
                "FROM (SELECT %s::text AS m) AS t",
                [model],
            )
        yield connection
        connection.execute("ROLLBACK")
        until(lambda: value(connection, SESSIONS) == 0, "a training is left")
        assert not [t for t in threading.enumerate() if t.name.startswith("train ")]


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """The monitor reads the log often, so that a test acts while a short training still runs."""
    monkeypatch.setattr("pg_llm.notebook.training.LOOK", 0.02)


def value(conn, query: str, *arguments):
    return conn.execute(query, arguments).fetchone()[0]


def sha(conn, model: str) -> str:
    return value(conn, "SELECT llm_model_sha256(%s)", model)


def until(truth, what: str = "it did not happen", seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def monitor(conn, steps: int = 40, **options) -> monitors.TrainingMonitor:
    return pg_llm.training_monitor(
        "b", steps, conn=conn, **{**OPTIONS, "every": 10, "prompt": "It was", "tokens": 4, **options}
    )


def test_it_trains_as_one_call_of_the_loop_does(conn):
    conn.execute(CALL, ["a", 40])
    before = sha(conn, "b")
    seen = monitor(conn)
    assert seen.state == "ready" and sha(conn, "b") == before
    assert seen.wait() is seen and (seen.state, seen.step) == ("done", 40)
    assert sha(conn, "a") == sha(conn, "b")
    query = "SELECT array_agg(loss ORDER BY step) FROM llm_train_log WHERE model = %s"
    assert [row.loss for row in seen.training.log] == value(conn, query, "a")
    assert value(conn, "SELECT count(*) FROM llm_train_run WHERE model = 'b'") == 1
    assert [sample.step for sample in seen.samples] == [0, 10, 20, 30, 40]
    text = value(conn, "SELECT llm_generate('It was', 4, model => 'b', seed => 1)")
    assert seen.samples[-1].texts == (text,)


def test_cells_go_on_while_it_trains_and_it_stops_and_resumes_to_the_same_bits(conn):
    conn.execute(CALL, ["a", 200])
    seen = monitor(conn, 200, commit_every=2).start()
    until(lambda: value(conn, "SELECT count(*) FROM llm_train_log WHERE model = 'b'") > 3)
    assert seen.stop().state == "stopped" and 0 < seen.step < 200
    until(lambda: value(conn, SESSIONS) == 0)
    assert value(conn, "SELECT max(step) FROM llm_train_log WHERE model = 'b'") == seen.step
    assert seen.resume().wait().step == 200 and sha(conn, "a") == sha(conn, "b")
    assert value(conn, "SELECT count(*) FROM llm_train_run WHERE model = 'b'") == 1
    # done; another start is another run
    seen.start().wait()
    assert seen.step == 400 and [s.step for s in seen.samples][-3:] == [380, 390, 400]


def test_it_rolls_back_to_the_start_or_to_a_checkpoint(conn):
    before = sha(conn, "b")
    seen = monitor(conn)
    with pytest.raises(KitError, match="nothing"):
        seen.roll_back()
    seen.wait()
    trained = sha(conn, "b")
    kept = value(conn, "SELECT llm_checkpoint_save('b', 'mine')")
    assert seen.roll_back() == 0 and seen.state == "ready" and sha(conn, "b") == before
    assert value(conn, "SELECT count(*) FROM llm_train_log WHERE model = 'b'") == 40  # the log keeps them
    assert all(row.undone for row in seen.training.log) and seen.training.loss is None
    assert [(c.id, c.own) for c in seen.training.checkpoints] == [(kept - 1, True), (kept, False)]
    assert seen.roll_back(kept) == 40 and sha(conn, "b") == trained
    seen.roll_back()
    assert seen.wait().step == 40 and sha(conn, "b") == trained  # from the start again, to the same bits
    with pytest.raises(psycopg.Error, match="no checkpoint 999"):
        seen.roll_back(999)


def test_rolling_back_stops_first_and_waits_for_no_lock_for_ever(conn, monkeypatch):
    before = sha(conn, "b")
    seen = monitor(conn, 500, commit_every=1).start()
    until(lambda: seen.step > 2)
    assert seen.roll_back() == 0 and sha(conn, "b") == before
    until(lambda: value(conn, SESSIONS) == 0)
    monkeypatch.setattr("pg_llm.notebook.training.SETTINGS", "SET lock_timeout = '100ms'")
    conn.execute("BEGIN; UPDATE llm_param SET step = 7 WHERE model = 'b'")
    seen._message(seen, {"kind": "back", "checkpoint": seen.training.own}, [])
    assert "lock timeout" in seen.error
    conn.execute("ROLLBACK")


def test_another_learning_rate_holds_for_the_steps_that_are_left(conn):
    seen = monitor(conn, 200, commit_every=1, warmup=50).start()
    until(lambda: seen.step > 3)
    seen.learning_rate = 0.003
    until(lambda: "0.003" in seen.view["sql"] and seen.training.end is not None)
    seen.stop()
    seen.learning_rate = 0.001
    seen.start().wait()
    runs = conn.execute(
        "SELECT first_step, n_steps, lr_max, warmup FROM llm_train_run WHERE model = 'b' ORDER BY run"
    ).fetchall()
    assert [run[2] for run in runs] == [0.01, 0.003, 0.001]
    for first, steps, _, warmup in runs:
        assert first + steps == 200 and warmup == max(0, 50 - first)
    assert seen.step == 200 and [s.step for s in seen.samples] == list(range(0, 201, 10))
    seen.learning_rate = 0
    assert "above 0" in seen.error


def test_a_new_monitor_continues_what_an_earlier_one_began(conn):
    conn.execute(CALL, ["a", 40])
    first = monitor(conn, commit_every=1).start()
    until(lambda: first.step > 12)
    first.stop()
    second = monitor(conn)
    second.wait()
    assert second.step == 40 and sha(conn, "a") == sha(conn, "b")
    assert [row.step for row in second.training.log] == list(range(1, 41))  # with the steps before it
    assert {sample.step for sample in second.samples} == {
        first.step,
        *(s for s in (20, 30, 40) if s > first.step),
    }


def test_two_monitors_of_one_model_get_the_lock_message(conn):
    first = monitor(conn, 4000, every=4000).start()  # no sample before the end, when the model is free
    until(lambda: first.step > 0)
    second = monitor(conn)
    with pytest.raises(KitError, match="is being trained by pg_llm training monitor .process"):
        second.wait()
    assert second.state == "failed" and "is being trained" in second.error and "wait => true" in second.error
    with pytest.raises(KitError, match="already"):
        first.start()
    first.stop()
    second.resume().wait()
    assert second.state == "done" and not second.error


def test_failures_are_shown_in_words(conn, database):
    with pytest.raises(psycopg.Error, match="no model"):
        pg_llm.training_monitor("nobody", 5, conn=conn)
    with pytest.raises(KitError, match="option 'lr' is none"):
        monitor(conn, lr=0.1)
    with pytest.raises(KitError, match="every is 0"):
        monitor(conn, every=0)
    seen = monitor(conn, dataset="none")
    with pytest.raises(KitError, match='dataset "none" has no rows'):
        seen.wait()
    assert seen.view["state"] == "failed" and "HINT" in seen.error
    # deleted while it trains
    seen = monitor(conn, 400, commit_every=1).start()
    until(lambda: seen.step > 1)
    conn.execute("DELETE FROM llm_model_config WHERE model = 'b'")
    with pytest.raises(KitError, match="b"):
        seen.wait()
    assert seen.state == "failed"


def test_an_uncommitted_model_is_named(conn):
    conn.execute("BEGIN")
    conn.execute("SELECT llm_create_model('c', 1, 2, 16, 192, 786), llm_init_model('c', 2)")
    with pytest.raises(KitError, match="COMMIT makes it|before %sql COMMIT"):
        pg_llm.training_monitor("c", 5, conn=conn)


def test_a_lost_connection_and_a_cancel_from_elsewhere_are_named_and_resumed(conn):
    conn.execute(CALL, ["a", 600])
    seen = monitor(conn, 600, commit_every=1, every=1000).start()
    until(lambda: seen.step > 2)
    pids = "FROM pg_stat_activity WHERE application_name = 'pg_llm training monitor' AND query LIKE 'CALL%'"
    conn.execute(f"SELECT pg_terminate_backend(pid) {pids}")
    with pytest.raises(KitError, match="terminating connection"):
        seen.wait()
    seen.resume()
    at = seen.step
    until(lambda: seen.step > at + 2)
    conn.execute(f"SELECT pg_cancel_backend(pid) {pids}")
    until(lambda: not seen.training.running)
    assert seen.state == "stopped" and seen.view["notes"] == ["another session cancelled the training"]
    assert seen.resume().wait().step == 600 and sha(conn, "a") == sha(conn, "b")


def test_a_model_moved_by_others_begins_a_new_run(conn):
    seen = monitor(conn, 600, commit_every=1).start()
    until(lambda: seen.step > 2)
    at = seen.stop().step
    conn.execute(CALL, ["b", 3])
    seen.start()
    until(lambda: seen.step > at + 4)
    assert f"was at step {at} and is at step {at + 3} now" in seen.stop().training.notes[0]


def test_a_role_without_rights_is_told(conn, database):
    conn.execute("DROP ROLE IF EXISTS monitor_guest")
    conn.execute("CREATE ROLE monitor_guest LOGIN")
    conn.execute(f"GRANT CONNECT ON DATABASE {database} TO monitor_guest")
    conn.execute("REVOKE UPDATE ON llm_param FROM PUBLIC")
    try:
        info = {**psycopg.conninfo.conninfo_to_dict(conn.info.dsn), "user": "monitor_guest"}
        with contextlib.closing(psycopg.connect(**info, autocommit=True)) as guest:
            seen = pg_llm.training_monitor("b", 5, dataset="stories", conn=guest)
            with pytest.raises(KitError, match="permission denied"):
                seen.wait()
    finally:
        conn.execute(f"REVOKE ALL ON DATABASE {database} FROM monitor_guest")
        conn.execute("DROP ROLE monitor_guest")
        conn.execute("GRANT UPDATE ON llm_param TO PUBLIC")


# -- what is shown ----


def test_the_validation_loss_is_measured_with_the_samples(conn):
    seen = monitor(conn, 20, validation="held", draws=2).wait()
    loss = value(conn, "SELECT loss FROM llm_dataset_loss('b', 'held')")
    assert seen.samples[-1].validation == loss and len(seen.samples[-1].texts) == 2
    assert "validation" in seen.describe() and seen.draw().count("<circle") == 3
    only = monitor(conn, 20, validation="held", prompt=None)
    assert only.training.prompt == [785]


def test_the_picture_is_the_plan_while_it_trains_and_the_result_afterwards(conn):
    lines = {"uniform": 6.667, "floor": 0.74, "unigram": 4.1, "near": 4.11}
    seen = monitor(conn, 30, references=lines)
    plan = seen.describe()
    assert "30 steps" in plan and "uniform 6.67" in plan and "floor 0.74" in plan
    seen.start()
    assert seen.describe() == plan
    seen.wait()
    assert seen.describe().startswith(plan) and "Done: step 30 of 30" in seen.describe()
    data, _ = seen._repr_mimebundle_()
    alt = re.search(r'alt="([^"]+)"', data["text/html"]).group(1)
    assert alt == data["text/plain"].replace('"', "&quot;") and saving.MARK in data["text/html"]
    assert seen.draw() == seen.draw() and "tokens/s" not in seen.draw() + seen.describe()
    labels = [float(y) for y in re.findall(r'x="616" y="([\d.]+)"', seen.draw())]
    assert len(labels) == 4 and min(b - a for a, b in zip(labels, labels[1:], strict=False)) >= 13.9
    # the same training has the same picture
    first = seen.draw()
    seen.roll_back()
    again = monitor(conn, 30, references=lines).wait().draw()
    assert again == first


def test_the_view_has_what_the_script_draws(conn):
    seen = monitor(conn, 20).wait()
    view = seen.view
    assert (view["state"], view["step"], view["end"]) == ("done", 20, 20)
    assert view["svg"].startswith("<svg") and "var(--pgl-blue" in view["svg"]
    assert (
        view["sql"].startswith("CALL llm_train_loop('b', 20, ") and "llm_checkpoint_load('b'" in view["sql"]
    )
    seen._message(seen, {"kind": "back", "checkpoint": seen.training.own}, [])
    assert seen.view["state"] == "ready" and seen.view["step"] == 0 and seen.view["samples"][1]["undone"]
    assert "rolled back" in seen.view["svg"]


def test_whoever_waits_sees_the_end_also_where_drawing_is_slow(conn, monkeypatch):
    told = monitors.TrainingMonitor._told
    monkeypatch.setattr(monitors.TrainingMonitor, "_told", lambda self: (time.sleep(0.3), told(self)))
    seen = monitor(conn, 2).wait()
    assert (seen.view["state"], seen.view["step"]) == ("done", 2)
    seen.start()
    until(lambda: seen.state == "done")
    seen.training.stop()  # nothing is left to be stopped
    assert seen.start().wait().view["state"] == "done" and seen.step == 6


def test_long_curves_are_means(conn):
    rows = [monitors.Step(i, 1, i, 0.1, float(i), 1, 0.0) for i in range(1, 1001)]
    x, y = monitors.curve(rows)
    assert len(x) <= monitors.POINTS and x.tolist() == y.tolist() and x[0] == 3.0
    assert monitors.ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]


# -- programs and kernels ----


@pytest.mark.slow
def test_a_program_prints_lines_and_its_end_ends_the_training(conn, database):
    setup = f"import pg_llm\nconn = pg_llm.connect({database!r})\n"
    call = "m = pg_llm.training_monitor('b', {}, dataset='stories', every=5, prompt='It was', conn=conn)\n"
    run = [sys.executable, "-c"]
    seen = subprocess.run(
        [*run, setup + call.format(10) + "m.wait()"], capture_output=True, text=True, timeout=60
    )
    lines = seen.stdout.splitlines()
    assert [line.split(" It was")[0].split(" loss")[0] for line in lines] == [
        "step 0",
        "step 5",
        "step 10",
    ], seen
    ending = "m.start()\nimport time\nwhile m.step < 12: time.sleep(0.05)"
    subprocess.run([*run, setup + call.format(10**6) + ending], check=True, timeout=60)
    until(lambda: value(conn, SESSIONS) == 0, seconds=2)
    # killed, it has no time to stop the training: the server notices
    killed = subprocess.Popen(
        [*run, setup + call.format(10**6) + "m.start().wait()"], stdout=subprocess.DEVNULL
    )
    until(lambda: value(conn, SESSIONS) == 2)
    killed.kill()
    killed.wait()
    until(lambda: value(conn, SESSIONS) == 0, "the server trains on")


@pytest.mark.slow
def test_the_magic_starts_it_and_cells_go_on(server):
    kernel = Kernel()
    try:
        assert kernel.run("%load_ext pg_llm\nimport pg_llm").ok
        made = kernel.run(
            "%sql SELECT llm_create_model('b', 1, 2, 16, 192, 786, tokenizer => 'classroom'), "
            "llm_init_model('b', 2), llm_story_dataset('s', 1, 60, 'classroom')"
        )
        assert made.ok, made.traceback
        kernel.run("lines = {'uniform': 6.667}")
        shown = kernel.run('%pg_llm train b 4000 dataset=s prompt="It was" references=:lines commit_every=1')
        assert {*shown.displays[0]} == {
            "text/plain",
            "text/html",
            saving.VIEW,
        } and "uniform 6.67" in shown.result
        kernel.run("m = _")
        counted = kernel.run("%sql SELECT count(*) > 0 AS some FROM llm_train_run")
        assert counted.ok and counted.seconds < 3
        refused = kernel.run("%pg_llm reset")
        assert "pg_llm training monitor" in refused.traceback
        stopped = kernel.run("m.wait()", interrupt_after=1)
        assert stopped.error == "KeyboardInterrupt"
        assert kernel.run("print(m.state, m.step > 0)").printed == "stopped True\n"
        for line, word in [
            ("train b", "steps"),
            ("train b many", "whole number"),
            ("train b 4 lr=1", "option 'lr'"),
            ("train b 4 references=:nothing", "no Python variable nothing"),
        ]:
            wrong = kernel.run(f"%pg_llm {line}")
            assert re.search(word, wrong.printed + wrong.traceback), line
        assert kernel.run("%pg_llm reset").ok
        gone = kernel.run("m.wait()\nm.start().wait()")
        assert "no model" in gone.message and not gone.ok
    finally:
        kernel.close()
