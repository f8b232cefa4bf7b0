"""A pytest plugin for nbval that fails where nbval passes silently (-p helpers.notebook_guard --nbval).

nbval passes when an SQL cell prints its error instead of raising it, when a magic is unknown, when the
database cannot be reached, when a cell tagged raises-exception raises nothing, when a cell was saved unrun or
is skipped.
"""

from __future__ import annotations

import re

import pytest

# Patterns of failures that are printed rather than raised.
PRINTED_FAILURES = {
    r"^UsageError: .*not found": "an unknown magic",
    r"^Connection info needed in SQLAlchemy format": "a database that cannot be reached",
    r"\((?:psycopg|psycopg2|sqlite3)\.[\w.]+\)": "an SQL error that was printed, not raised",
    r"^\(Background on this error at: https://sqlalche\.me": "an SQL error that was printed, not raised",
    r"^Traceback \(most recent call last\)": "a printed traceback",
    r"^UsageError: ": "a magic used wrongly",
}


def pytest_runtest_setup(item):
    if type(item).__name__ == "IPyNbCell" and item.options["skip"]:
        item.raise_cell_error("Silent failure: the cell is skipped; a notebook's cells all run")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    if type(item).__name__ == "IPyNbCell":
        problem = silent_failure(item.cell, item.options, item.test_outputs or [])
        if problem:
            item.raise_cell_error(f"Silent failure: {problem}")
    return result


def silent_failure(cell, options, outputs) -> str | None:
    """The failure in a cell that nbval passed, or None."""
    if cell.source.strip() and cell.execution_count is None:
        return "the cell was saved without having been run, so nothing was compared"
    if options["check_exception"] and not any(o.output_type == "error" for o in outputs):
        return "the cell is tagged raises-exception and raised nothing"
    for output in outputs:
        if output.output_type == "stream":
            for pattern, name in PRINTED_FAILURES.items():
                if re.search(pattern, output.text, re.MULTILINE):
                    return name
    return None
