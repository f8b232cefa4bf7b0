"""The repository, and where compiled extensions are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """Where compiled extensions are kept between runs: below build/, or below /tmp if its path has spaces."""
    folder = REPO / "build"
    if " " in str(folder) or not os.access(REPO, os.W_OK):
        folder = Path("/tmp") / f"pg_llm-build-{os.getuid()}"
    folder.mkdir(exist_ok=True, mode=0o755)
    return folder
