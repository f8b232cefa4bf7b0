"""The notebooks' quizzes for learning platforms: GIFT (Moodle) and QTI 1.2 (Canvas)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from pg_llm.course.exercise import notebooks, numbers
from pg_llm.errors import KitError

LETTERS = "abcdefgh"


def write(folder: Path, kind: str, only: Iterable[str] = ()) -> list[Path]:
    """Writes a file for each notebook that has a quiz; returns the files.

    kind: "gift", or "qti", which the package text2qti makes. only: notebooks, by number or name; none: all.
    Errors: KitError for an unknown notebook, a missing package, a folder that cannot be written.
    """
    known = {number: file for number, file in notebooks().items() if file.get("quiz")}
    if not known:
        raise KitError("this installation has no quizzes: pg_llm/course/exercises is empty")
    only = numbers(only, known)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for number, file in known.items():
            if only and number not in only:
                continue
            name = file["notebook"]["file"]
            if kind == "gift":
                target = folder / f"{name}.gift"
                target.write_text(gift(name, file["quiz"]), encoding="utf-8")
            else:
                target = folder / f"{name}.zip"
                _qti(name, file["quiz"], target)
            written.append(target)
        return written
    except OSError as error:
        raise KitError(f"the quizzes cannot be written to {folder}: {error.strerror}") from None


def gift(name: str, questions: list[dict]) -> str:
    """A quiz in Moodle's GIFT format; texts are Markdown.

    https://docs.moodle.org/en/GIFT_format
    """
    lines = [f"$CATEGORY: pg_llm/{name}\n"]
    for n, each in enumerate(questions, 1):
        options = "".join(
            f"\t{'=' if i == each['answer'] else '~'}{_escaped(option)}\n"
            for i, option in enumerate(each["options"])
        )
        text, why = _escaped(each["question"]), _escaped(each["explanation"])
        lines.append(f"::{name} {n}::[markdown]{text} {{\n{options}\t####{why}\n}}\n")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Text without line ends, with GIFT's special characters escaped."""
    return re.sub(r"([\\~=#{}:])", r"\\\1", " ".join(text.split()))


def _qti(name: str, questions: list[dict], target: Path) -> None:
    if find_spec("text2qti") is None:
        raise KitError("QTI files are made by the package text2qti: pip install text2qti")
    from text2qti.config import Config
    from text2qti.err import Text2qtiError
    from text2qti.qti import QTI
    from text2qti.quiz import Quiz

    try:
        QTI(Quiz(text2qti(name, questions), config=Config(), source_name=name)).save(target)
    except Text2qtiError as error:
        raise KitError(f"text2qti refuses the quiz of {name}: {error}") from None


def text2qti(name: str, questions: list[dict]) -> str:
    """A quiz in the format of text2qti: the right option has an asterisk."""
    lines = [f"Quiz title: {name}"]
    for n, each in enumerate(questions, 1):
        lines += [
            "",
            f"{n}. {' '.join(each['question'].split())}",
            f"... {' '.join(each['explanation'].split())}",
        ]
        for i, option in enumerate(each["options"]):
            lines.append(f"{'*' if i == each['answer'] else ''}{LETTERS[i]}) {' '.join(option.split())}")
    return "\n".join(lines) + "\n"
