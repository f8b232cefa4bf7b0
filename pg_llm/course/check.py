"""Checks of exercises: %%check 04.2 at the head of a cell, or check("04.2", "SELECT …").

The answer is a query or a program, not its value: it is run on the learner's data and on hidden variants of
it, and what it returns is compared with what the solution returns there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pg_llm.course import answers, store
from pg_llm.course.exercise import Exercise, Variant
from pg_llm.errors import KitError
from pg_llm.notebook import session, sqltext

WAITING = "Exercise {} waits for your answer: fill in the cell and run it again."
NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
COPIED = "this is the kit's own version, which stands in until yours is right. Write one yourself."


@dataclass(frozen=True)
class Verdict:
    """The result of a check.

    score: 0 to 1; None if the cell was not filled in yet.
    endless: the answer was stopped before its end.
    """

    exercise: str
    is_right: bool
    score: float | None
    message: str
    endless: bool = False

    def __str__(self) -> str:
        if self.score is None:
            return self.message
        if self.is_right:
            return f"✓ Right. {self.message}".rstrip()
        credit = f" ({self.score:.0%} of the points)" if self.score else ""
        return f"✗ Not yet{credit}: {self.message}"


_verdicts: dict[str, Verdict] = {}  # the newest of this session


def check(exercise: str, answer: Any) -> None:
    """Prints whether an answer is right, and if not what came and what to look at.

    answer: the query as text, or a result of %%sql, whose query is taken.
    The attempt is kept: see pg_llm.progress(). Errors: KitError for an exercise that does not exist and for
    a result that was the answer to another one, TypeError for a value.
    Example: check("00.2", "SELECT count(*) FROM llm_param")
    """
    text = getattr(answer, "query", answer)
    if not isinstance(text, str):
        raise TypeError(
            f'check takes the query, not its value: check({exercise!r}, "SELECT …"), or begin the cell '
            f"with %%check {exercise}; got {type(answer).__name__}"
        )
    found, keyed = store.find(exercise)
    if text is not answer:  # a result
        before = vars(answer).setdefault("exercise", exercise)
        if before != exercise:
            raise KitError(
                f"this result was the answer to {before}; run the cell with the answer to {exercise} first"
            )
    print(judged(found, keyed, text, _namespace()))


def grade(exercise: str) -> float:
    """The score of the exercise's newest check in this session, 0 to 1; 0 if there was none."""
    verdict = _verdicts.get(exercise)
    return verdict.score or 0.0 if verdict else 0.0


def judged(exercise: Exercise, keyed: bool, answer: str, known: Mapping[str, Any]) -> Verdict:
    """Tries an answer, records the attempt and returns the verdict.

    keyed: the server has the keys; otherwise the solution is run beside the answer.
    """
    if is_blank(exercise, answer):
        store.looked(exercise.id)
        verdict = Verdict(exercise.id, False, None, WAITING.format(exercise.id))
    else:
        with session.connection() as conn:
            if conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
                raise KitError("an earlier statement of your transaction failed; leave it with %sql ROLLBACK")
            results = _results(exercise, answer, conn, known)
            with store.connection() as course:
                if keyed:
                    found = store.judge(course, exercise, answer, results)
                else:
                    found = _compared(exercise, results, course, conn, known)
                    message = found.get("message", "")
                    store.record(course, exercise.id, float(found["score"]), message, answer)
        message = exercise.praise if found["right"] else found["message"] + _quoted(exercise, answer)
        endless = any("endless" in result for result in results)
        verdict = Verdict(exercise.id, found["right"], float(found["score"]), message, endless)
    _verdicts[exercise.id] = verdict
    return verdict


def _results(exercise: Exercise, answer: str, conn: psycopg.Connection, known: Mapping) -> list[dict]:
    """What the answer gives on each variant; one that did not end is not tried on the rest."""
    if is_copy(exercise, answer):
        return [{"error": COPIED}] * len(exercise.variants)
    results: list[dict] = []
    for variant in exercise.variants:
        stopped = results and "endless" in results[-1]
        results.append(results[-1] if stopped else answers.tried(exercise, answer, variant, conn, known))
    return results


def _quoted(exercise: Exercise, answer: str) -> str:
    """What to say to a learner who put a variable of the exercise in quotes; empty if there is none."""
    if exercise.language == "python":
        return ""
    names = {name for v in exercise.variants for name in (*v.variables, *v.select)}
    for token in sqltext.tokens(answer):
        if token.kind == "string" and token.text[1:2] == ":" and token.text[2:-1] in names:
            return f"\nHINT: {token.text} is a text; the variable is {token.text[1:-1]}, without quotes"
    return ""


def is_blank(exercise: Exercise, answer: str) -> bool:
    """True if the cell contains nothing but what it contained at first."""
    return code_of(exercise.language, answer) in ([], code_of(exercise.language, exercise.cell))


def is_copy(exercise: Exercise, answer: str) -> bool:
    """True if an answer is the exercise's fallback, which everybody may read; other names do not hide it."""
    return bool(exercise.fallback) and _skeleton(answer) == _skeleton(exercise.fallback)


def _skeleton(code: str) -> list[str | int]:
    """The last statement, of a function the body, its words numbered in the order of their first use."""
    numbers: dict[str, int] = {}
    *_, last = "", *sqltext.split(code)
    body = re.search(r"\$(\w*)\$(.*)\$\1\$", last, re.DOTALL)
    return [
        numbers.setdefault(token.text.lower(), len(numbers)) if token.kind == "word" else token.text
        for token in sqltext.tokens(body[2] if body else last)
        if token.kind not in ("space", "comment") and token.text != ";"
    ]


