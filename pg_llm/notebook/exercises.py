"""Instant checks of the notebooks' exercises: check("01.2", answer)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import psycopg

from pg_llm.notebook import session, solutions


def check(exercise: str, answer) -> None:
    """Prints whether an answer is right, or a hint; the attempt is kept in learner.attempt.

    Errors: KeyError for an exercise that does not exist. Example: check("01.2", answer)
    """
    if exercise not in solutions.EXERCISES:
        known = ", ".join(solutions.EXERCISES)
        raise KeyError(f"there is no exercise {exercise}; there are {known}")
    task = solutions.EXERCISES[exercise]
    value = plain(answer)
    if (
        value is None
        or value is Ellipsis
        or (isinstance(value, list) and value and all(v is None for v in value))
    ):
        print(f"Exercise {exercise} waits for your answer: fill it in above and run the cell again.")
        return
    right = _holds(task.right, value)
    _remember(exercise, right, value)
    if right:
        print(f"✓ Right. {task.praise}")
        return
    hints = [hint for test, hint in task.near if _holds(test, value)]
    print(f"✗ Not yet: {hints[0] if hints else task.hint}")


def plain(answer):
    """The value of a one-cell result; a one-row or one-column result as a list; anything else as it is."""
    if hasattr(answer, "iloc"):
        answer = (
            [tuple(row) for row in answer.itertuples(index=False)] if answer.ndim == 2 else answer.tolist()
        )
    if isinstance(answer, np.ndarray):
        return answer.item() if answer.ndim == 0 else answer
    if isinstance(answer, list) and all(isinstance(row, tuple) for row in answer):
        if len(answer) == 1:
            return answer[0][0] if len(answer[0]) == 1 else list(answer[0])
        if all(len(row) == 1 for row in answer):
            return [row[0] for row in answer]
        return list(answer)
    return answer


def _holds(test: Callable, value) -> bool:
    """True if the test accepts the value; a value of an unexpected kind is simply a wrong answer."""
    try:
        return bool(test(value))
    except (TypeError, ValueError, IndexError, KeyError, AttributeError):
        return False


def _remember(exercise: str, right: bool, value) -> None:
    """Stores one row per attempt, in a schema that %pg_llm reset keeps; a read-only session stores none."""
    conn = session.current().conn
    if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        return  # does not write into the learner's own transaction
    try:
        with conn.transaction():
            conn.execute("CREATE SCHEMA IF NOT EXISTS learner")
            conn.execute(
                "CREATE TABLE IF NOT EXISTS learner.attempt (exercise text NOT NULL, "
                "at timestamptz NOT NULL DEFAULT now(), is_right boolean NOT NULL, answer text)"
            )
            conn.execute(
                "INSERT INTO learner.attempt (exercise, is_right, answer) VALUES (%s, %s, %s)",
                [exercise, right, str(value)[:1000]],
            )
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction):
        pass
