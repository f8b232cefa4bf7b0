"""%%check 04.2: the cell below it is the answer to an exercise; %pg_llm progress."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, magics_class, no_var_expand
from IPython.display import display

from pg_llm.course import answers, store
from pg_llm.course import check as checks
from pg_llm.course.exercise import Exercise
from pg_llm.course.progress import progress
from pg_llm.errors import KitError
from pg_llm.notebook import session
from pg_llm.notebook.magic import COMMANDS, describe

# A check brings its own data and settings; a new session lacks what earlier cells made for the old one.
FAILS_HERE = """\
There is no result to show: outside the check the cell fails. After a restart, run the cells above again.
{}"""


def register(shell) -> None:
    """Defines %%check and %pg_llm progress."""
    shell.register_magics(CheckMagics)
    COMMANDS["progress"] = progress


@magics_class
class CheckMagics(Magics):
    """The cell magic of the exercises."""

    shell: Any

    @no_var_expand
    @cell_magic("check")  # type: ignore[arg-type]  # IPython's decorators declare no types
    def check(self, line, cell):
        """Runs the cell's answer, shows its result, and says whether it is right."""
        name = line.strip()
        if not name:
            raise UsageError("%%check needs the number of an exercise: %%check 04.2")
        try:
            exercise, keyed = store.find(name)
        except KitError as error:
            raise UsageError(str(error)) from None
        verdict = checks.judged(exercise, keyed, cell, self.shell.user_ns)
        failure = ""
        if verdict.score is not None and not verdict.endless:
            failure = self._show(exercise, cell)
        print(verdict)
        if failure and failure.splitlines()[0] not in verdict.message:
            print(FAILS_HERE.format(failure))
        if exercise.fallback:
            self._provide(exercise, cell if verdict.is_right else None)
        elif verdict.is_right and exercise.language == "sql" and _defines(cell):
            checks.define(exercise, cell, self.shell.user_ns)

    def _show(self, exercise: Exercise, cell: str) -> str:
        """Displays what the answer gives on the learner's own data; returns the error if it fails there."""
        try:
            if exercise.language == "python":
                value = answers.evaluated(cell, self.shell.user_ns)
                if value is not None:
                    display(value)
            elif _is_query(cell):
                sql = self.shell.magics_manager.registry["SqlMagic"]
                with session.connection() as conn, answers.undone(conn):
                    answers.limited(conn)
                    display(sql._run(cell, {}))
        except psycopg.Error as error:
            return describe(error)
        except Exception as error:  # a learner's code may raise anything
            if exercise.language != "python":
                raise
            return f"{type(error).__name__}: {error}"
        return ""

    def _provide(self, exercise: Exercise, answer: str | None) -> None:
        """Defines what later cells use, by the learner's answer if it is right, else by the kit's own."""
        what = f"result for the table {exercise.defines}" if exercise.defines else "version of it"
        if exercise.language == "python":
            if answer is None:
                exec(exercise.fallback, self.shell.user_ns)
        elif answer is not None:
            try:
                checks.define(exercise, answer, self.shell.user_ns)
                return
            except KitError as error:  # right, but under names that no later cell knows
                checks.define(exercise, None, self.shell.user_ns)
                print(f"One more thing: {error}. Until then they use the kit's own {what}.")
                return
            except psycopg.Error:  # right on the check's data, but a table of an earlier cell is missing here
                answer = None
                checks.define(exercise, None, self.shell.user_ns)
        else:
            checks.define(exercise, None, self.shell.user_ns)
        if answer is None:
            print(f"Until then the cells below use the kit's own {what}.")


def _defines(cell: str) -> bool:
    """True if the cell only creates something; changes of rows are undone after the check."""
    with contextlib.suppress(answers.Unfit):
        return all(s.lower().startswith("create") for s in answers.statements(cell))
    return False


def _is_query(cell: str) -> bool:
    """True if the cell's last statement returns rows by itself."""
    with contextlib.suppress(answers.Unfit):
        return answers.is_query(answers.statements(cell)[-1])
    return False
