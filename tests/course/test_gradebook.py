"""The gradebook: every student of the class, with and without attempts, for every exercise."""

from __future__ import annotations

import csv
import io

import psycopg
import pytest
from click.testing import CliRunner
from helpers.means import made

from pg_llm.cli import cli
from pg_llm.course import gradebook, roster, store
from pg_llm.errors import KitError

TASKS = [
    made(id="90.1", difficulty=2),
    made(id="90.2", title='a "comma", quoted', difficulty=3),
    made(id="91.1"),
]
TRIES = [
    ("ada", "90.1", "2026-03-01 10:00", 0.5), ("ada", "90.1", "2026-03-01 10:12", 1),
    ("ada", "90.1", "2026-03-02 09:00", 1), ("ada", "90.2", "2026-03-01 11:00", 0.25),
    ("bob", "90.2", "2026-03-01 11:30", None), ("gone", "90.1", "2026-03-01 12:00", 0),
]  # fmt: skip


@pytest.fixture
def school(server, monkeypatch):
    """Ada has tried, Bob has only looked, Cy has done nothing, one role is gone."""
    monkeypatch.setattr(gradebook, "exercises", lambda: {task.id: task for task in TASKS})
    info = server.start().conninfo("postgres")
    names = ["ada", "bob", "cy", "Dé Roux"]
    with psycopg.connect(**info, autocommit=True) as admin, store.connection() as course:
        course.execute("DELETE FROM llm_course.attempt")
        for name in names:
            admin.execute(psycopg.sql.SQL("CREATE ROLE {} LOGIN").format(psycopg.sql.Identifier(name)))
        for student, exercise, at, score in TRIES:
            course.execute(
                "INSERT INTO llm_course.attempt (student, exercise, at, score, message, answer) "
                "VALUES (%s, %s, %s, %s, '', '')",
                [student, exercise, at, score],
            )
        yield course
        course.execute("DELETE FROM llm_course.attempt")
        for name in names:
            admin.execute(psycopg.sql.SQL("DROP ROLE {}").format(psycopg.sql.Identifier(name)))


def run(*arguments):
    done = CliRunner().invoke(cli, ["course", "gradebook", *arguments], catch_exceptions=False)
    return list(csv.DictReader(io.StringIO(done.stdout))), done.stderr


def test_every_student_has_a_row_for_every_exercise(school):
    rows, said = run("--notebook", "90")
    got = {(row["student"], row["exercise"]): row for row in rows}
    students = ["Dé Roux", "ada", "bob", "cy", "gone"]
    assert {s for s, _ in got} >= set(students) and len(rows) == 2 * len({s for s, _ in got})
    assert got["ada", "90.1"] == {
        "student": "ada", "exercise": "90.1", "title": "means", "points": "2.0", "out_of": "2",
        "score": "1.0", "tries": "3", "minutes": "12.0", "date": "2026-03-01 10:12",
    }  # fmt: skip
    assert (got["ada", "90.2"]["points"], got["ada", "90.2"]["minutes"]) == ("0.75", "")
    assert got["ada", "90.2"]["title"] == 'a "comma", quoted'
    for idle in ("bob", "cy", "Dé Roux"):
        assert [got[idle, "90.2"][c] for c in ("points", "tries", "date")] == ["0.0", "0", ""]
    assert "exercises: 2, points: 5; without a try: Dé Roux, bob, cy" in said
    assert {row["exercise"] for row in run()[0]} == {"90.1", "90.2"}  # nobody has opened notebook 91
    assert {row["exercise"] for row in run("--notebook", "91")[0]} == {"91.1"}


def test_a_roster_says_who_is_in_the_class(school, tmp_path):
    file = tmp_path / "class.txt"
    file.write_text("# third year\ncy, Cy Twombly\n\nada\ncy\n")
    rows, said = run("--roster", str(file), "--by-student")
    assert [list(row.values()) for row in rows] == [
        ["cy", "0.0", "0.0", "0.0", "5"],
        ["ada", "2.0", "0.75", "2.75", "5"],
    ]
    assert list(rows[0]) == ["student", "90.1", "90.2", "total", "out_of"]
    assert said == "pg-llm: students: 2, exercises: 2, points: 5; without a try: cy\n"
    with pytest.raises(KitError, match="no roles of this server: nobody, zoe"):
        gradebook.grades(["zoe", "ada", "nobody"])
    assert {row.student for row in gradebook.grades(["gone"])} == {"gone"}  # the attempts outlive the role
    file.write_text("# nobody\n")
    with file.open() as empty, pytest.raises(KitError, match="class.txt has no names"):
        roster.read(empty)


def test_an_empty_gradebook_says_why(school):
    school.execute("DELETE FROM llm_course.attempt")
    rows, said = run()
    assert rows == [] and "nobody has opened an exercise yet; with --notebook 04 it lists all" in said
    assert {row["points"] for row in run("--notebook", "90")[0]} == {"0.0"}
    assert "no role that may log in, but superusers" in gradebook.summary([], ["90"])


def test_attempts_of_another_version_of_the_course_are_kept(school):
    school.execute("UPDATE llm_course.attempt SET exercise = '89.7' WHERE student = 'gone'")
    (row,) = gradebook.grades(["gone"], ["89"])
    assert (row.exercise, row.title, row.out_of) == ("89.7", "", 1)
    with pytest.raises(KitError, match="there is no notebook x; there are 89, 90, 91"):
        gradebook.grades(None, ["91", "x"])
