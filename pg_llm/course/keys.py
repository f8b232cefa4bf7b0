"""A class's answer keys: the server judges, and students cannot read the solutions there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import psycopg
from psycopg.types.json import Jsonb

from pg_llm.course import check, store
from pg_llm.course.exercise import Exercise, exercises, to_dict
from pg_llm.errors import KitError


def install(echo: Callable[[str], object] = print) -> int:
    """Puts the keys of every installed exercise into the course's database; returns how many exercises.

    From then on check() on this server takes tasks and variants from there, and the server compares. Needs
    the role that owns the course's database, or a superuser. Errors: KitError.
    """
    from pg_llm.server import database as databases

    if not exercises():
        raise KitError("this installation has no exercises: pg_llm/course/exercises is empty")
    conn = databases.connect(fresh=True)
    try:
        found = {each.id: (each, keys(each, conn)) for each in exercises().values()}
    finally:
        conn.close()
    with store.connection() as course, _explained(), course.transaction():
        course.execute("DELETE FROM llm_course.exercise")
        for exercise, its_keys in found.values():
            spec = {**to_dict(exercise, answers=False), "options": exercise.options}
            course.execute("INSERT INTO llm_course.exercise VALUES (%s, %s)", [exercise.id, Jsonb(spec)])
            for variant, key in enumerate(its_keys):
                course.execute(
                    "INSERT INTO llm_course.answer_key VALUES (%s, %s, %s, %s)",
                    [exercise.id, variant, Jsonb(key), exercise.solution],
                )
    echo(f"{len(found)} exercises are judged by the server now")
    return len(found)


def remove() -> None:
    """Removes the keys: check() runs the installed solutions again. Attempts are kept."""
    with store.connection() as course, _explained():
        course.execute("DELETE FROM llm_course.exercise")


def keys(exercise: Exercise, conn: psycopg.Connection) -> list[dict]:
    """For each variant what the solution and the usual mistakes return. Errors: KitError."""
    return [
        {
            "solution": check.key(exercise, variant, conn, {}),
            "wrong": check.mistakes(exercise, variant, conn, {}),
        }
        for variant in exercise.variants
    ]


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Tells a role that does not own the course's tables whom to ask."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege:
        raise KitError(
            "only the owner of the course's database, or a superuser, may change the answer keys"
        ) from None
