"""README's two commands when something is missing: their messages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from helpers.paths import REPO

pytestmark = pytest.mark.slow

BOOTSTRAP = REPO / "pg_llm" / "bootstrap.py"


def run(*arguments, path, **environment):
    """Runs bootstrap.py with only the programs of `path`, so that it cannot install anything."""
    where = {**os.environ, "PATH": str(path), **environment}
    command = [sys.executable, BOOTSTRAP, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=where, timeout=60)


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"]])
def test_usage(arguments, tmp_path):
    done = run(*arguments, path=tmp_path)
    assert done.returncode == 1
    assert "bootstrap.py lab" in done.stderr
    assert "bootstrap.py test" in done.stderr


def test_no_compiler_and_no_way_to_install_one(tmp_path):
    done = run("lab", path=tmp_path)
    assert done.returncode == 1
    assert "sudo apt install gcc libc6-dev make" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_compiler_without_the_c_librarys_headers(tmp_path):
    for name in ("gcc", "make"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    done = run("lab", path=tmp_path)
    assert "sudo apt install libc6-dev" in done.stderr


def test_continuous_integration_runs_readmes_test_command():
    words = (REPO / ".ci" / "run").read_text()
    command = "python3 pg_llm/bootstrap.py test"
    assert command in words
    assert command in (REPO / "README.md").read_text()


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is missing")
@pytest.mark.parametrize("script", ["binder/postBuild", "binder/start", ".ci/run"])
def test_scripts_stop_at_the_first_error(script):
    path = REPO / script
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text()
    assert subprocess.run(["bash", "-n", path]).returncode == 0


def test_binders_start_becomes_jupyter():
    assert (REPO / "binder" / "start").read_text().rstrip().endswith('exec "$@"')
