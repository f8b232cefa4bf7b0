"""The errors of pg_llm itself; what the server refuses arrives as psycopg.Error."""

from __future__ import annotations


class PgLlmError(Exception):
    """The base of every error that pg_llm raises itself: `except pg_llm.PgLlmError` catches them all."""


class KitError(PgLlmError, RuntimeError):
    """Something outside the program must be fixed: a file, the server, a right. The message says how."""


class NoExtensionError(PgLlmError, LookupError):
    """The connection's database does not have the extension pg_llm."""

    def __init__(self) -> None:
        super().__init__("this database has no extension pg_llm; run: CREATE EXTENSION pg_llm")
