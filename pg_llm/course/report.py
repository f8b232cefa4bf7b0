"""A lesson as tables and a picture: who is stuck where, the commonest wrong answers, time per exercise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pg_llm.course import gradebook, store
from pg_llm.course.exercise import exercises, numbers
from pg_llm.errors import KitError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

RIGHT, STUCK, NOTHING = "#1f5fa8", "#f5b26b", "#ececec"
ATTEMPTS = """
    SELECT student::text, exercise, at, score::float8, message, answer FROM llm_course.attempt
    WHERE student = ANY (%s::name[]) ORDER BY at, id
"""


def attempts(students: Sequence[str], only: Iterable[str] = ()) -> DataFrame:
    """Every attempt of these students, oldest first, as a DataFrame.

    Columns student, exercise, title, at, score (0 to 1; NaN: the cell was run blank), message, answer. only:
    notebooks, by number or name; none: all. A role that is no superuser sees its own alone. Errors: KitError.
    """
    import pandas as pd

    with store.connection() as conn:
        rows = conn.execute(ATTEMPTS, [list(students)]).fetchall()
        titles = dict(conn.execute("SELECT id, spec ->> 'title' FROM llm_course.exercise").fetchall())
    titles = {**{name: each.title for name, each in exercises().items()}, **titles}
    table = pd.DataFrame(rows, columns=["student", "exercise", "at", "score", "message", "answer"])
    table.insert(2, "title", [titles.get(name, "") for name in table["exercise"]])
    table["score"] = table["score"].astype(float)
    books = [name.partition(".")[0] for name in table["exercise"]]
    if wanted := set(numbers(only, sorted({*books, *(name.partition(".")[0] for name in titles)}))):
        table = table[[book in wanted for book in books]]
    return table.reset_index(drop=True)


def by_exercise(tries: DataFrame) -> DataFrame:
    """One row per exercise that somebody has opened, of what attempts() gives.

    Columns exercise, title, opened, right and stuck (numbers of students; stuck: tried, and not right), tries
    (mean of those who tried), minutes (median, from the first try to the first right answer), and the
    commonest mistake: message, message_students, answer, answer_students. Answers that differ only in spaces,
    comments and capitals are the same.
    """
    import pandas as pd

    rows = []
    for exercise, group in tries.groupby("exercise", sort=True):
        tried = group[group["score"].notna()]
        right = tried[tried["score"] == 1]
        solved = set(right["student"])
        wrong = tried[tried["score"] < 1]
        first = tried.groupby("student")["at"].min()
        took = (right.groupby("student")["at"].min() - first).dropna().dt.total_seconds() / 60
        message, said_to = _commonest(wrong, wrong["message"].map(lambda text: text.partition("\n")[0]))
        answer, given_by = _commonest(wrong, wrong["answer"], wrong["answer"].map(_bare))
        rows.append(
            {
                "exercise": exercise,
                "title": group["title"].iloc[0],
                "opened": group["student"].nunique(),
                "right": len(solved),
                "stuck": len(set(tried["student"]) - solved),
                "tries": round(len(tried) / len(first), 1) if len(first) else 0.0,
                "minutes": round(float(took.median()), 1) if len(took) else float("nan"),
                "message": message,
                "message_students": said_to,
                "answer": answer,
                "answer_students": given_by,
            }
        )
    columns = (
        "exercise title opened right stuck tries minutes message message_students answer answer_students"
    )
    return pd.DataFrame(rows, columns=columns.split())


def plot(grades: Sequence[gradebook.Grade], summary: DataFrame) -> Figure:
    """Students by exercises: right, stuck or not tried, with the number of tries; minutes below.

    grades: of gradebook.grades(); summary: of by_exercise().
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    names = list(dict.fromkeys(each.student for each in grades))
    tasks = list(dict.fromkeys(each.exercise for each in grades))
    figure = Figure(figsize=(2.4 + 0.42 * max(len(tasks), 6), 2.2 + 0.28 * max(len(names), 2)))
    cells, bars = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [max(len(names), 2), 4], "hspace": 0.08}
    )
    for each in grades:
        x, y = tasks.index(each.exercise), names.index(each.student)
        colour = RIGHT if each.score == 1 else STUCK if each.tries else NOTHING
        cells.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, color=colour))
        if each.tries:
            ink = "white" if each.score == 1 else "#333333"
            cells.text(x, y, str(each.tries), ha="center", va="center", color=ink, fontsize=8)
    cells.set_xlim(-0.6, max(len(tasks), 1) - 0.4)
    cells.set_ylim(max(len(names), 1) - 0.4, -0.6)
    # A $ would begin a formula.
    cells.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names], fontsize=8)
    right = sum(each.score == 1 for each in grades)
    cells.set_title(
        f"{right} of {len(grades)} answers are right; the numbers are tries", fontsize=9, loc="left"
    )
    meanings = {"right": RIGHT, "stuck": STUCK, "no try": NOTHING}
    keys = [Patch(color=colour, label=meaning) for meaning, colour in meanings.items()]
    cells.legend(handles=keys, loc="lower left", bbox_to_anchor=(1.01, 0), fontsize=8, frameon=False)
    minutes = dict(zip(summary["exercise"], summary["minutes"], strict=True))
    bars.bar(range(len(tasks)), [minutes.get(task, 0) or 0 for task in tasks], color="#7a8ba3", width=0.7)
    bars.set_ylabel("minutes\n(median)", fontsize=8)
    bars.set_xticks(range(len(tasks)), tasks, rotation=90, fontsize=8)
    for axes in (cells, bars):
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure


def write(folder: Path, students: Sequence[str] | None = None, only: Sequence[str] = ()) -> list[Path]:
    """Writes gradebook.csv, exercises.csv, attempts.csv and report.png into a folder; returns the files.

    students: None: those of the class, or where there is none all roles that may log in. Only you may read
    the files. Errors: KitError.
    """
    from pg_llm.course import students as of_class

    chosen = list(students or [each.name for each in of_class.listed()])
    grades = gradebook.grades(chosen or None, only)
    if not grades:
        raise KitError(gradebook.summary(grades, only))
    tries = attempts(chosen or list(dict.fromkeys(each.student for each in grades)), only)
    summary = by_exercise(tries)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("gradebook.csv", "exercises.csv", "attempts.csv", "report.png")]
    for file in files:
        file.touch(mode=0o600)
    with files[0].open("w", encoding="utf-8", newline="") as target:
        gradebook.write(target, grades, by_student=True)
    for file, table in zip(files[1:3], (summary, tries), strict=True):
        table.map(_harmless).to_csv(file, index=False)
    plot(grades, summary).savefig(files[3], dpi=150, bbox_inches="tight")
    return files


def _commonest(wrong: DataFrame, shown: Series, key: Series | None = None) -> tuple[str, int]:
    """What most students have, and how many: of equally many, what came first. key: what counts as equal."""
    if wrong.empty:
        return "", 0
    key = shown if key is None else key
    counts = wrong["student"].groupby(key, sort=False).nunique()
    best = counts.index[int(counts.to_numpy().argmax())]
    return str(shown[key == best].iloc[0]), int(counts.max())


def _bare(answer: str) -> str:
    """An answer without comments, spaces and capitals."""
    return re.sub(r"\s+", "", re.sub(r"--[^\n]*", "", answer)).casefold().rstrip(";")


def _harmless(value: object) -> object:
    """A cell for spreadsheets: what a student wrote is no formula there, and no control character."""
    if not isinstance(value, str):
        return value
    text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in value)
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") else text
