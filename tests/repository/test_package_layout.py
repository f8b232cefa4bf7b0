"""pg_llm's folders depend on each other in one direction only."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

from helpers.paths import REPO

from pg_llm.errors import PgLlmError

PACKAGE = REPO / "pg_llm"
# From the bottom up: each may import those before it. bootstrap.py runs before anything is installed.
# classroom/ is data with which every database starts; train.py and butterflies.py make it, with a server.
LAYERS = """bootstrap errors catalog build files classroom server backup notebook plots
            drawings widgets course client alias classroom.train classroom.butterflies
            bench serve cli __main__""".split()


def layer(module: str) -> str:
    """The entry of LAYERS that a module belongs to; "" for the package itself.

    >>> layer("pg_llm.files.convert")
    'files'
    """
    parts = module.split(".")[1:]
    two = ".".join(parts[:2])
    return two if two in LAYERS else "".join(parts[:1])


def imports(path: Path) -> Iterator[str]:
    """Every module of the package that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "pg_llm")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pg_llm":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            assert node.level == 0, f"{path}: imports are absolute"


def test_imports_point_down():
    upward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE.parent).with_suffix("")
        module = ".".join(relative.parts).removesuffix(".__init__")
        if module == "pg_llm":
            continue  # its names are loaded on first use
        here = layer(module)
        assert here in LAYERS, f"{module} is in no layer"
        for there in {layer(name) for name in imports(path)} & {*LAYERS} - {here}:
            if LAYERS.index(there) > LAYERS.index(here):
                upward.append(f"{module} imports {there}")
    assert upward == []


def test_every_folder_says_what_it_holds():
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_errors_have_one_base():
    """Except the errors of build/, which runs when nothing else can be imported."""
    found = {}
    for path in sorted({*PACKAGE.rglob("*.py")} - {*(PACKAGE / "build").rglob("*.py")}):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
                found[node.name] = getattr(importlib.import_module(module), node.name)
    assert {"CheckpointError", "KitError", "NoExtensionError"} <= {*found}
    assert [name for name, error in found.items() if not issubclass(error, PgLlmError)] == []
