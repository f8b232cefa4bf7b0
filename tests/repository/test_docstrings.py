"""Every public name of the package, and every command, is documented."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import click
from helpers.paths import REPO

from pg_llm.cli import cli


def undocumented(node: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
    """Public functions, classes and methods without a docstring, below a module or class."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef | ast.ClassDef) and not part.name.startswith("_"):
            if not ast.get_docstring(part):
                yield f"{name}.{part.name}"
            if isinstance(part, ast.ClassDef):
                yield from undocumented(part, f"{name}.{part.name}")


def test_every_public_name_has_a_docstring():
    missing = []
    for path in sorted((REPO / "pg_llm").rglob("*.py")):
        module = ast.parse(path.read_text())
        name = str(path.relative_to(REPO))
        missing += [name] * (not ast.get_docstring(module)) + [*undocumented(module, name)]
    assert missing == []


def test_every_command_and_option_has_a_help_text():
    for name, command in cli.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, f"{name} {parameter.name}"
