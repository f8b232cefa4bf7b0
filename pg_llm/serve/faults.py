"""What goes wrong while a request is served, as HTTP status and OpenAI's error object."""

from __future__ import annotations

import psycopg
from psycopg_pool import PoolTimeout

from pg_llm.errors import KitError

RETRY_SECONDS = 1


class ApiError(KitError):
    """A refusal: HTTP status, message, OpenAI's type and code, and the parameter at fault."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After where trying again makes sense; what a 401 must say."""
        if self.status in (429, 503):
            return {"Retry-After": str(RETRY_SECONDS)}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}

    def body(self) -> dict:
        """The error in OpenAI's format."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
UNREACHABLE = "the database cannot be reached, or restarts; try again"
# The beginning of an SQLSTATE; the first that fits counts.
STATES = [
    ("54000", 400, "context_length_exceeded"),
    ("42704", 404, "model_not_found"),
    ("42501", 403, "permission_denied"),
    ("57014", 504, "timeout"),
    ("57P", 503, "database_unavailable"),
    ("53", 503, "overloaded"),
    ("08", 503, "database_unavailable"),
    ("22", 400, None),
    ("54", 400, None),
]


def of_database(error: Exception) -> ApiError:
    """The refusal for an error of the server, or of the connection to it.

    Only what the server says about the statement is passed on: the driver's messages may name hosts.
    """
    state = getattr(error, "sqlstate", None)
    lost = state is None and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    if lost or isinstance(error, PoolTimeout):
        return ApiError(503, UNREACHABLE, "database_unavailable")
    for start, status, code in STATES:
        if isinstance(error, psycopg.Error) and state and state.startswith(start):
            hint = error.diag.message_hint
            said = f"{error.diag.message_primary}{f'; {hint}' if hint else ''}"
            if code == "timeout":
                said = "the request took longer than this server allows"
            return ApiError(status, UNREACHABLE if code == "database_unavailable" else said, code)
    return ApiError(500, "internal error; the server's log has details", "internal_error")
