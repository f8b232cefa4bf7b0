"""Paths of the repository, its files, and the folder of compiled extensions."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """The folder of compiled extensions, kept between runs: in build/, or in /tmp if that path has spaces."""
    folder = REPO / "build"
    if " " in str(folder) or not os.access(REPO, os.W_OK):
        folder = Path("/tmp") / f"pg_llm-build-{os.getuid()}"
    folder.mkdir(exist_ok=True, mode=0o755)
    return folder


def tracked() -> list[str]:
    """The repository's files according to git; in a copy without git, all files that no build made."""
    if shutil.which("git") and (REPO / ".git").exists():
        return subprocess.check_output(["git", "-C", REPO, "ls-files"], text=True).splitlines()
    made = {"__pycache__", "_extension", ".git", ".venv", ".pytest_cache", ".ruff_cache"}
    top = {"build", "dist"}
    paths = (p.relative_to(REPO) for p in REPO.rglob("*") if p.is_file())
    paths = (p for p in paths if not made & {*p.parts} and p.parts[0] not in top)
    return [p.as_posix() for p in paths if ".egg-info" not in p.parts[0]]
