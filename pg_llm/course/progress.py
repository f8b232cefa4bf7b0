"""What a learner, or a class, has done: a table, a picture, and who is stuck where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pg_llm.course import store
from pg_llm.course.exercise import exercises

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pg_llm.notebook.frames import Frame

PROGRESS = """
    SELECT exercise, tries, score, is_right, round(extract(epoch FROM time) / 60, 1)::float8 AS minutes
    FROM llm_course.progress WHERE student = session_user ORDER BY exercise
"""
STUCK = """
    SELECT exercise, count(*), count(*) FILTER (WHERE is_right),
           count(*) FILTER (WHERE tries > 0 AND NOT is_right),
           round(avg(tries) FILTER (WHERE tries > 0), 1)::float8, said.students, said.message
    FROM llm_course.progress LEFT JOIN LATERAL (
        SELECT message, count(DISTINCT student) AS students FROM llm_course.attempt
        WHERE attempt.exercise = progress.exercise AND attempt.score < 1
        GROUP BY message ORDER BY students DESC, count(*) DESC, message LIMIT 1
    ) AS said ON true
    GROUP BY exercise, said.students, said.message ORDER BY exercise
"""


def progress() -> Frame:
    """The exercises that you have opened or tried, of all notebooks, one per row.

    Columns exercise, title, tries, score (best, 0 to 1), is_right, minutes (from the first try, which is the
    first run of a filled-in cell, to the first right answer; a blank cell starts no clock).
    """
    from pg_llm.notebook.frames import Frame

    with store.connection() as conn:
        rows = conn.execute(PROGRESS).fetchall()
        titles = dict(conn.execute("SELECT id, spec ->> 'title' FROM llm_course.exercise").fetchall())
    titles = {**{name: each.title for name, each in exercises().items()}, **titles}
    return Frame(
        [(row[0], titles.get(row[0], ""), *row[1:]) for row in rows],
        columns=["exercise", "title", "tries", "score", "is_right", "minutes"],
    )


def plot_progress() -> Axes:
    """Every exercise of the course as a square, by notebook: filled if right, half-toned if tried."""
    import matplotlib.pyplot as plt

    table = progress()
    done = dict(
        zip(map(str, table["exercise"]), zip(table["tries"], table["is_right"], strict=True), strict=True)
    )
    names = sorted({*exercises(), *done})
    books = sorted({name.split(".")[0] for name in names})
    _, axes = plt.subplots(figsize=(6, 0.4 + 0.34 * max(len(books), 1)))
    for name in names:
        book, number = name.split(".")
        tries, is_right = done.get(name, (0, False))
        colour = "#1f5fa8" if is_right else "#f5b26b" if tries else "#e8e8e8"
        y = books.index(book)
        axes.add_patch(plt.Rectangle((int(number) - 0.42, y - 0.4), 0.84, 0.8, color=colour))
        axes.text(int(number), y, "✓" if is_right else number, ha="center", va="center",
                  color="white" if is_right else "#333333", fontsize=9)  # fmt: skip
    most = max((int(name.split(".")[1]) for name in names), default=1)
    axes.set_xlim(0.4, most + 0.6)
    axes.set_ylim(len(books) - 0.5, -0.5)
    axes.set_yticks(range(len(books)), books)
    axes.set_xticks([])
    axes.set_ylabel("notebook")
    right = sum(bool(is_right) for _, is_right in done.values())
    axes.set_title(f"{right} of {len(names)} exercises are right", fontsize=10)
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def stuck() -> list[str]:
    """Lines for a teacher: how many have each exercise right, how many are stuck, and the usual mistake.

    The owner of the course's database sees all students, a student only the own attempts.
    """
    with store.connection() as conn:
        rows = conn.execute(STUCK).fetchall()
    lines = []
    for exercise, students, right, wrong, tries, said_to, message in rows:
        often = f", {tries:g} tries each" if tries else ""
        lines.append(f"{exercise}  opened by {students}: {right} right, {wrong} stuck{often}")
        if message:
            lines.append(f"      most often ({said_to}): {message.splitlines()[0]}")
    return lines
