"""The glossary: what the notebooks say, and every term of it in bold there."""

from __future__ import annotations

import nbformat
import pytest
from helpers.paths import REPO
from nbformat.v4 import new_markdown_cell, new_notebook

from pg_llm import KitError
from pg_llm.course import glossary

NOTEBOOKS = REPO / "notebooks"


def test_the_page_is_what_the_notebooks_say():
    """`python -m pg_llm.course.glossary` has written it since the notebooks changed."""
    assert (NOTEBOOKS / "GLOSSARY.md").read_text("utf-8") == glossary.page(NOTEBOOKS)


def test_each_term_is_said_in_a_sentence():
    found = glossary.entries(NOTEBOOKS)
    assert len(found) > 55
    for entry in found:
        assert 20 <= len(entry.text) <= 420 and "Predict:" not in entry.text, entry
        assert (NOTEBOOKS / entry.notebook).is_file()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A notebook 01 with a paragraph of three sentences, and a list of terms of its own."""
    cell = new_markdown_cell(
        "# A title with **grues**\n\nFirst there is one. A **grue** | is green. Then it is blue."
    )
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "01_colours.ipynb")
    monkeypatch.setattr(glossary, "SOURCE", tmp_path / "terms.toml")
    return tmp_path


@pytest.mark.parametrize(
    "where, text",
    [
        ("", "A grue | is green."),
        (", before = 1", "First there is one. A grue | is green."),
        (", before = 7, after = 7", "First there is one. A grue | is green. Then it is blue."),
        (', text = "A colour."', "A colour."),
    ],
)
def test_sentences_around_the_bold_word(folder, where, text):
    glossary.SOURCE.write_text(f'"grue" = {{ notebook = "01"{where} }}')
    assert glossary.entries(folder) == [("grue", text, "01_colours.ipynb")]
    assert f"| **grue** | {text.replace('|', chr(92) + '|')} | [01](01_colours.ipynb) |" in glossary.page(
        folder
    )


@pytest.mark.parametrize("wrong", ['"bleen" = { notebook = "01" }', '"grue" = { notebook = "02" }',
                                   '"grues" = { notebook = "01" }'])  # fmt: skip
def test_a_term_that_its_notebook_does_not_introduce(folder, wrong):
    glossary.SOURCE.write_text(wrong)
    with pytest.raises(KitError, match="has no \\*\\*"):
        glossary.entries(folder)
