"""Editions of the notebooks: for self-study, for students, for teachers; for nbgrader and otter-grader."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from pg_llm.course import cells, store
from pg_llm.course.exercise import Exercise, Part, notebooks, numbers, plan
from pg_llm.errors import KitError
from pg_llm.server.connect import dsn

EDITIONS = ("self-study", "student", "teacher")
LESSON = 90  # minutes
AROUND = 5  # minutes for the drawing on the board at the beginning, and for the discussion at the end
ABOUT = {
    "self-study": "The course for self-study: hints, solutions and the quizzes' answers are folded.",
    "student": "The course for a class: hints, but no solutions, and quizzes without answers.",
    "teacher": "The course for teachers: a page about each notebook at its head, all right answers and "
    "the usual mistakes below each exercise, quizzes with their answers; all folded, so that a class may see "
    "the screen.",
}

FIRST_STEP = {
    "student": """
## The first step

You need pg_llm on your machine, and from your teacher the server's address, a name and a password; here they
are `server`, `ann` and `secret`. Write this line into the file `.pgpass` of your home folder:

    server:*:*:ann:secret

Then, in a terminal, in this folder:

```sh
chmod 600 ~/.pgpass
export PG_LLM_DSN=postgresql://ann@server/postgres
jupyter lab 00_start_here.ipynb
```

Run the first cell with Shift + Enter. Its `%load_ext pg_llm` connects you, and the notebook gets a database
of its own on the server. Try two more cells:

- `%pg_llm status` has a row `server … of PG_LLM_DSN`. If it has not, the notebook runs on a server of your
  own machine, and your teacher sees nothing of it: end JupyterLab, repeat the `export`, and start JupyterLab
  from the same terminal.
- `%pg_llm progress` lists the exercises that you have tried, in all notebooks; your teacher sees the same.

An exercise is a cell that begins with `%%check`: replace the lines `-- your line here` and run it, as often
as you like. The `export` holds for one terminal; as a line of `~/.profile` it holds from your next login on.
"""
}


def build(output: Path, editions: Iterable[str], only: Iterable[str] = (), force: bool = False) -> list[Path]:
    """Writes editions of the notebooks into folders of output; returns the folders.

    editions: of EDITIONS. only: notebooks, by number or name; none: all. force: replace what is there.
    Errors: KitError for an unknown edition or notebook, or a folder that is not empty; nothing is
    half-written.
    """
    sources = _sources(only)
    unknown = set(editions) - set(EDITIONS)
    if unknown:
        raise KitError(f"there are the editions {', '.join(EDITIONS)}, no {', '.join(sorted(unknown))}")
    made = []
    for edition in editions:
        target = output / edition
        with _replacing(target, force) as folder:
            for number, path in sources.items():
                _write(edited(_read(path), number, edition), folder / path.name)
            (folder / "README.md").write_text(
                f"# pg_llm\n\n{ABOUT[edition]}\n{FIRST_STEP.get(edition, '')}", encoding="utf-8"
            )
        made.append(target)
    return made


def edited(notebook, number: str, edition: str):
    """A copy of a notebook in an edition."""
    notebook = copy.deepcopy(notebook)
    cells.fill(notebook, number, solutions=edition != "teacher")
    if edition == "student":
        cells.hide_answers(notebook)
    if edition == "teacher":
        _teach(notebook, number)
    return notebook


def hide_answers(folder: Path, target: Path) -> None:
    """Copies notebooks, and what lies beside them, without solutions; target may be folder itself."""
    if target != folder:
        shutil.copytree(folder, target, dirs_exist_ok=True)
    for path in target.rglob("*.ipynb"):
        notebook = _read(path)
        cells.hide_answers(notebook)
        _write(notebook, path)


def prepare(edition: str | None, echo) -> Callable[[Path, Path], None] | None:
    """What `pg-llm lab` and `pg-llm notebooks` do to a learner's copy; None: nothing.

    edition: "self-study" or "student"; None: the student's, where PG_LLM_DSN leads to a class with keys.
    """
    if edition is None and dsn() and store.keyed():
        echo("The server judges the exercises of this class: the notebooks come without solutions.")
        edition = "student"
    return hide_answers if edition == "student" else None


def strip() -> Path:
    """Removes every solution from this installation, for machines of students; returns the package's folder.

    Only a new installation brings them back. Errors: KitError for a checkout, or where files are not ours.
    """
    package = Path(str(resources.files("pg_llm")))
    if (package.parent / "pyproject.toml").exists():
        raise KitError(f"{package} is a checkout: strip the installation that the students use")
    try:
        hide_answers(package / "notebooks", package / "notebooks")
        shutil.rmtree(package / "course" / "exercises")
    except FileNotFoundError:
        pass  # it was done before
    except OSError as error:
        raise KitError(f"cannot change {error.filename}: {error.strerror}") from None
    return package


def _teach(notebook, number: str) -> None:
    """Adds the teacher's page and, below each exercise, everything that its file knows."""
    from nbformat.v4 import new_markdown_cell

    done: list[Any] = []
    for cell in notebook.cells:
        done.append(cell)
        exercise = cells.exercise_of(cell, "hints")
        if exercise:
            done.append(new_markdown_cell(answers_page(exercise), id=f"{cell.id}-teacher"))
    page = new_markdown_cell(teachers_page(number), id="teachers-page")
    notebook.cells = [*done[:1], page, *done[1:]]


