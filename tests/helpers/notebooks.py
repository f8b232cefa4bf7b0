"""The course's notebooks, and nbval over one of them."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from helpers.paths import REPO
from pg_llm.course.exercise import exercises

NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))
# Keeps a table of the notebook's database as the checks compare it.
TABLE = """import json
from pathlib import Path
from pg_llm.course import answers
from pg_llm.notebook import session
with session.connection() as conn:
    rows = "SELECT * FROM {table} AS t ORDER BY t LIMIT " + str(answers.LARGEST)
    Path({file!r}).write_text(json.dumps(answers.rows_of(conn, rows, {{}})))"""
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def nbval(path: Path, report: Path, guard: bool = True) -> dict[str, str]:
    """Runs nbval in a process of its own; the message of each cell, empty where it passed."""
    arguments = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=170", "-o", "addopts="]
    arguments += ["-p", "no:cacheprovider", "-q", "--color=no", f"--junitxml={report}"]
    arguments += ["-p", "helpers.notebook_guard"] if guard else []
    command = [sys.executable, "-m", "pytest", *arguments, str(path)]
    # The kit sets PGAPPNAME for the program that opens a notebook: here that may have been another test.
    env = {name: value for name, value in os.environ.items() if name not in ("PGAPPNAME", "JPY_SESSION_NAME")}
    done = subprocess.run(command, cwd=REPO / "tests", env=env, capture_output=True, text=True, timeout=1200)
    assert report.exists(), done.stdout + done.stderr
    cells = {}
    for case in ElementTree.parse(report).iter("testcase"):
        troubles = [*case.findall("failure"), *case.findall("error")]
        text = "".join((t.get("message") or "") + (t.text or "") for t in troubles)
        cells[case.get("name")] = cells.get(case.get("name"), "") + text
    assert cells, done.stdout + done.stderr
    return cells


def twice(notebook: NotebookNode, folder: Path) -> tuple[NotebookNode, list[str]]:
    """The cells of a notebook, then the same with every exercise solved; and a name for each code cell.

    After the check of an exercise that defines a table, a cell keeps its rows in the folder, in the file
    `<exercise>.1`, and `<exercise>.2` the second time; such a cell has the name of the exercise.
    """
    cells, names = [], []

    def add(cell: NotebookNode, name: str, *tags: str) -> None:
        cell.metadata["tags"] = sorted({*cell.metadata.get("tags", []), *tags})
        cells.append(cell)
        names.append(name)

    for half in (1, 2):
        for i, original in enumerate(c for c in notebook.cells if c.cell_type == "code"):
            cell, asked = copy.deepcopy(original), re.match(r"%%check ([\d.]+)", original.source)
            if half == 2:
                cell.id += "-2"
                if asked:
                    cell.source = f"%%check {asked[1]}\n{exercises()[asked[1]].solution}"
            add(cell, f"Cell {i}" + " again" * (half == 2), *["nbval-ignore-output"] * (half == 2))
            if asked and (table := exercises()[asked[1]].defines):
                code = TABLE.format(table=table, file=str(folder / f"{asked[1]}.{half}"))
                add(nbformat.v4.new_code_cell(code, execution_count=1), asked[1], "nbval-ignore-output")
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata), names
