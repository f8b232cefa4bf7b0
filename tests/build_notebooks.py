"""Runs notebooks from a clean database and saves their outputs: python tests/build_notebooks.py [NOTEBOOK …].

With --fill, nothing runs: only the texts of exercises and quizzes are written anew. An answer cell whose text
changed loses its output, and its notebook has to be run.

The notebooks are the source; this refreshes their outputs, and their exercises and quizzes from
pg_llm/course/exercises. Nothing is saved if a cell fails.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import nbformat
from helpers.notebook_guard import silent_failure
from nbclient import NotebookClient
from nbval.plugin import find_comment_markers, find_metadata_tags

REPO = Path(__file__).resolve().parent.parent
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def fill(path: Path):
    """The notebook with its exercises and quiz as pg_llm/course/exercises has them now."""
    from pg_llm.course import cells
    from pg_llm.course.exercise import notebooks

    notebook = nbformat.read(path, 4)
    if path.name[:2] in notebooks():
        cells.fill(notebook, path.name[:2])
    return notebook


def build(path: Path) -> None:
    """Executes one notebook in a fresh kernel and writes it back."""
    notebook = fill(path)
    started = time.monotonic()
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=170, record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    client.execute()
    from pg_llm.notebook import saving

    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
        if cell.cell_type == "code":
            options = defaultdict(bool, find_metadata_tags(cell.metadata))
            options.update(find_comment_markers(cell.source))
            problem = silent_failure(cell, options, cell.outputs)
            if problem:
                raise SystemExit(f"{path.name}: {problem}:\n{cell.source}")
    notebook.metadata = METADATA
    saving.keep_pictures(notebook)
    nbformat.write(notebook, path)
    print(f"{path.name}: {time.monotonic() - started:.1f} s")


def own_server(home: Path):
    """A server with the tree's own extension, so that saved outputs belong to this version of the sources."""
    from pg_llm.build import build_extension
    from pg_llm.server import binaries
    from pg_llm.server.server import Server

    home.chmod(0o755)
    if "PG_LLM_EXTENSION" not in os.environ:
        pg_config = binaries.server_package() / "pginstall18" / "bin" / "pg_config"
        work = build_extension.compile_for(REPO / "extension", home / "work", pg_config)
        build_extension.collect(work, home / "extension")
        os.environ["PG_LLM_EXTENSION"] = str(home / "extension")
        for file in [home / "extension", *(home / "extension").rglob("*")]:
            file.chmod(0o755 if file.is_dir() else 0o644)
    os.environ["PG_LLM_HOME"] = str(home)
    os.environ.pop("PG_LLM_DSN", None)
    os.environ.pop("JPY_SESSION_NAME", None)
    return Server()


def main(names: list[str]) -> None:
    only_fill = "--fill" in names
    names = [name for name in names if name != "--fill"]
    paths = [Path(n).resolve() for n in names] or sorted((REPO / "notebooks").glob("*.ipynb"))
    os.environ["PYTHONPATH"] = str(REPO)
    sys.path.insert(0, str(REPO))
    if only_fill:
        for path in paths:
            nbformat.write(fill(path), path)
        return
    with tempfile.TemporaryDirectory(prefix="pg_llm-nb-", dir="/tmp") as folder:
        server = own_server(Path(folder))
        try:
            for path in paths:
                build(path)
        finally:
            server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
