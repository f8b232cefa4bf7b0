"""The server-less C layers under address and undefined-behaviour sanitizers."""

from __future__ import annotations

import subprocess

import pytest
from helpers.paths import REPO, cache_folder

from pg_llm.build import build_extension


@pytest.mark.slow
def test_core_layers_under_sanitizers():
    """Every program of extension/test/c passes, compiled with -fsanitize=address,undefined."""
    work = cache_folder() / "core"
    build_extension.mirror(REPO / "extension", work)
    command = ["make", "-s", "-C", work / "test" / "c", "-j2", "check"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert done.returncode == 0, done.stdout[-10000:]
