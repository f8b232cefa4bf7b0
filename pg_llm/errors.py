"""The errors of pg_llm itself; what the server refuses arrives as psycopg.Error."""

from __future__ import annotations


class PgLlmError(Exception):
    """The base of every error that pg_llm raises itself: `except pg_llm.PgLlmError` catches them all."""


class KitError(PgLlmError, RuntimeError):
    """Something outside the program is not as it must be; the message ends with the way to mend it."""


class NoExtensionError(PgLlmError, LookupError):
    """The database that a connection leads to does not have the extension pg_llm."""

    def __init__(self) -> None:
        super().__init__("this database has no extension pg_llm; run: CREATE EXTENSION pg_llm")
