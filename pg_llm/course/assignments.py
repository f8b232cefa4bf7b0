"""Graded assignments for nbgrader and otter-grader, made from the student's edition.

An answer's cell holds what the learner finds in a comment, and after it the solution: the source runs as it
is, and the tool's own marks leave the learner's cell.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pg_llm.course import cells, editions
from pg_llm.course.exercise import Exercise, notebooks

FORMATS = ("nbgrader", "otter")
PARTS = 4  # otter's tests of an exercise: each is worth a quarter of the points
CONFIG = '''\
"""nbgrader's configuration for pg_llm's assignments: nbgrader generate_assignment NAME, here."""

import os

c = get_config()  # noqa: F821
c.ClearSolutions.code_stub = {"python": ""}  # what the learner finds is in the cell already
c.Execute.timeout = 170  # seconds for a cell
os.environ.pop("JPY_SESSION_NAME", None)  # each submission is graded in a new database
'''


def build(output: Path, kind: str, only: Iterable[str] = (), force: bool = False) -> list[Path]:
    """Writes an assignment for each notebook that has exercises; returns their folders.

    kind: "nbgrader" makes output/nbgrader, a course's folder with nbgrader_config.py, which is kept if it is
    there, and source/NAME; "otter" makes output/otter/NAME, with a notebook for `otter assign`. only:
    notebooks, by number or name; none: all. force: replace the assignments, no submissions and no gradebook.
    Errors: KitError for an unknown notebook, or a folder that is not empty; nothing is half-written.
    """
    make, course = {"nbgrader": (nbgrader, output / "nbgrader"), "otter": (otter, output / "otter")}[kind]
    parent = course / "source" if kind == "nbgrader" else course
    sources = editions._sources(only)
    targets = {number: parent / path.stem for number, path in sources.items()}
    with contextlib.ExitStack() as stack:
        folders = {number: editions._replacing(target, force) for number, target in targets.items()}
        for number, path in sources.items():
            folder = stack.enter_context(folders[number])
            editions._write(make(editions._read(path), number), folder / path.name)
    config = course / "nbgrader_config.py"
    if kind == "nbgrader" and not config.exists():
        config.write_text(CONFIG, encoding="utf-8")
    return list(targets.values())


def points(exercise: Exercise) -> int:
    """What a right answer is worth: the exercise's difficulty."""
    return exercise.difficulty


# -- nbgrader ----


def nbgrader(notebook, number: str):
    """An instructor's notebook of nbgrader: below each answer a locked cell, whose value is the grade.

    https://nbgrader.readthedocs.io/en/stable/contributor_guide/metadata.html
    """
    from nbformat.v4 import new_code_cell

    notebook = _bare(notebook, number)
    made: list[Any] = []
    for cell, exercise in _answers(notebook):
        made.append(cell)
        if exercise:
            name = f"exercise-{exercise.id.replace('.', '-')}"
            cell.source = nbgrader_answer(exercise)
            cell.metadata["nbgrader"] = _role(f"{name}-answer", solution=True)
            test = new_code_cell(
                "# The points: all of them if the check above says Right, some if a part is right\n"
                f'from pg_llm.course.check import grade\n\n{points(exercise)} * grade("{exercise.id}")',
                id=f"{name}-points",
            )
            test.metadata["nbgrader"] = {**_role(name, grade=True, locked=True), "points": points(exercise)}
            made.append(test)
    notebook.cells = made
    return notebook


def _role(name: str, solution: bool = False, grade: bool = False, locked: bool = False) -> dict[str, Any]:
    """What a cell is to nbgrader."""
    return {
        "schema_version": 3,
        "grade_id": name,
        "solution": solution,
        "grade": grade,
        "locked": locked,
        "task": False,
    }


def nbgrader_answer(exercise: Exercise) -> str:
    """The answer's cell: nbgrader puts an empty line in place of each of the two solution regions."""
    comment, opening, closing = _comment(exercise)
    return (
        f"%%check {exercise.id}\n"
        f"{comment} BEGIN SOLUTION\n{opening} What the learner finds:\n{comment} END SOLUTION\n"
        f"{exercise.cell.strip()}\n"
        f"{comment} BEGIN SOLUTION\n{closing}\n{exercise.solution.strip()}\n{comment} END SOLUTION"
    )


# -- otter ----


def otter(notebook, number: str):
    """A notebook for `otter assign`: raw cells mark questions, solutions and tests.

    https://otter-grader.readthedocs.io/en/stable/otter_assign/notebook_format.html
    """
    from nbformat.v4 import new_raw_cell

    notebook = _bare(notebook, number)
    name = notebooks()[number]["notebook"]["file"]
    config = f"# ASSIGNMENT CONFIG\nname: {name}\nexport_cell:\n  pdf: false\n  run_tests: false"
    made: list[Any] = [new_raw_cell(config, id="otter-config")]
    for cell, exercise in _answers(notebook):
        if exercise:
            card = made.pop()
            cell.source = otter_answer(exercise)
            name = f"exercise_{exercise.id.replace('.', '_')}"
            mark = functools.partial(_mark, exercise)
            made += [mark(f"# BEGIN QUESTION\nname: {name}\npoints: {points(exercise)}"), card]
            made += [mark("# BEGIN SOLUTION"), cell, mark("# END SOLUTION")]
            made += [mark("# BEGIN TESTS"), *_tests(exercise), mark("# END TESTS"), mark("# END QUESTION")]
        else:
            made.append(cell)
    notebook.cells = made
    return notebook


def _mark(exercise: Exercise, text: str):
    """The raw cell with this text at an exercise."""
    from nbformat.v4 import new_raw_cell

    part = text.splitlines()[0].strip("# ").lower().replace(" ", "-")
    return new_raw_cell(text, id=cells.cell_id(exercise, part))


def _tests(exercise: Exercise) -> Iterator[Any]:
    """Cells that share the exercise's points: otter gives a test all of its points or none."""
    from nbformat.v4 import new_code_cell

    for part in range(1, PARTS + 1):
        share = part / PARTS
        yield new_code_cell(
            "from pg_llm.course.check import grade\n"
            f'assert grade("{exercise.id}") >= {share}, "less than {share:.0%} is right"',
            id=cells.cell_id(exercise, f"test-{part}"),
        )


def otter_answer(exercise: Exercise) -> str:
    """The answer's cell: otter removes the line with BEGIN PROMPT, and the solution."""
    comment, opening, closing = _comment(exercise)
    end = "# END SOLUTION" if comment == "#" else f"{comment} # END SOLUTION"
    return (
        f"%%check {exercise.id}\n{opening} # BEGIN PROMPT\n{exercise.cell.strip()}\n"
        f"# BEGIN SOLUTION NO PROMPT\n{closing}\n{exercise.solution.strip()}\n{end}"
    )


# -- both ----


def _comment(exercise: Exercise) -> tuple[str, str, str]:
    """How a line of comment begins, and how a comment of several lines begins and ends."""
    if exercise.language == "sql":
        return "--", "/*", "*/"
    quotes = "'''" if '"""' in exercise.cell else '"""'
    return "#", f"r{quotes}", quotes


def _bare(notebook, number: str):
    """The student's edition without outputs, which both tools remove."""
    notebook = editions.edited(notebook, number, "student")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def _answers(notebook) -> Iterator[tuple[Any, Exercise | None]]:
    """The cells, those for answers with their exercise."""
    for cell in notebook.cells:
        yield cell, cells.exercise_of(cell, "answer")
