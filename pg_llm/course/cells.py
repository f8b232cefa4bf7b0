"""The cells of a notebook that are written from exercises/NN.toml: cards, answer cells, hints, the quiz."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pg_llm.course.exercise import Exercise, exercises, notebooks
from pg_llm.errors import KitError

HEADING = re.compile(r"### Exercise (\d\d\.\d+)\b")
QUIZ = re.compile(r"## Quiz\b")
ANSWER = re.compile(r"\n+<details><summary>(?:Solution|Answer)</summary>\n.*?\n</details>", re.DOTALL)
GENERATED = "exercise-"  # the ids of generated cells begin so
LETTERS = "ABCDEFGH"


def fill(notebook, number: str, solutions: bool = True) -> None:
    """Writes the exercises and the quiz of notebook `number` (as "04") in place, after their headings.

    solutions: False leaves out the folded solutions.
    Errors: KitError for an exercise that no file describes.
    """
    from nbformat.v4 import new_code_cell, new_markdown_cell

    before = {cell.get("id"): cell for cell in notebook.cells}  # an unchanged cell keeps its output
    cells: list[Any] = []
    for cell in notebook.cells:
        heading = HEADING.match(cell.source) if cell.cell_type == "markdown" else None
        if heading:
            exercise = _known(heading.group(1), number)
            for kind, part, text in parts(exercise, solutions):
                name = cell_id(exercise, part)
                new = (new_markdown_cell if kind == "markdown" else new_code_cell)(text, id=name)
                same = before.get(name)
                cells.append(same if same is not None and same.source == text else new)
        elif cell.cell_type == "markdown" and "\n### Exercise" in cell.source:
            raise KitError(f"an exercise's heading begins a cell of its own, not {cell.source[:60]!r}…")
        elif cell.cell_type == "markdown" and "\n## Quiz" in cell.source and not QUIZ.match(cell.source):
            raise KitError(f"the quiz's heading begins a cell of its own, not {cell.source[:60]!r}…")
        elif cell.cell_type == "markdown" and QUIZ.match(cell.source):
            cell.source = quiz(notebooks().get(number, {}).get("quiz", []))
            cells.append(cell)
        elif not cell.get("id", "").startswith(GENERATED):
            cells.append(cell)
    notebook.cells = cells


def hide_answers(notebook) -> None:
    """Removes the folded solutions and the answers of the quiz in place; needs no file of exercises."""
    for cell in notebook.cells:
        if cell.get("id", "").startswith(GENERATED) or QUIZ.match(cell.source):
            cell.source = ANSWER.sub("", cell.source)


def cell_id(exercise: Exercise, part: str) -> str:
    """The id of the cell that is this part of an exercise."""
    return f"{GENERATED}{exercise.id.replace('.', '-')}-{part}"


def exercise_of(cell, part: str) -> Exercise | None:
    """The exercise of which a cell is this part; None for every other cell."""
    found = [each for each in exercises().values() if cell_id(each, part) == cell.get("id")]
    return found[0] if found else None


def _known(name: str, number: str) -> Exercise:
    if name not in exercises() or not name.startswith(number):
        raise KitError(f"pg_llm/course/exercises/{number}.toml has no exercise {name}")
    return exercises()[name]


def parts(exercise: Exercise, solutions: bool = True) -> Iterable[tuple[str, str, str]]:
    """The cells of an exercise: kind, name of the part, source."""
    yield "markdown", "card", card(exercise)
    yield "code", "answer", f"%%check {exercise.id}\n{exercise.cell.strip()}"
    folds = [fold(f"Hint {n}", hint) for n, hint in enumerate(exercise.hints, 1)]
    if solutions:
        code = f"```{exercise.language}\n%%check {exercise.id}\n{exercise.solution.strip()}\n```"
        folds.append(fold("Solution", code))
    yield "markdown", "hints", "\n".join(folds)


def card(exercise: Exercise) -> str:
    """The heading, what it takes, and the task."""
    return (
        f"### Exercise {exercise.id} · {exercise.title}\n"
        f"*Difficulty {dots(exercise.difficulty)}, importance {dots(exercise.importance)}, "
        f"{exercise.minutes} minutes.*\n\n{exercise.task.strip()}"
    )


def dots(of_five: int) -> str:
    """A rating from 1 to 5 as filled and empty dots."""
    return "●" * of_five + "○" * (5 - of_five)


def fold(title: str, text: str) -> str:
    """A folded paragraph of Markdown."""
    return f"<details><summary>{title}</summary>\n\n{text.strip()}\n</details>"


def quiz(questions: list[Mapping[str, Any]]) -> str:
    """Questions with options, and a folded, explained answer after each."""
    lines = ["## Quiz"]
    for n, each in enumerate(questions, 1):
        options = "\n".join(f"- {LETTERS[i]}. {option}" for i, option in enumerate(each["options"]))
        lines.append(f"**{n}. {each['question'].strip()}**\n\n{options}")
        lines.append(fold("Answer", f"**{LETTERS[each['answer']]}.** {each['explanation'].strip()}"))
    return "\n\n".join(lines)
