"""pg-llm class watch: the newest step of each student, whatever a student does to be in the way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import psycopg
import pytest

from pg_llm.course import students
from pg_llm.course.watch import BARS, Watch, sparkline
from pg_llm.errors import KitError

NAMES = ["ann", "ben", "cy", "di"]
MODEL = """
SELECT llm_create_model('{0}', 1, 2, 16, 128, 786); SELECT llm_init_model('{0}', 1);
UPDATE llm_model_config SET tokenizer = 'classroom' WHERE model = '{0}';
SELECT llm_story_dataset('stories', 1, 20, 'classroom');
"""
TRAIN = (
    "SELECT llm_train('{0}', 30, dataset => 'stories', lr_max => 0.02, warmup => 2, seed => 1, "
    "notice_every => 0)"
)
# Everything that a student can set or hang where the watching superuser would run it.
TRAPS = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.strike() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    IF current_user <> 'ann' OR session_user <> 'ann' THEN EXECUTE 'ALTER ROLE ann SUPERUSER'; END IF;
    RETURN true;
END $$;
CREATE FUNCTION evil.equal(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.strike()';
CREATE FUNCTION evil.equal8(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT evil.strike()';
CREATE FUNCTION evil.llm_model_sha256(text) RETURNS text LANGUAGE sql AS 'SELECT evil.strike()::text';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.equal);
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.equal8);
CREATE VIEW evil.pg_extension AS SELECT * FROM pg_catalog.pg_extension WHERE evil.strike();
"""
SETTINGS = ["search_path = evil, pg_catalog, public", "role = ann", "statement_timeout = '1ms'"]


def entered(server, name):
    return psycopg.connect(**{**server.start().conninfo(name), "user": name}, autocommit=True)


@pytest.fixture(scope="module")
def lesson(server):
    """Ann and Ben train the same model, Cy goes on with it, Di has done nothing."""
    list(students.add(NAMES))
    for name in NAMES[:3]:
        with entered(server, name) as conn:
            conn.execute(MODEL.format("my"))
            conn.execute(TRAIN.format("my"))
            if name == "cy":
                conn.execute(TRAIN.format("my"))
    yield server
    students.remove(NAMES, force=True)


def test_the_newest_step_of_each(lesson):
    ann, ben, cy, di = Watch().look()
    with entered(lesson, "ann") as conn:
        losses = [loss for (loss,) in conn.execute("SELECT loss::float8 FROM llm_train_log ORDER BY step")]
        floor = conn.execute("SELECT nats_per_token FROM llm_story_floor(-1000, 1000)").fetchone()[0]
        digest = conn.execute("SELECT llm_model_sha256('my')").fetchone()[0]
    assert (ann.model, ann.step, ann.of, ann.loss) == ("my", 30, 30, pytest.approx(losses[-1]))
    assert ann.above == pytest.approx(sum(losses[-20:]) / 20 / floor - 1) and ann.sha256 == digest
    assert ann.curve[0] == pytest.approx(sum(losses[:2]) / 2) and len(ann.curve) == 24
    assert (ann.same, ben.same, cy.same) == (("ben",), ("ann",), ())
    assert (cy.step, cy.of) == (60, 60)
    assert (di.model, di.loss, di.problem) == ("", None, "")


def test_lines_for_a_terminal(lesson):
    with entered(lesson, "cy") as conn:
        conn.execute(r"SELECT llm_create_model(E'\x1b[2J' || repeat('m', 90), 1, 2, 16, 128, 786)")
        conn.execute(r"SELECT llm_init_model(E'\x1b[2J' || repeat('m', 90), 1)")
        conn.execute(TRAIN.replace("'{0}'", r"E'\x1b[2J' || repeat('m', 90)"))
    lines = Watch().lines()
    assert all(line.isprintable() for line in lines)
    assert re.match(r"ann +my +30/30 +\d\.\d{4} +\+\d+\.\d% .* ben, cy$", lines[1]), lines[1]
    assert "?[2Jmmm" in lines[3] and lines[4].split() == ["di", "-"]


def test_a_student_who_sets_traps_and_holds_locks(lesson):
    with entered(lesson, "ann") as ann, entered(lesson, "ben") as ben:
        ann.execute(TRAPS)
        for setting in SETTINGS:
            ann.execute(f"ALTER DATABASE ann SET {setting}")
        ben.execute("BEGIN; LOCK TABLE llm_train_log IN ACCESS EXCLUSIVE MODE")
        before = time.monotonic()
        seen = Watch().look()
        assert time.monotonic() - before < 60
        assert seen[0].model == "my" and seen[0].sha256
        assert "lock timeout" in seen[1].problem
        ben.execute("ROLLBACK")
        rights = "SELECT rolsuper FROM pg_roles WHERE rolname = 'ann'"
        assert ben.execute(rights).fetchone() == (False,)
        ann.execute("SET statement_timeout = 0")
        for setting in SETTINGS:
            ann.execute(f"ALTER DATABASE ann RESET {setting.partition(' ')[0]}")


def test_a_database_that_is_gone(lesson):
    with psycopg.connect(**{**lesson.start().conninfo("postgres"), "user": "di"}, autocommit=True) as conn:
        conn.execute("DROP DATABASE di")
    assert 'database "di" does not exist' in Watch().look()[3].problem
    students.reset("di")


def test_ctrl_c_ends_it(lesson):
    command = [sys.executable, "-m", "pg_llm", "class", "watch", "--every", "0.5"]
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # ignored in a background job
    )
    assert run.stdout.readline().startswith("student ")
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0 and err == ""


def test_sparklines():
    assert sparkline((1.0,)) == BARS[0] and sparkline(()) == ""
    assert sparkline((8.0, 7.0, 1.0)) == "█▇▁"
    assert sparkline((float("nan"), 1.0, float("inf"), 2.0)) == "?▁?█"


def test_an_empty_class(server, monkeypatch):
    monkeypatch.setattr(students, "listed", list)
    with pytest.raises(KitError, match="no students yet"):
        Watch().look()
