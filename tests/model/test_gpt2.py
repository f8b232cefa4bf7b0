"""OpenAI's GPT-2, where its weights are present: README's lines give the table that others have published."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
from helpers.paths import REPO

import pg_llm
from pg_llm.server import database as databases

pytestmark = pytest.mark.slow

README = (REPO / "README.md").read_text()


@pytest.fixture
def fresh(server):
    """A new database of the kit, which has GPT-2's tokenizer."""
    databases.drop_database("gpt2")
    with pg_llm.connect("gpt2") as conn:
        yield conn
    databases.drop_database("gpt2")


@pytest.fixture
def weights() -> Path:
    """The folder GPT2_FOLDER, or the one that a download has left in the cache."""
    if folder := os.environ.get("GPT2_FOLDER"):
        return Path(folder)
    try:
        return pg_llm.download("openai-community/gpt2", offline=True)
    except pg_llm.KitError as error:
        pytest.skip(f"GPT-2's weights are not here: pg-llm download gpt2, or set GPT2_FOLDER ({error})")


def test_the_published_table(weights, fresh, monkeypatch):
    monkeypatch.setattr(pg_llm, "connect", lambda: fresh, raising=False)
    monkeypatch.setattr(pg_llm, "download", lambda name: weights, raising=False)
    (code,) = re.findall(r"```python\n(.*?llm_next_tokens.*?)```", README, re.DOTALL)
    *lines, query = ast.parse(code).body
    names = {"pg_llm": pg_llm}
    exec(compile(ast.Module(lines, []), "README.md", "exec"), names)
    rows = eval(compile(ast.Expression(query.value), "README.md", "eval"), names)
    published = re.findall(r"^\| `( \w+)` \| (0\.\d{4}) \|$", README, re.MULTILINE)
    assert len(published) == 5
    assert [(token, f"{probability:.4f}") for token, probability in rows] == published
