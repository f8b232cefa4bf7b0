"""A class: the server judges by keys that students cannot read, and keeps the attempts of all."""

from __future__ import annotations

import re

import psycopg
import pytest
from helpers.means import MEANS, made

import pg_llm
from pg_llm.course import answers, editions, gradebook, keys, progress, store
from pg_llm.course.exercise import exercises
from pg_llm.errors import KitError
from pg_llm.notebook import lab


@pytest.fixture(scope="module")
def keyed(server):
    """The server has the keys of an exercise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "exercises", lambda: {"90.1": made()})
        keys.install(lambda text: None)
    yield
    keys.remove()


@pytest.fixture
def student(server, keyed, monkeypatch):
    """A role without rights; PG_LLM_DSN connects as it."""
    info = server.start().conninfo("postgres")
    with psycopg.connect(**info, autocommit=True) as admin:
        admin.execute("DROP OWNED BY eve") if _role(admin, "eve") else admin.execute(
            "CREATE ROLE eve LOGIN CREATEDB"
        )
    monkeypatch.setenv("PG_LLM_DSN", psycopg.conninfo.make_conninfo(**{**info, "user": "eve"}))
    return "eve"


def _role(conn, name):
    return conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone()


def test_students_are_judged_by_keys_that_they_cannot_read(student, monkeypatch):
    monkeypatch.setattr(store, "exercises", dict)  # no solutions on the student's machine
    task, keyed = store.find("90.1")
    assert keyed and task.solution == "" and task.wrong == () and len(task.variants) == 2
    with pg_llm.connect(fresh=True) as conn:
        results = [answers.tried(task, MEANS["solution"], v, conn, {}) for v in task.variants]
        wrong = [answers.tried(task, MEANS["wrong"][0]["answer"], v, conn, {}) for v in task.variants]
    with store.connection() as course:
        assert store.judge(course, task, "a", results) == {"right": True, "score": 1}
        assert "that is the sum." in store.judge(course, task, "b", wrong)["message"]
        assert course.info.dbname == store.DATABASE
        mine = course.execute("SELECT student, answer FROM llm_course.attempt ORDER BY id").fetchall()
        assert mine == [("eve", "a"), ("eve", "b")]  # nobody else's
        for forbidden in [
            "SELECT * FROM llm_course.answer_key",
            "INSERT INTO llm_course.attempt (exercise, score, message, answer) VALUES ('90.1', 1, '', '')",
            "UPDATE llm_course.attempt SET score = 1",
            "DELETE FROM llm_course.attempt",
            "UPDATE llm_course.exercise SET spec = '{}'",
            "SET ROLE llm_course",
            "CREATE TEMP TABLE t (i int)",
            "CREATE TABLE public.t (i int)",
            "CREATE FUNCTION llm_course.same_value(text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        ]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                course.execute(forbidden)
    with pytest.raises(KitError, match="only the owner"):
        keys.remove()
    assert {row.student for row in gradebook.grades()} == {"eve"}
    assert {row.student for row in gradebook.grades(only=["90"])} == {"eve"}
    summary, mistake = progress.stuck()
    assert summary == "90.1  opened by 1: 1 right, 0 stuck, 2 tries each"
    assert mistake.startswith("      most often (1): ") and "that is the sum." in mistake


def test_an_answer_without_end_is_stopped_and_kept(student, monkeypatch):
    monkeypatch.setattr(answers, "LIMIT", 300)
    with store.connection() as course:
        assert course.execute("SHOW statement_timeout").fetchone() == ("300ms",)
    task, _ = store.find("90.1")
    with pg_llm.connect(fresh=True) as conn:
        results = [answers.tried(task, "SELECT pg_sleep(60)", v, conn, {}) for v in task.variants]
    with store.connection() as course:
        assert store.judge(course, task, "x", results)["message"].startswith("stopped after 300ms")


def test_judge_survives_any_results(student, monkeypatch):
    task, _ = store.find("90.1")
    for results in ([], [{}, {}], [{"rows": []}], [{"rows": 3, "columns": "x"}], [None], ["x"], [[1]], 3, {}):
        try:
            with store.connection() as course:
                assert not store.judge(course, task, "", results)["right"]
        except psycopg.Error as error:
            assert error.sqlstate[:2] == "22", results  # data exception
    with pytest.raises(psycopg.errors.NoDataFound), store.connection() as course:
        store.judge(course, made(id="99.9"), "", [])
    ours = "FROM pg_proc WHERE pronamespace = 'llm_course'::regnamespace"
    with store.connection() as course:
        definers = course.execute(f"SELECT proname {ours} AND prosecdef ORDER BY 1").fetchall()
        assert definers == [("judge",), ("looked",)]
        owners = course.execute(f"SELECT DISTINCT proowner::regrole::text {ours}").fetchall()
        assert owners == [("llm_course",)]
        powers = "SELECT rolsuper OR rolcanlogin FROM pg_roles WHERE rolname = 'llm_course'"
        assert course.execute(powers).fetchone() == (False,)


def test_a_class_gets_its_notebooks_without_solutions(student, tmp_path, capsys):
    assert editions.prepare("self-study", print) is None
    prepare = editions.prepare(None, print)
    assert "notebooks come without solutions" in capsys.readouterr().out
    lab.notebooks(folder=tmp_path, prepare=prepare)
    text = (tmp_path / "01_tensors_are_values.ipynb").read_text()
    assert "<summary>Hint 2" in text and "<summary>Solution" not in text
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PG_LLM_DSN")  # the teacher, on the server's machine
        assert editions.prepare(None, print) is None


def code(text):
    """A text without comments and spaces."""
    return re.sub(r"\s", "", re.sub(r"--.*", "", text.lower())).strip(";")


@pytest.mark.slow
def test_students_can_read_no_answer(student, monkeypatch):
    """With the real exercises: in no relation, function, view or comment that is open to them."""
    monkeypatch.setattr(keys, "keys", lambda task, conn: [{"solution": task.solution} for _ in task.variants])
    secrets = {}
    for task in exercises().values():
        for answer in [task.solution, *task.right]:
            # What a function or view is defined by would be enough.
            for part in (answer, *re.findall(r"\$\$(.*)\$\$|VIEW \w+ AS(.*)", answer, re.DOTALL)):
                secrets |= {code(text): task.id for text in ([part] if part is answer else part) if text}
    readable = """SELECT oid::regclass::text FROM pg_class
        WHERE relkind IN ('r', 'v', 'm') AND has_table_privilege(oid, 'SELECT')
        AND (relname IN ('pg_proc', 'pg_views', 'pg_description') OR relname !~ '^(pg_|sql_)')
        AND has_schema_privilege(relnamespace, 'USAGE')"""
    with monkeypatch.context() as patch:
        patch.delenv("PG_LLM_DSN")
        keys.install(lambda text: None)
    try:
        with store.connection() as course:
            relations = [name for (name,) in course.execute(readable).fetchall()]
            assert {"llm_course.exercise", "llm_course.attempt", "pg_proc"} <= {*relations}
            assert "llm_course.answer_key" not in relations
            found = [
                row for name in relations for row in course.execute(f"SELECT to_jsonb(t) FROM {name} AS t")
            ]
    finally:
        with monkeypatch.context() as patch:
            patch.delenv("PG_LLM_DSN")
            patch.setattr(keys, "exercises", lambda: {"90.1": made()})
            keys.install(lambda text: None)
    shown = {code(text) for row in found for text in strings(row)}
    assert len(shown) > 1000
    leaks = {(secrets[s], text[:60]) for s in secrets for text in shown if len(s) > 20 and s in text}
    assert not leaks


def strings(value):
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)


def test_a_students_database_of_that_name_is_not_used(server, monkeypatch, student):
    monkeypatch.setattr(store, "DATABASE", "pg_llm_trap")
    info = server.start().conninfo("postgres")
    with psycopg.connect(**{**info, "user": "eve"}, autocommit=True) as eve:
        eve.execute("DROP DATABASE IF EXISTS pg_llm_trap")
        eve.execute("CREATE DATABASE pg_llm_trap")
    monkeypatch.delenv("PG_LLM_DSN")
    with pytest.raises(KitError, match="belongs to role eve"), store.connection():
        pass
    with psycopg.connect(**info, autocommit=True) as admin:
        admin.execute("CREATE ROLE mallory LOGIN") if not _role(admin, "mallory") else None
    monkeypatch.setenv("PG_LLM_DSN", psycopg.conninfo.make_conninfo(**{**info, "user": "mallory"}))
    assert store._database(("mallory",)) is None  # may create none, and does not use eve's
    with psycopg.connect(**info, autocommit=True) as admin:
        admin.execute("DROP DATABASE pg_llm_trap")
