"""Assignments for nbgrader and otter-grader: their form, and that both grade right, half right and wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from pg_llm.cli import cli
from pg_llm.course import assignments, check, editions, keys, quizzes
from pg_llm.course import exercise as files
from pg_llm.errors import KitError

NAME = "90_means"
SOURCES = editions._sources  # which the fixture `course` replaces
DATA = "CREATE TEMP TABLE p AS SELECT i % {} AS g, sqrt(i) AS x FROM generate_series(1, 9) AS i"
VARIANTS = [{"setup": DATA.format(3)}, {"setup": DATA.format(4)}]
CARD = {"importance": 1, "minutes": 5, "hints": ["a hint", "another"], "variant": VARIANTS}
FILE = {
    "notebook": {"file": NAME},
    "exercise": [
        {**CARD, "id": "90.1", "title": "means", "difficulty": 2, "task": "The mean of x in each g.",
         "cell": "SELECT g,\n       -- your line here: 'mean'\nFROM p GROUP BY g",
         "solution": "SELECT g, avg(x) AS mean\nFROM p GROUP BY g"},
        {**CARD, "id": "90.2", "title": "rows", "difficulty": 4, "task": "The number of groups.",
         "cell": "SELECT -- your line here", "solution": "SELECT count(DISTINCT g) FROM p"},
        {**CARD, "id": "90.3", "title": "python", "difficulty": 1, "task": "Add one.", "language": "python",
         "cell": "def f(n):\n    \"\"\"n + 1\"\"\"\n    return None  # your line here",
         "probe": "[f(n) for n in ns]", "solution": "def f(n):\n    return n + 1",
         "variant": [{"variables": {"ns": [1, 2]}}, {"variables": {"ns": [5, 6]}}]},
    ],
    "quiz": [],
}  # fmt: skip
# Each exercise's answer, and the share of its points; 90.2's constant fits the learner's own data only.
ANSWERS = {
    "right": [("SELECT g, sum(x) / count(*) FROM p GROUP BY g", 1),
              ("SELECT count(*) FROM (SELECT DISTINCT g FROM p) AS t", 1), ("f = lambda n: 1 + n", 1)],
    "half": [("SELECT g, avg(x) FROM p GROUP BY g", 1), ("SELECT 3", 0.5), (None, 0)],
    "wrong": [("SELECT 42", 0), ("SELEC", 0), ("def f(n): return n", 0)],
}  # fmt: skip


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A notebook with three exercises in place of the course's; yields it."""
    folder = tmp_path_factory.mktemp("course")
    new = nbformat.v4
    notebook = new.new_notebook(
        cells=[
            new.new_markdown_cell("# Means", id="title"),
            new.new_code_cell("%load_ext pg_llm", id="load", execution_count=1),
            *(new.new_markdown_cell(f"### Exercise 90.{n}", id=f"e{n}") for n in (1, 2, 3)),
            new.new_code_cell("%%sql\nSELECT nonsense", id="an-error"),
        ],
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}},
    )
    path = folder / f"{NAME}.ipynb"
    nbformat.write(notebook, path)
    tasks = {each["id"]: files.from_dict(each) for each in FILE["exercise"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(editions, "_sources", lambda only: {"90": path})
        for module in (assignments, editions, editions.cells, keys):
            if hasattr(module, "exercises"):
                patch.setattr(module, "exercises", lambda: tasks)
            if hasattr(module, "notebooks"):
                patch.setattr(module, "notebooks", lambda: {"90": FILE})
        yield tasks


def source(folder):
    path = folder / f"{NAME}.ipynb"
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    return notebook


def answer_cells(notebook):
    return {c.source.split()[1]: c for c in notebook.cells if c.source.startswith("%%check")}


def without_regions(text: str, begin: str) -> str:
    """What is left without solution regions."""
    return re.sub(rf"^[^\n]*{begin}.*?END SOLUTION$\n?", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("kind", assignments.FORMATS)
def test_the_source_runs_and_shows_solutions_between_marks_only(course, tmp_path, kind):
    (folder,) = assignments.build(tmp_path, kind)
    notebook = source(folder)
    assert all(not c.get("outputs") and not c.get("execution_count") for c in notebook.cells)
    found = answer_cells(notebook)
    assert list(found) == list(course)
    for name, exercise in course.items():
        first, _, code = found[name].source.partition("\n")
        assert first == f"%%check {name}"
        bare = check.code_of(exercise.language, code)
        wanted = check.code_of(exercise.language, exercise.solution)
        assert bare == wanted if exercise.language == "sql" else bare[-len(wanted) :] == wanted
        left = without_regions(code, "BEGIN SOLUTION")
        if kind == "otter":
            left = re.sub(r".*BEGIN PROMPT\n", "", left)
        assert left.strip() == exercise.cell.strip()
        rest = "\n".join(c.source for c in notebook.cells if c is not found[name])
        assert exercise.solution not in left + rest and "<summary>Solution" not in rest
    assert any("a hint" in c.source for c in notebook.cells)


def test_every_exercise_of_the_course_can_be_an_answer_cell():
    """Comments nest, and no exercise's text ends the comment that it is put into."""
    for exercise in files.exercises().values():
        for cell in (assignments.nbgrader_answer(exercise), assignments.otter_answer(exercise)):
            code = cell.partition("\n")[2]
            if exercise.language == "sql":
                assert check.code_of("sql", code) == check.code_of("sql", exercise.solution), exercise.id
            else:
                compile(code, exercise.id, "exec")
            assert cell.count("BEGIN SOLUTION") == cell.count("END SOLUTION") <= 2


def test_nbgraders_metadata_are_of_its_schema(course, tmp_path):
    """https://nbgrader.readthedocs.io/en/stable/contributor_guide/metadata.html, version 3."""
    notebook = source(assignments.build(tmp_path, "nbgrader")[0])
    roles = [c.metadata.nbgrader for c in notebook.cells if "nbgrader" in c.metadata]
    names = {"schema_version", "grade_id", "solution", "grade", "locked", "task"}
    assert all(set(role) - {"points"} == names for role in roles)
    assert all(r.schema_version == 3 and re.fullmatch(r"[a-zA-Z0-9_-]+", r.grade_id) for r in roles)
    assert len({r.grade_id for r in roles}) == len(roles) == 2 * len(course)
    for answer, test in zip(roles[::2], roles[1::2], strict=True):
        assert answer.solution and not answer.grade and "points" not in answer
        assert test.grade and test.locked and not test.solution
    assert [r.points for r in roles[1::2]] == [2, 4, 1]
    tests = [c.source for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade")]
    assert [test.splitlines()[-1] for test in tests] == [
        f'{n} * grade("90.{i}")' for i, n in ((1, 2), (2, 4), (3, 1))
    ]


def test_otters_blocks_are_closed(course, tmp_path):
    notebook = source(assignments.build(tmp_path, "otter")[0])
    marks = [c.source.splitlines()[0] for c in notebook.cells if c.cell_type == "raw"]
    blocks = ["BEGIN QUESTION", "BEGIN SOLUTION", "END SOLUTION", "BEGIN TESTS", "END TESTS", "END QUESTION"]
    assert marks == ["# ASSIGNMENT CONFIG", *[f"# {block}" for block in blocks] * len(course)]


def test_force_keeps_submissions_and_the_teachers_configuration(course, tmp_path):
    assignments.build(tmp_path, "nbgrader")
    kept = [tmp_path / "nbgrader" / name for name in ("gradebook.db", "nbgrader_config.py")]
    for path in kept:
        path.write_text("mine")
    with pytest.raises(KitError, match="--force replaces it"):
        assignments.build(tmp_path, "nbgrader")
    assignments.build(tmp_path, "nbgrader", force=True)
    assert [path.read_text() for path in kept] == ["mine", "mine"]
    assert sorted(p.name for p in (tmp_path / "nbgrader" / "source").iterdir()) == [NAME]


def test_the_command(course, tmp_path):
    done = CliRunner().invoke(cli, ["editions", str(tmp_path), "--format", "otter"])
    assert done.exit_code == 0 and done.output == f"{tmp_path / 'otter' / NAME}\n"
    done = CliRunner().invoke(cli, ["editions", str(tmp_path), "--format", "otter", "--edition", "student"])
    assert done.exit_code == 2 and "does not go with it" in done.output


def test_an_installation_without_exercises_says_so(tmp_path, monkeypatch):
    """A student's, whose folder of exercises was deleted."""
    for module in (editions, quizzes):
        monkeypatch.setattr(module, "notebooks", dict)
    monkeypatch.setattr(editions, "_sources", SOURCES)
    for options in (["editions"], ["editions", "--format", "nbgrader"], ["quizzes"]):
        done = CliRunner().invoke(cli, [*options, str(tmp_path)])
        assert isinstance(done.exception, KitError) and "this installation has no" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


# -- with the packages ----


@pytest.fixture
def judged(server, course):
    """The server judges the exercises, so that a kernel knows them."""
    keys.install(lambda text: None)
    yield
    keys.remove()


def ran(*command: str, cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def handed_in(released: Path, target: Path, answers) -> Path:
    """A student's copy of a released notebook, with answers."""
    notebook = nbformat.read(released, 4)
    for cell, (answer, _) in zip(answer_cells(notebook).values(), answers, strict=True):
        cell.source = cell.source if answer is None else f"{cell.source.splitlines()[0]}\n{answer}"
    target.mkdir(parents=True)
    nbformat.write(notebook, target / released.name)
    return target / released.name


@pytest.mark.slow
def test_nbgrader_grades(judged, course, tmp_path):
    pytest.importorskip("nbgrader", reason="nbgrader is not installed")
    from nbgrader.api import Gradebook

    assignments.build(tmp_path, "nbgrader")
    folder = tmp_path / "nbgrader"
    ran("nbgrader", "generate_assignment", NAME, cwd=folder)
    released = folder / "release" / NAME / f"{NAME}.ipynb"
    for name, cell in answer_cells(nbformat.read(released, 4)).items():
        code = cell.source.partition("\n")[2]
        assert code == f"\n{course[name].cell}\n" and check.is_blank(course[name], code)
    for student, answers in ANSWERS.items():
        handed_in(released, folder / "submitted" / student / NAME, answers)
    ran("nbgrader", "autograde", NAME, cwd=folder)
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        for student, answers in ANSWERS.items():
            (notebook,) = book.find_submission(NAME, student).notebooks
            scores = {grade.name: grade.auto_score for grade in notebook.grades}
            wanted = zip(course.values(), answers, strict=True)
            assert scores == {
                f"exercise-{e.id.replace('.', '-')}": e.difficulty * share for e, (_, share) in wanted
            }, student
            assert notebook.max_score == 7 and not notebook.needs_manual_grade


@pytest.mark.slow
def test_otter_grades(judged, course, tmp_path):
    pytest.importorskip("otter", reason="otter-grader is not installed")
    from otter.api import grade_submission

    (folder,) = assignments.build(tmp_path, "otter")
    ran("otter", "assign", f"{NAME}.ipynb", "made", cwd=folder)  # also grades the solutions
    released = folder / "made" / "student" / f"{NAME}.ipynb"
    for name, cell in answer_cells(nbformat.read(released, 4)).items():
        assert cell.source == f"%%check {name}\n{course[name].cell}"
    (autograder,) = (folder / "made" / "autograder").glob("*.zip")
    for student, answers in ANSWERS.items():
        file = handed_in(released, tmp_path / student, answers)
        results = grade_submission(str(file), str(autograder), quiet=True)
        wanted = zip(course.values(), answers, strict=True)
        assert {name: result.score for name, result in results.results.items()} == {
            f"exercise_{e.id.replace('.', '_')}": e.difficulty * share for e, (_, share) in wanted
        }, student
        assert results.possible == 7
