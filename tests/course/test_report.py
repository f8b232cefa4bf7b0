"""The report of a class: its tables against NumPy and counts by hand, its picture, its files."""

from __future__ import annotations

import csv
import stat

import numpy as np
import pandas as pd
import psycopg
import pytest
from click.testing import CliRunner
from helpers.means import made

from pg_llm.cli import cli
from pg_llm.course import gradebook, report, store, students
from pg_llm.errors import KitError

TASKS = [made(id="90.1", difficulty=2), made(id="90.2", difficulty=3), made(id="91.1")]
# student, exercise, minute, score, message, answer
TRIES = [
    ("ann", "90.1", 0, None, "", ""),
    ("ann", "90.1", 10, 0.25, "that is the sum.\nmore", "SELECT sum(x)  -- first\nFROM t;"),
    ("ann", "90.1", 14, 1, "", "SELECT avg(x) FROM t"),
    ("ann", "90.1", 15, 0, "got 3", "SELECT 3"),
    ("ben", "90.1", 20, 0.25, "that is the sum.", "select SUM(x) from t"),
    ("ben", "90.1", 21, 0.25, "that is the sum.", "select SUM(x) from t"),
    ("cy", "90.1", 30, 0, "=HYPERLINK(1)", "-- none\n=cmd()"),
    ("cy", "90.1", 40, 1, "", "SELECT avg(x) FROM t"),
    ("ben", "90.2", 50, None, "", ""),
    ("old", "90.1", 50, 1, "", ""),
]


@pytest.fixture(scope="module")
def lesson(server):
    """Ann, Ben and Cy are the class; `old` is not."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (gradebook, report):
            patch.setattr(module, "exercises", lambda: {task.id: task for task in TASKS})
        list(students.add(["ann", "ben", "cy"], students.Limits(connections=2)))
        with store.connection() as course:
            course.execute("DELETE FROM llm_course.attempt")
            for student, exercise, minute, score, message, answer in TRIES:
                course.execute(
                    "INSERT INTO llm_course.attempt (student, exercise, at, score, message, answer) "
                    "VALUES (%s, %s, timestamptz '2026-03-01 10:00Z' + %s * interval '1 minute', %s, %s, %s)",
                    [student, exercise, minute, score, message, answer],
                )
            yield
            course.execute("DELETE FROM llm_course.attempt")
        students.remove(["ann", "ben", "cy"], force=True)


CLASS = ["ann", "ben", "cy"]


def test_every_attempt_is_a_row(lesson):
    table = report.attempts(CLASS)
    assert list(table["student"]) == [row[0] for row in TRIES[:-1]]
    expected = np.array([np.nan if row[3] is None else row[3] for row in TRIES[:-1]], dtype=float)
    np.testing.assert_array_equal(table["score"].to_numpy(), np.float32(expected))
    assert set(table["title"]) == {"means"}
    assert len(report.attempts(["ben"], ["90"])) == 3 and report.attempts(["ben"], ["91"]).empty
    with pytest.raises(KitError, match="there is no notebook 7"):
        report.attempts(CLASS, ["7"])


def test_who_is_stuck_and_the_commonest_mistakes(lesson):
    first, second = report.by_exercise(report.attempts(CLASS)).to_dict("records")
    assert (first["opened"], first["right"], first["stuck"]) == (3, 2, 1)
    assert first["tries"] == round(7 / 3, 1) and first["minutes"] == np.median([14 - 10, 40 - 30])
    assert (first["message"], first["message_students"]) == ("that is the sum.", 2)
    # Two students wrote it, in other words; the first one's is shown.
    assert (first["answer"], first["answer_students"]) == (TRIES[1][5], 2)
    assert (second["opened"], second["right"], second["stuck"], second["tries"]) == (1, 0, 0, 0)
    assert np.isnan(second["minutes"]) and second["message"] == ""
    empty = report.by_exercise(report.attempts(["nobody"]))
    assert empty.empty and "minutes" in empty.columns


def test_the_picture_shows_each_student_and_exercise(lesson):
    grades = gradebook.grades(CLASS)
    figure = report.plot(grades, report.by_exercise(report.attempts(CLASS)))
    cells, bars = figure.axes
    shown = {(p.get_x() + 0.46, p.get_y() + 0.44): p.get_facecolor() for p in cells.patches}
    colours = {tuple(np.round(at, 6)): colour for at, colour in shown.items()}
    import matplotlib.colors as mcolors

    def is_(colour, x, y):
        return colours[x, y] == mcolors.to_rgba(colour)

    assert is_(report.RIGHT, 0, 0) and is_(report.STUCK, 0, 1) and is_(report.RIGHT, 0, 2)
    assert is_(report.NOTHING, 1, 0) and is_(report.NOTHING, 1, 1)
    assert [text.get_text() for text in cells.texts] == ["3", "2", "2"]
    assert [bar.get_height() for bar in bars.patches][0] == 7
    assert "2 of 6 answers are right" in cells.get_title(loc="left")


def test_the_files(lesson, tmp_path):
    folder = tmp_path / "lesson"
    done = CliRunner().invoke(cli, ["class", "report", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 4
    grades = list(csv.reader((folder / "gradebook.csv").open()))
    assert grades == [
        ["student", "90.1", "90.2", "total", "out_of"],
        ["ann", "2.0", "0.0", "2.0", "5"],
        ["ben", "0.5", "0.0", "0.5", "5"],
        ["cy", "2.0", "0.0", "2.0", "5"],
    ]
    tries = pd.read_csv(folder / "attempts.csv", keep_default_na=False)
    assert len(tries) == 9 and "'=HYPERLINK(1)" in set(tries["message"])
    assert not any(str(cell).startswith(("=", "-", "+", "@")) for cell in tries["answer"])
    assert (folder / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    with pytest.raises(KitError, match="the gradebook is empty|there is no notebook"):
        report.write(folder, ["cy"], ["92"])


def test_a_student_sees_only_the_own_attempts(lesson, server, monkeypatch):
    info = {**server.start().conninfo("ann"), "user": "ann"}
    monkeypatch.setenv("PG_LLM_DSN", psycopg.conninfo.make_conninfo(**info))
    assert set(report.attempts(CLASS)["student"]) == {"ann"}
