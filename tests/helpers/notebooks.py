"""The course's notebooks, and nbval over one of them."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from helpers.paths import REPO

NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def nbval(path: Path, report: Path, guard: bool = True) -> dict[str, str]:
    """Runs nbval in a process of its own; the message of each cell, empty where it passed."""
    arguments = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=170", "-o", "addopts="]
    arguments += ["-p", "no:cacheprovider", "-q", "--color=no", f"--junitxml={report}"]
    arguments += ["-p", "helpers.notebook_guard"] if guard else []
    command = [sys.executable, "-m", "pytest", *arguments, str(path)]
    done = subprocess.run(command, cwd=REPO / "tests", capture_output=True, text=True, timeout=600)
    assert report.exists(), done.stdout + done.stderr
    cells = {}
    for case in ElementTree.parse(report).iter("testcase"):
        troubles = [*case.findall("failure"), *case.findall("error")]
        text = "".join((t.get("message") or "") + (t.text or "") for t in troubles)
        cells[case.get("name")] = cells.get(case.get("name"), "") + text
    assert cells, done.stdout + done.stderr
    return cells
