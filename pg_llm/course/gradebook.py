"""A class's gradebook: what each student has for each exercise, as CSV for spreadsheets and platforms."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TextIO

from pg_llm.course import store
from pg_llm.course.assignments import points
from pg_llm.course.exercise import Exercise, exercises, from_dict, numbers
from pg_llm.errors import KitError

# Superusers are listed only where they have tried something; other roles see no row but their own.
STUDENTS = """
    SELECT rolname FROM pg_roles
    WHERE rolcanlogin AND NOT rolsuper AND has_database_privilege(oid, current_database(), 'CONNECT')
      AND (rolname = session_user OR current_setting('is_superuser')::boolean)
    UNION SELECT student FROM llm_course.attempt ORDER BY 1
"""
UNKNOWN = """
    SELECT name FROM unnest(%s::text[]) AS name WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
    EXCEPT SELECT student FROM llm_course.attempt ORDER BY 1
"""
ATTEMPTS = """
    SELECT student, exercise, score, tries, round(extract(epoch FROM time) / 60, 1)::float8,
           (SELECT to_char(min(at), 'YYYY-MM-DD HH24:MI') FROM llm_course.attempt AS best
            WHERE (best.student, best.exercise, best.score) = (p.student, p.exercise, p.score))
    FROM llm_course.progress AS p
"""


@dataclass(frozen=True)
class Grade:
    """What a student has for an exercise: a row of the gradebook.

    points: score times out_of, which is what a right answer is worth. score: the best, 0 to 1. minutes: from
    the first try to the first right answer. date: when the best score was first reached, in the server's
    time zone.
    """

    student: str
    exercise: str
    title: str
    points: float
    out_of: int
    score: float = 0
    tries: int = 0
    minutes: float | None = None
    date: str = ""


def grades(roster: Sequence[str] | None = None, only: Iterable[str] = ()) -> list[Grade]:
    """A row for each student and exercise, tried or not.

    roster: names of roles; none: all roles of the server that may log in, and all with attempts. only:
    notebooks, by number or name; none: those in which one of these students has opened an exercise. A role
    that is no superuser sees only its own rows. Errors: KitError for an unknown notebook or role.
    """
    with store.connection() as conn:
        students = list(roster or [name for (name,) in conn.execute(STUDENTS)])
        strangers = [name for (name,) in conn.execute(UNKNOWN, [students])]
        if strangers:
            raise KitError(f"no roles of this server: {', '.join(strangers)}")
        found = {row[:2]: row[2:] for row in conn.execute(ATTEMPTS) if row[0] in students}
        specs = conn.execute("SELECT spec - 'options' FROM llm_course.exercise").fetchall()
    known: dict[str, Exercise | None] = {each: None for _, each in found}  # of another version of the course
    known.update(exercises())
    known.update({each.id: each for each in (from_dict(spec) for (spec,) in specs)})
    there = sorted({_notebook(name) for name in known})
    wanted = set(numbers(only, there)) or {_notebook(name) for _, name in found}
    rows = []
    for student in students:
        for name in sorted(name for name in known if _notebook(name) in wanted):
            exercise = known[name]
            worth = points(exercise) if exercise else 1
            score, tries, minutes, date = found.get((student, name), (0.0, 0, None, None))
            rows.append(
                Grade(student, name, exercise.title if exercise else "", round(score * worth, 2), worth,
                      score, tries, minutes, date or "")
            )  # fmt: skip
    return rows


def _notebook(exercise: str) -> str:
    return exercise.partition(".")[0]


def write(target: TextIO, rows: Sequence[Grade], by_student: bool = False) -> None:
    """Writes a gradebook as CSV: a row for each student and exercise, with the columns of Grade.

    by_student: a row for each student, with the points of each exercise, their sum and what they are out of.
    """
    writer = csv.writer(target, lineterminator="\n")
    if not by_student:
        writer.writerow([each.name for each in fields(Grade)])
        writer.writerows(map(astuple, rows))
        return
    asked = {row.exercise: row.out_of for row in rows}
    writer.writerow(["student", *asked, "total", "out_of"])
    for student in dict.fromkeys(row.student for row in rows):
        got = {row.exercise: row.points for row in rows if row.student == student}
        writer.writerow([student, *got.values(), round(sum(got.values()), 2), sum(asked.values())])


def summary(rows: Sequence[Grade], only: Sequence[str] = ()) -> str:
    """One line about a gradebook: how many, and who has tried nothing; of an empty one, why it is empty."""
    if not rows:
        why = (
            "the server has no role that may log in, but superusers: CREATE ROLE … LOGIN for each student"
            if only
            else "with --notebook 04 it lists all students all the same"
        )
        return f"the gradebook is empty: nobody has opened an exercise yet; {why}"
    students = {row.student: 0 for row in rows}
    for row in rows:
        students[row.student] += row.tries
    asked = {row.exercise: row.out_of for row in rows}
    idle = [name for name, tries in students.items() if not tries]
    without = f"; without a try: {', '.join(idle)}" if idle else ""
    return f"students: {len(students)}, exercises: {len(asked)}, points: {sum(asked.values())}{without}"
