"""The exercises, as written in exercises/NN.toml: one source for checks, cards, solutions and quizzes."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import PurePath
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from pg_llm.errors import KitError


@dataclass(frozen=True)
class Variant:
    """One set of data on which an answer is tried; the first of an exercise is the learner's own.

    setup: statements, whose temporary tables shadow the learner's tables of the same names.
    variables: Python variables, :name in SQL.
    select: further variables, each the value of a query, computed after setup.
    """

    setup: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    select: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wrong:
    """A plausible mistake and what to say to a learner whose result is that mistake's result."""

    answer: str
    message: str


@dataclass(frozen=True)
class Exercise:
    """One exercise; pg_llm/course/README.md describes the fields."""

    id: str
    title: str
    difficulty: int
    importance: int
    minutes: int
    task: str
    hints: tuple[str, ...]
    cell: str
    variants: tuple[Variant, ...]
    solution: str = ""
    right: tuple[str, ...] = ()
    wrong: tuple[Wrong, ...] = ()
    praise: str = ""
    language: str = "sql"
    defines: str = ""
    probe: str = ""
    fallback: str = ""
    writes: bool = False
    ordered: bool = False
    tolerance: float | None = None
    absolute: float = 1e-6
    either_sign: bool = False
    stand_in: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What the comparison in course.sql reads."""
        return {
            "ordered": self.ordered,
            "tolerance": self.tolerance,
            "absolute": self.absolute,
            "either_sign": self.either_sign,
            "probed": bool(self.probe),
            "stand_in": self.stand_in,
        }


def from_dict(data: Mapping[str, Any]) -> Exercise:
    """An exercise from a table of a TOML file. Errors: KitError for a missing or unknown field."""
    fields = dict(data)
    fields["hints"] = tuple(fields.get("hints", ()))
    fields["right"] = tuple(fields.get("right", ()))
    try:
        fields["wrong"] = tuple(Wrong(**each) for each in fields.get("wrong", ()))
        fields["variants"] = tuple(Variant(**each) for each in fields.pop("variant", ())) or (Variant(),)
        return Exercise(**fields)
    except TypeError as error:
        raise KitError(f"exercise {data.get('id', '?')}: {error}") from None


def to_dict(exercise: Exercise, answers: bool) -> dict[str, Any]:
    """The reverse of from_dict; answers False leaves out the solution, the answers and the mistakes.

    The fallback and the variants' setup stay, since they are run in a student's own database.
    """
    data = {
        name: value
        for name, value in vars(exercise).items()
        if name not in ("variants", "wrong", "right", "solution", "hints") and value is not None
    }
    data["hints"] = list(exercise.hints)
    data["variant"] = [
        {"setup": v.setup, "variables": dict(v.variables), "select": dict(v.select)}
        for v in exercise.variants
    ]
    if answers:
        data["solution"], data["right"] = exercise.solution, list(exercise.right)
        data["wrong"] = [vars(each) for each in exercise.wrong]
    return data


@functools.cache
def notebooks() -> dict[str, dict]:
    """The contents of every exercises/NN.toml, by the notebook's number; {} where the files are left out."""
    folder = resources.files("pg_llm.course").joinpath("exercises")
    if not folder.is_dir():
        return {}
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {f.name[:2]: tomllib.loads(f.read_text(encoding="utf-8")) for f in files}


def numbers(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The numbers of notebooks: 4, 04, 04_attention_by_hand and that file's path all are "04".

    known: the numbers to choose from. Errors: KitError for any other.
    """
    files = {n: notebooks()[n]["notebook"]["file"] if n in notebooks() else n for n in known}
    found = []
    for name in names:
        stem = PurePath(name).name.removesuffix(".ipynb")
        here = [number for number, file in files.items() if stem in (number, str(int(number)), file)]
        if not here:
            raise KitError(f"there is no notebook {name}; there are {', '.join(files) or 'none here'}")
        found += here
    return found


@dataclass(frozen=True)
class Part:
    """A part of a notebook, as its teacher plans it.

    reading: minutes to read and run its cells. skip: why a lesson may leave it out, or what to do instead;
    empty: it belongs to the lesson.
    """

    name: str
    reading: int
    exercises: tuple[Exercise, ...] = ()
    skip: str = ""

    @property
    def minutes(self) -> int:
        """Minutes to read, to run the cells and to solve the exercises."""
        return self.reading + sum(each.minutes for each in self.exercises)


def plan(number: str) -> list[Part]:
    """The parts of notebook `number` (as "04"), in order; together they take the notebook's minutes."""
    return [
        Part(
            each["part"],
            each["minutes"],
            tuple(exercises()[name] for name in each.get("exercises", ())),
            each.get("skip", ""),
        )
        for each in notebooks()[number]["teacher"]["plan"]
    ]


@functools.cache
def exercises() -> dict[str, Exercise]:
    """All exercises of the installed files, by their id."""
    found = [from_dict(each) for file in notebooks().values() for each in file.get("exercise", ())]
    return {each.id: each for each in found}