def code_of(language: str, text: str) -> list[str]:
    """The code of a cell without comments and spaces."""
    if language == "python":
        return [line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip()]
    return [token.text for token in sqltext.tokens(text) if token.kind not in ("space", "comment")]


def _compared(
    exercise: Exercise,
    results: list[dict],
    course: psycopg.Connection,
    conn: psycopg.Connection,
    known: Mapping,
) -> dict:
    """The verdict by keys that are computed here; mistakes are computed for the variant that failed."""
    keys = [{"solution": key(exercise, variant, conn, known)} for variant in exercise.variants]
    found = store.verdict(course, exercise, results, keys)
    failed = found.get("failed")
    if failed is not None and ("rows" in results[failed] or raised(results[failed])):
        keys[failed]["wrong"] = mistakes(exercise, exercise.variants[failed], conn, known)
        found = store.verdict(course, exercise, results, keys)
    return found


def key(exercise: Exercise, variant: Variant, conn: psycopg.Connection, known: Mapping) -> dict:
    """What the solution returns on a variant. Errors: KitError."""
    result = answers.tried(exercise, exercise.solution, variant, conn, known)
    if "error" in result:
        raise KitError(
            f"exercise {exercise.id} cannot be checked here: its solution fails: {result['error']}"
        )
    return result


def mistakes(exercise: Exercise, variant: Variant, conn: psycopg.Connection, known: Mapping) -> list[dict]:
    """What the usual mistakes return on a variant, each with its message.

    A result is a table, or the code of a data exception; neither where the mistake fails otherwise.
    """
    results = answers.all_tried(exercise, [w.answer for w in exercise.wrong], variant, conn, known)
    return [
        {"message": wrong.message, **({"table": r} if "rows" in r else {"error": raised(r)})}
        for wrong, r in zip(exercise.wrong, results, strict=True)
    ]


def raised(result: dict) -> str | None:
    """The code of the data exception that a result is: a division by zero, a number out of range."""
    found = re.match(f"(?:{answers.PROBE_FAILED})?ERROR (22[0-9A-Z]{{3}}):", result["error"])
    return found[1] if found else None


def define(exercise: Exercise, answer: str | None, known: Mapping[str, Any]) -> None:
    """Makes what later cells need, by the learner's answer or, if that is None, by the fallback."""
    text = exercise.fallback if answer is None else answer
    with session.connection() as conn:
        if not exercise.defines:
            for statement in answers.statements(text):
                answers.execute(conn, statement, known)
            return
        with conn.transaction():
            conn.execute("SET LOCAL client_min_messages = warning")
            name = sql.Identifier(exercise.defines).as_string(conn)
            *first, last = answers.statements(text)
            for statement in first:
                answers.execute(conn, statement, known)
            conn.execute(f"DROP TABLE IF EXISTS {name}".encode())
            answers.execute(conn, f"CREATE TABLE {name} AS {last}", known)
            if answer is not None:
                _name_columns(exercise, name, conn, known)
                _type_columns(exercise, name, conn, known)


def _name_columns(exercise: Exercise, table: str, conn: psycopg.Connection, known: Mapping[str, Any]) -> None:
    """Gives a column that the answer left without its name the one that later cells use. Errors: KitError."""
    kit = answers.statements(exercise.fallback)[-1]
    wanted = _columns(answers.execute(conn, f"SELECT * FROM ({kit}) AS kit LIMIT 0", known))
    found = _columns(conn.execute(f"SELECT * FROM {table} LIMIT 0".encode()))
    missing, others = [c for c in wanted if c not in found], [c for c in found if c not in wanted]
    if not missing:
        return
    if len(missing) > 1 or len(others) > 1:  # which is which cannot be told by their names
        raise KitError(f"the cells below need the columns {', '.join(wanted)}, and yours have other names")
    old, new = sql.Identifier(others[0]), sql.Identifier(missing[0])
    conn.execute(sql.SQL("ALTER TABLE {} RENAME {} TO {}").format(sql.Identifier(exercise.defines), old, new))


def _type_columns(exercise: Exercise, table: str, conn: psycopg.Connection, known: Mapping[str, Any]) -> None:
    """Gives truth values and numbers that came as text, or as 0 and 1, the types that later cells use."""
    kit = answers.statements(exercise.fallback)[-1]
    wanted = _types(conn, answers.execute(conn, f"SELECT * FROM ({kit}) AS kit LIMIT 0", known))
    found = _types(conn, conn.execute(f"SELECT * FROM {table} LIMIT 0".encode()))
    for column, kind in wanted.items():
        if kind == "boolean" != found[column] or kind in NUMBERS and found[column] == "text":
            conn.execute(
                sql.SQL("ALTER TABLE {0} ALTER {1} TYPE {2} USING replace({1}::text, ',', '')::{2}").format(
                    sql.Identifier(exercise.defines), sql.Identifier(column), sql.SQL(kind)
                )
            )


def _types(conn: psycopg.Connection, cursor: psycopg.Cursor) -> dict[str, str]:
    """The SQL types of a result's columns, by name."""
    return {
        column.name: conn.execute("SELECT format_type(%s, NULL)", [column.type_code]).fetchall()[0][0]
        for column in cursor.description or []
    }


def _columns(cursor: psycopg.Cursor) -> list[str]:
    return [column.name for column in cursor.description or []]


def _namespace() -> dict[str, Any]:
    from IPython import get_ipython

    shell = get_ipython()
    return dict(shell.user_ns) if shell else {}
