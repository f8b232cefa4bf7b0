"""The course runs from a clean database and gives the saved outputs; the guard detects what nbval misses."""

from __future__ import annotations

import re

import nbformat
import pytest
from helpers.jupyter_kernel import Kernel
from helpers.notebooks import named, nbval
from helpers.paths import REPO

pytestmark = pytest.mark.slow

CANARY = REPO / "tests" / "notebooks" / "canary.ipynb"


@named
def test_the_notebook_gives_its_saved_outputs(server, path, tmp_path):
    wrong = {name: text for name, text in nbval(path, tmp_path / "report.xml").items() if text}
    assert not wrong, "\n".join(f"{name}: {text}" for name, text in wrong.items())


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
def test_it_runs_twice_and_the_solutions_are_right(server, path):
    """A learner runs cells again, in the same database; each exercise's solution passes its check."""
    notebook = nbformat.read(path, 4)
    kernel = Kernel(cwd=str(path.parent))
    try:
        for cell in [c for c in notebook.cells if c.cell_type == "code"] * 2:
            seen = kernel.run(cell.source, timeout=170)
            assert seen.ok != ("raises-exception" in cell.metadata.get("tags", [])), (
                cell.source + seen.traceback
            )
        solutions = solutions_of(notebook)
        asked = {name for c in notebook.cells if c.cell_type == "code" for name in checks_in(c.source)}
        assert 3 <= len(asked) <= 6
        assert {name for _, names in solutions for name in names} == asked
        for cells, names in solutions:
            for source in cells:
                seen = kernel.run(source, timeout=170)
                assert seen.ok, seen.traceback
            assert f"{seen.printed}".count("✓ Right.") == len(names), f"{names}: {seen.printed}\n{source}"
    finally:
        kernel.close()


def solutions_of(notebook) -> list[tuple[list[str], list[str]]]:
    """For each <details> with a solution: its code cells, and the exercises they check."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and "<summary>Solution" in cell.source:
            solution = cell.source.split("<summary>Solution", 1)[1]
            codes = re.findall(r"```(?:python|sql)\n(.*?)```", solution, re.DOTALL)
            found.append((codes, [name for code in codes for name in checks_in(code)]))
    return found


def checks_in(source: str) -> list[str]:
    return re.findall(r'\bcheck\("([\d.]+)"', source)


@named
def test_the_notebook_keeps_the_house_rules(path):
    """20–45 code cells, under 2,500 words, outputs saved, %load_ext first, no machine-specific output."""
    notebook = nbformat.read(path, 4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    words = sum(len(c.source.split()) for c in notebook.cells if c.cell_type == "markdown")
    assert 20 <= len(code) <= 45 and words < 2500, f"{len(code)} code cells, {words} words"
    assert code[0].source.startswith("%load_ext pg_llm")
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    assert any("image/png" in o.get("data", {}) for c in code for o in c.outputs), "no figure"
    text = path.read_text()
    for leftover in ("/home/", "/root/", "/tmp/", "/work/", "site-packages", "fresh_", "postgresql+psycopg"):
        assert leftover not in text, leftover
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
