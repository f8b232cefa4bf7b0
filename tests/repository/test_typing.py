"""Type checkers and editors see the types of pg_llm's public names."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.paths import REPO

import pg_llm

pytest.importorskip("mypy", reason="mypy is not installed")


def mypy(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *arguments], cwd=REPO, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_package_is_typed_without_contradictions():
    mypy()


def test_public_names_have_types(tmp_path):
    """Names loaded on first use are declared for type checkers, each with its signature."""
    names = [name for name in pg_llm.__all__ if name != "load_ipython_extension"]
    program = tmp_path / "program.py"
    program.write_text("import pg_llm\n" + "".join(f"reveal_type(pg_llm.{name})\n" for name in names))
    told = mypy(str(program))
    types = [line.split("Revealed type is ")[1] for line in told.splitlines() if "Revealed type" in line]
    assert len(types) == len(names)
    assert [name for name, kind in zip(names, types, strict=True) if not kind.startswith('"def ')] == []
