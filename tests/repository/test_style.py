"""Formatters and linters accept the sources."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from helpers.paths import REPO

C_FILES = sorted(
    p for kind in ("*.c", "*.h") for p in (REPO / "extension").rglob(kind) if "build" not in p.parts
)


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_python(command):
    if shutil.which("ruff", path=str(__import__("pathlib").Path(sys.executable).parent)) is None:
        pytest.skip("ruff is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_c():
    """clang-format 14, as Debian 12 has it: other versions differ in details."""
    program = shutil.which("clang-format-14")
    if program is None:
        pytest.skip("clang-format-14 is not installed")
    done = subprocess.run(
        [program, "--dry-run", "-Werror", *C_FILES], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[:5000]