def teachers_page(number: str) -> str:
    """What a teacher wants to know of a notebook before the lesson, folded: a class may see the screen."""
    page = notebooks()[number]["teacher"]
    wrong = "\n".join(
        f"- *They think:* {each['think']} *In fact:* {each['fact']}" for each in page["misconceptions"]
    )
    rows = "\n".join(
        f"| {each.id} | {each.title} | {cells.dots(each.difficulty)} | {cells.dots(each.importance)} "
        f"| {each.minutes} |"
        for part in plan(number)
        for each in part.exercises
    )
    return cells.fold(
        f"For the teacher: notebook {number}",
        f"{_timetable(number)}\n\n"
        f"| exercise | | difficulty | importance | minutes |\n|---|---|---|---|---|\n{rows}\n\n"
        f"**What learners get wrong.**\n\n{wrong}\n\n"
        f"**To discuss.** {page['question']}\n\n**On the board.** {page['board']}",
    )


def lesson(number: str) -> list[Part]:
    """The parts of a notebook for a lesson of LESSON minutes, between the drawing and the discussion."""
    parts = plan(number)
    if sum(each.minutes for each in parts) + 2 * AROUND <= LESSON:
        return parts
    return [each for each in parts if not each.skip]


def _timetable(number: str) -> str:
    """The minutes of a notebook, and a table of what to do when in a lesson."""
    parts, taught = plan(number), lesson(number)
    total = sum(each.minutes for each in parts)
    reading = sum(each.reading for each in parts)
    clock = 0
    rows = []

    def row(what: str, minutes: int, note: str = "", taught: bool = True) -> None:
        nonlocal clock
        begins, clock = clock, clock + minutes * taught
        rows.append(f"| {f'{begins}–{clock}' if taught else '·'} | {what} | {minutes} | {note} |")

    row("the drawing on the board", AROUND)
    for part in parts:
        asked = "".join(f" · exercise {each.id} ({each.minutes})" for each in part.exercises)
        note = f"saves {part.minutes}: {part.skip}" if part.skip else ""
        row(part.name + asked, part.minutes, note, part in taught)
    row("the discussion", AROUND)
    which = "all parts" if taught == parts else "the parts without a dot"
    return (
        f"**Time.** {total} minutes: {reading} to read and run the cells, {total - reading} for exercises. A "
        f"lesson of {LESSON} minutes has room for {which}; with drawing and discussion they take {clock}.\n\n"
        "| minute of the lesson | part | minutes | what may be left out |\n|---|---|---|---|\n"
        + "\n".join(rows)
    )


def answers_page(exercise: Exercise) -> str:
    """The solution, the other right answers and the usual mistakes of an exercise, folded."""
    code = f"```{exercise.language}\n{{}}\n```"
    right = "\n".join(code.format(answer.strip()) for answer in [exercise.solution, *exercise.right])
    wrong = "\n".join(f"{code.format(w.answer.strip())}\n→ {w.message}\n" for w in exercise.wrong)
    return "\n".join(
        [
            cells.fold(f"For the teacher: right answers to {exercise.id}", right),
            cells.fold("For the teacher: usual mistakes, and what the check says", wrong),
        ]
    )


# -- files ----


def _sources(only: Iterable[str]) -> dict[str, Path]:
    """The notebooks that have exercises, by number."""
    folder = Path(str(resources.files("pg_llm"))).parent / "notebooks"
    if not folder.is_dir():
        folder = Path(str(resources.files("pg_llm.notebooks")))
    paths = {number: folder / f"{file['notebook']['file']}.ipynb" for number, file in notebooks().items()}
    found = {number: path for number, path in paths.items() if path.exists()}
    if not found:
        raise KitError("this installation has no notebooks with exercises: pg_llm/course/exercises is empty")
    wanted = numbers(only, found) or list(found)
    return {number: path for number, path in found.items() if number in wanted}


def _read(path: Path):
    import nbformat

    return nbformat.read(path, 4)


def _write(notebook, path: Path) -> None:
    import nbformat

    nbformat.validate(notebook)
    nbformat.write(notebook, path)


class _replacing:
    """A temporary folder that becomes target if the block succeeds."""

    def __init__(self, target: Path, force: bool):
        self.target = target
        if (
            target.exists()
            and not (force and target.is_dir())
            and (not target.is_dir() or any(target.iterdir()))
        ):
            raise KitError(f"{target} exists and is not empty; --force replaces it")

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix=".editions-", dir=self.target.parent))
        except OSError as error:
            raise KitError(f"cannot write to {self.target.parent}: {error.strerror}") from None
        self.folder.chmod(0o755)
        return self.folder

    def __exit__(self, kind, error, traceback):
        if error is None:
            if self.target.exists():
                shutil.rmtree(self.target)
            os.replace(self.folder, self.target)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
