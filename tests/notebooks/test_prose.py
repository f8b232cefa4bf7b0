"""Numbers in the notebooks' prose are shown: each in a cell near by, or in [numbers] with its reason."""

from __future__ import annotations

import html
import re

import nbformat
import pytest
from helpers.notebooks import named
from helpers.paths import REPO, tracked

from pg_llm.course.cells import GENERATED, QUIZ
from pg_llm.course.exercise import exercises, notebooks

NEAR = 4  # code cells before and after a paragraph
NUMBER = re.compile(
    r"(?<![\w.,\-−/])[-−]?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?: ?(%|million|thousand))?(?![\w])"
)
SCALES = {"": 1.0, "%": 0.01, "million": 1e6, "thousand": 1e3}
# Code, formulas and links, and what counts or names rather than claims: headings, other notebooks, minutes.
LEFT_OUT = re.compile(
    r"```.*?```|`[^`]*`|\$[^$]*\$|\]\([^)]*\)|https?://\S+|<summary>.*?</summary>|^#.*$|^\d+\. "
    r"|(?i:notebooks?|exercises?|questions?|part|step|layer|head|row|token|position|figure|L) \d\d?(\.\d)?\b"
    r"|\[?\d\d ·|\b\d\d(?:–|-)\d\d\b|\d+ (?:minutes|seconds)|L\dH\d|GPT-\d|UTF-\d+|float\d+|\bint\d\b",
    re.DOTALL | re.MULTILINE,
)


def claims(text: str) -> list[tuple[str, float, float]]:
    """The numbers of a paragraph that claim something: as written, value, half a unit of the last digit."""
    found = []
    for match in NUMBER.finditer(LEFT_OUT.sub(" ", text)):
        whole, fraction, scale = match.groups()
        value = float(whole.replace(",", "") + (fraction or ""))
        if value <= 12 and not fraction and not scale:
            continue  # a number of things that the reader can count
        factor = SCALES[scale or ""]
        unit = 10.0 ** -len((fraction or ".")[1:])
        found.append((match.group().strip(), value * factor, unit * factor / 2))
    return found


def numbers(cell) -> set[float]:
    """Every number that a code cell or its output shows; percentages also as shares."""
    texts = [cell.source]
    for output in cell.outputs:
        data = output.get("data", {})
        texts += [output.get("text", ""), output.get("evalue", "")]
        texts += [html.unescape(str(data.get(kind, ""))) for kind in ("text/plain", "text/html")]
        texts += [str(meta.get("alt", "")) for meta in output.get("metadata", {}).values() if meta]
    found = set()
    for text in texts:
        for match in re.finditer(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?(?:e[-+]?\d+)?", text):
            found.add(float(match.group().replace(",", "")))
    return found


def unshown(notebook, allowed: set[str]) -> list[str]:
    """The claims of a notebook that no cell near by shows, each with the words around it."""
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    missing = []
    for i, cell in enumerate(notebook.cells):
        if (
            cell.cell_type != "markdown"
            or cell.get("id", "").startswith(GENERATED)
            or QUIZ.match(cell.source)
        ):
            continue
        if re.match(r"#+ (Further reading|References)", cell.source):
            continue
        near = [c for c in code if c < i][-NEAR:] + [c for c in code if c > i][:NEAR]
        shown = set().union(*(numbers(notebook.cells[c]) for c in near))
        for written, value, half in claims(cell.source):
            bare = re.sub(r"[^\d.]", "", written)
            if written in allowed or bare in allowed or bare in exercises():
                continue
            if not any(abs(n * f - value) <= half * 1.0001 for n in shown for f in (1, 0.01)):
                place = cell.source.find(written.split()[0])
                missing.append(f"{written}: …{cell.source[max(0, place - 40) : place + 40]!r}…")
    return missing


REFERENCE = re.compile(r"(?i:\bnotebooks?|\bexercises?)((?:(?:,| and| or| to|–|, and)? ?\d\d(?:\.\d+)?\b)+)")


def absent(text: str) -> list[str]:
    """The notebooks and exercises that a text names and that do not exist."""
    known = {*notebooks(), *exercises()}
    return [
        n for match in REFERENCE.findall(text) for n in re.findall(r"\d\d(?:\.\d+)?", match) if n not in known
    ]


def test_notebooks_and_exercises_that_are_named_exist():
    """But for the course's map, which says what is still to come."""
    pages = [REPO / name for name in tracked() if name.endswith((".md", ".ipynb", ".toml"))]
    pages.remove(REPO / "notebooks" / "README.md")
    texts = {
        path: "\n".join(c.source for c in nbformat.read(path, 4).cells)
        if path.suffix == ".ipynb"
        else path.read_text()
        for path in pages
        if path.exists()
    }
    assert {str(path.relative_to(REPO)): gone for path in texts if (gone := absent(texts[path]))} == {}


def test_an_absent_notebook_is_found():
    prose = (
        "Notebook 04, notebooks 09 to 19, exercises 04.2 and 04.9, Exercise 05.1–05.3; 20 tokens; notebook 99"
    )
    assert absent(prose) == ["19", "04.9", "99"]


@named
def test_numbers_in_prose_are_shown_near_by(path):
    reasons = notebooks().get(path.name[:2], {}).get("numbers", {})
    assert all(reason.strip() for reason in reasons.values())
    missing = unshown(nbformat.read(path, 4), set(reasons))
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    "prose, missing",
    [
        ("The loss is 1.357.", False), ("The loss is 1.36.", False), ("The loss is 1.37.", True),
        ("It has 12,345 rows.", False), ("It has 12,346 rows.", True), ("About 12 thousand rows.", False),
        ("It is 25 % of all.", False), ("It is 26 % of all.", True), ("Three of 4 are `999`.", False),
        ("See notebook 14 and exercise 04.2.", False), ("It takes 45 minutes.", False),
    ],
)  # fmt: skip
def test_the_test_finds_what_is_not_shown(prose, missing):
    cells = [
        nbformat.v4.new_markdown_cell(prose),
        nbformat.v4.new_code_cell(
            "SELECT 1", outputs=[nbformat.v4.new_output("stream", text="loss 1.3569 rows 12,345 share 0.25")]
        ),
    ]
    assert bool(unshown(nbformat.v4.new_notebook(cells=cells), set())) == missing
