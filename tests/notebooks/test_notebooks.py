"""The course runs from a clean database and gives the saved outputs; the guard detects what nbval misses."""

from __future__ import annotations

import json
import re

import nbformat
import pytest
from helpers.notebooks import named, nbval, twice
from helpers.paths import REPO

from pg_llm.course import cells, store
from pg_llm.course.exercise import exercises, notebooks

pytestmark = pytest.mark.slow

CANARY = REPO / "tests" / "notebooks" / "canary.ipynb"


@named
def test_it_gives_its_saved_outputs_and_runs_again_with_the_solutions(server, path, tmp_path):
    """A learner runs cells again, in the same database, and fills in each exercise on the way.

    The tables that the fallbacks made are those that the solutions make.
    """
    notebook, names = twice(nbformat.read(path, 4), tmp_path)
    copy = tmp_path / path.name
    nbformat.write(notebook, copy)
    with store.connection() as course:
        (started,) = course.execute("SELECT now()").fetchone()
    seen = nbval(copy, tmp_path / "report.xml")
    assert len(seen) == len(names)
    wrong = [f"{name}: {text}" for name, text in zip(names, seen.values(), strict=True) if text]
    assert not wrong, "\n".join(wrong)
    asked = {e["id"] for e in notebooks()[path.name[:2]]["exercise"]}
    with store.connection() as course:
        query = "SELECT exercise FROM llm_course.attempt WHERE at >= %s AND score = 1"
        assert {name for (name,) in course.execute(query, [started])} >= asked
        for name in asked & {*names}:
            came, wanted = (json.loads((tmp_path / f"{name}.{half}").read_text()) for half in (1, 2))
            assert store.verdict(course, exercises()[name], [came], [{"solution": wanted}])["right"], name
            assert {*came["columns"]} <= {*wanted["columns"]}, name


def test_the_canary_fails_in_every_cell_that_should(server, tmp_path):
    """Each cell of the canary contains the expected report; those with `sings` must pass."""
    guarded = nbval(CANARY, tmp_path / "guarded.xml")
    alone = nbval(CANARY, tmp_path / "alone.xml", guard=False)
    cells = [cell for cell in nbformat.read(CANARY, 4).cells if cell.cell_type == "code"]
    assert len(cells) == len(guarded) == len(alone)
    seen = set()
    for i, cell in enumerate(cells):
        says = cell.metadata["canary"]
        seen.add(says)
        if says == "sings":
            assert not guarded[f"Cell {i}"], cell.source
        else:
            assert says in guarded[f"Cell {i}"], f"{cell.source}\n{guarded[f'Cell {i}']}"
        # Without the guard these pass.
        assert bool(alone[f"Cell {i}"]) == (cell.metadata.get("nbval_sees", False)), cell.source
    assert len(seen) >= 8


@named
def test_the_exercises_are_those_of_the_file(path):
    """`python tests/build_notebooks.py` has written the exercises and the quiz as the file has them now."""
    number = path.name[:2]
    saved, filled = nbformat.read(path, 4), nbformat.read(path, 4)
    cells.fill(filled, number)
    assert [c.source for c in saved.cells] == [c.source for c in filled.cells]
    asked = re.findall(r"^%%check ([\d.]+)", "\n".join(c.source for c in saved.cells), re.MULTILINE)
    assert set(asked) == {e["id"] for e in notebooks()[number]["exercise"]}
    assert any(c.source.startswith("## Quiz") for c in saved.cells)


@named
def test_the_notebook_keeps_the_house_rules(path):
    """20–45 code cells, under 2,500 words of prose, outputs saved, nothing of one machine in them."""
    notebook = nbformat.read(path, 4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    prose = [c for c in notebook.cells if c.cell_type == "markdown" and not c.id.startswith(cells.GENERATED)]
    words = sum(len(c.source.split()) for c in prose if not cells.QUIZ.match(c.source))
    assert 20 <= len(code) <= 45 and words < 2500, f"{len(code)} code cells, {words} words"
    assert code[0].source.startswith("%load_ext pg_llm")
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    kinds = {kind for c in code for o in c.outputs for kind in o.get("data", {})}
    assert kinds & {"image/png", "image/svg+xml"}, "no figure"
    text = path.read_text()
    for leftover in ("/home/", "/root/", "/tmp/", "/work/", "site-packages", "fresh_", "postgresql+psycopg"):
        assert leftover not in text, leftover
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
