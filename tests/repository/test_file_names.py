"""Every source file and page that a comment, docstring or page names is in the repository."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from fnmatch import fnmatch
from pathlib import Path

import pytest
from helpers.paths import REPO, tracked

KINDS = {".c", ".h", ".sql", ".py", ".md", ".ipynb"}
# A path or a bare name, with `*` as in a shell.
NAME = re.compile(r"(?<![\w/*.-])[\w/*.-]*[\w*]\.(?:c|h|sql|py|md|ipynb)\b(?![(\w])")
# Files of other projects, examples, what commands write, and the function pg_llm.sql.
ELSEWHERE = {"setup.py", "values.ipynb", "pg_llm.sql", "nbgrader_config.py", "ann/04_attention_by_hand.ipynb"}
ELSEWHERE |= {"04_attention_by_hand/04_attention_by_hand.ipynb", "roles.sql", "llm.c"}
ELSEWHERE |= {"lab/tree/my_notebooks/00_start_here.ipynb"}  # part of the address of Binder's badge


def prose(path: Path) -> str:
    """The prose of a file: a page's text, a source's comments and docstrings."""
    text = path.read_text()
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        return "\n".join(
            "".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"
        )
    if path.suffix == ".py":
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
        return "\n".join(comments + [ast.get_docstring(node) or "" for node in nodes])
    line = "--" if path.suffix == ".sql" else "//"
    return "\n".join(re.findall(rf"/\*.*?\*/|{line}[^\n]*", text, re.DOTALL))


def missing(prose: str, names: list[str]) -> list[str]:
    """The names in a text that match no path of the repository."""
    named = {re.sub(r"^(\.\.?/)+", "", name) for name in NAME.findall(prose)} - ELSEWHERE
    return sorted(n for n in named if not any(fnmatch(path, n) or fnmatch(path, f"*/{n}") for path in names))


@pytest.mark.parametrize("prose, expected", [
    ("`src/base/memory.c` is gone, mirror.c too", ["mirror.c", "src/base/memory.c"]),
    ("plan.c, engine/plan*.c and ../engine/plan.c", []),
    ("ngine/plan.c", ["ngine/plan.c"]),
    ("pg_llm.md(1), e.g. i.e. v1.c2", []),
])  # fmt: skip
def test_a_missing_name_is_found(prose, expected):
    assert missing(prose, ["extension/engine/plan.c"]) == expected


def test_every_file_that_is_named_exists():
    names = [name for name in tracked() if (REPO / name).suffix in KINDS and (REPO / name).exists()]
    wrong = [
        f"{name}: {gone}"
        for name in names
        for gone in missing(prose(REPO / name), names)
        # In notebooks that is a column c of a table.
        if not (name.endswith(".ipynb") and gone.endswith(".c"))
    ]
    assert not wrong, "\n".join(wrong)
