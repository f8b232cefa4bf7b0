"""Includes point down: a folder of the extension includes only lower ones, a test file no other test file."""

from __future__ import annotations

import re

from helpers.paths import REPO

# The folders without PostgreSQL, each with the folders that it may include besides its own.
CORE = {
    "common": set(),
    "kernels": {"common"},
    "formats": {"common"},
    "stories": {"common", "kernels"},
    "butterflies": {"common", "kernels"},
    "engine": {"common", "kernels", "engine/ops"},
    "engine/ops": {"common", "kernels", "engine"},  # what runs operations sees their table of rules
}
# Folders of src, from bottom to top: each may include CORE and those before it; module.c includes all.
SRC = (
    "base", "tensor", "tape", "model", "ops", "tokenizer",
    "checkpoint", "training", "generate", "insight", "stories", "butterflies",
)  # fmt: skip


def allowed() -> dict[str, set[str]]:
    """Folder -> folders that it may include; `src` stands for the files directly in src."""
    src = [f"src/{name}" for name in SRC]
    below = {folder: {*CORE, *src[: i + 1]} for i, folder in enumerate(src)}
    return {name: {name, *others} for name, others in CORE.items()} | below | {"src": {*CORE, *src, "src"}}


def folder_of(path: str) -> str:
    """engine/plan.h -> engine, src/tape/tape.h -> src/tape, src/module.c -> src."""
    return path.rpartition("/")[0]


def test_no_include_points_up():
    extension = REPO / "extension"
    sees, wrong = allowed(), []
    for folder in (*CORE, "src"):
        for path in sorted((extension / folder).rglob("*.[ch]")):
            name = path.relative_to(extension).as_posix()
            for included in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
                ours = (extension / included).exists()
                if ours and folder_of(included) not in sees.get(folder_of(name), set()):
                    wrong.append(f"{name} includes {included}")
    assert not wrong, "\n".join(wrong)


def test_the_list_names_every_folder():
    assert {path.name for path in (REPO / "extension" / "src").iterdir() if path.is_dir()} == set(SRC)


def test_no_test_imports_another():
    importing = re.compile(r"^\s*(?:from|import) (?:\S+\.)?test_\w+", re.MULTILINE)
    tests = (REPO / "tests").rglob("*.py")
    assert [path.name for path in tests if importing.search(path.read_text())] == []
