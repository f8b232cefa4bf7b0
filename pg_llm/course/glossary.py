"""The course's glossary: each term with the words of the notebook that introduces it.

glossary.toml lists the terms; python -m pg_llm.course.glossary writes notebooks/GLOSSARY.md anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat

from pg_llm.course.cells import GENERATED, QUIZ
from pg_llm.errors import KitError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SOURCE = Path(__file__).with_name("glossary.toml")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z*`\"'(])")
HEAD = """\
# Glossary

The words of the course, each as the notebook says it that introduces it.

| term | in words | introduced in |
|---|---|---|
"""


class Entry(NamedTuple):
    """A term, the sentences that introduce it, and the file name of their notebook."""

    term: str
    text: str
    notebook: str


def entries(folder: Path) -> list[Entry]:
    """The glossary of a folder's notebooks, in alphabetical order. Errors: KitError for a missing term."""
    terms = tomllib.loads(SOURCE.read_text("utf-8"))
    paths = {path.name[:2]: path for path in folder.glob("[0-9][0-9]_*.ipynb")}
    prose = {number: paragraphs(path) for number, path in paths.items()}
    found = []
    for term, where in terms.items():
        number, bold = where["notebook"], f"**{where.get('bold', term)}**"
        for text in prose.get(number, []):
            sentences = SENTENCE.split(text)
            at = next((k for k, sentence in enumerate(sentences) if bold in sentence), None)
            if at is not None:
                first = max(0, at - where.get("before", 0))
                said = (
                    " ".join(sentences[first : at + 1 + where.get("after", 0)]).replace("**", "").rstrip(":")
                )
                found.append(Entry(term, where.get("text", said), paths[number].name))
                break
        else:
            raise KitError(
                f"glossary.toml: notebook {number} has no {bold} in its text, for the term {term!r}"
            )
    return sorted(found, key=lambda entry: entry.term.lower())


def paragraphs(path: Path) -> list[str]:
    """A notebook's own prose, a string for each paragraph or point of a list, without headings and tables."""
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "markdown"]
    texts = [c.source for c in cells if not c.id.startswith(GENERATED) and not QUIZ.match(c.source)]
    texts = [re.sub(r"</?(?:details|summary)>", "", text) for text in texts]
    parts = [part.strip() for text in texts for part in re.split(r"\n\s*\n|\n(?=[-*#] |\d+\. )", text)]
    return [
        re.sub(r"^(?:[-*]|\d+\.) ", "", " ".join(p.split()))
        for p in parts
        if not p.startswith(("#", "|", "<"))
    ]


def page(folder: Path) -> str:
    """GLOSSARY.md as Markdown."""
    rows = [
        f"| **{e.term}** | {e.text.replace('|', chr(92) + '|')} | [{e.notebook[:2]}]({e.notebook}) |\n"
        for e in entries(folder)
    ]
    return HEAD + "".join(rows)


def main() -> None:
    """Writes the glossary of the checkout's notebooks."""
    folder = Path(__file__).resolve().parents[2] / "notebooks"
    (folder / "GLOSSARY.md").write_text(page(folder), "utf-8")


if __name__ == "__main__":
    main()
