"""%sql on other databases, by the package sql: ipython-sql or jupysql, whichever of the two is installed.

Each installs its files into a package of that name, and both together may be one that cannot be imported; so
%%sql cells in the notebook's own database need neither.
"""

from __future__ import annotations

import re
from typing import Any

import prettytable
import psycopg
from IPython.core.magic import Magics

from pg_llm.errors import KitError
from pg_llm.notebook import session

OURS = "pg_llm"  # the package's name of the notebook's connection: %sql pg_llm switches back from another one
# The options of both packages' %sql.
_OPTION = re.compile(
    r"\s*(-[lxcspafPnSwNA]\b|--(connections|close|creator|section|persist|persist-replace|no-index|append"
    r"|connection_arguments|file|save|with|no-execute|alias|interact)\b)"
)


class Elsewhere:
    """The package's own %sql, which ours calls for options, connection strings and other connections."""

    def __init__(self, ours: Magics):
        self.ours: Any = ours
        self.is_current = False  # %sql runs on a connection that the package made
        self._magic: Any = None
        self._view: Any = None  # the package's view of the notebook's connection
        self._behind: psycopg.Connection | None = None  # the connection that this is a view of

    def wants(self, line: str, cell: str) -> bool:
        """True if the package is to run this %sql or %%sql."""
        first = (f"{line}\n{cell}".split(None, 1) or [""])[0]
        return self.is_current or bool(_OPTION.match(line)) or "://" in first

    def execute(self, line: str, cell: str, local_ns: dict | None):
        """Runs it with the package. Errors: KitError if there is no working one."""
        self._load()
        self._hand_over()
        try:
            return self._magic.execute(line, cell, local_ns)
        finally:
            self.is_current = _manager().current is not self._view

    def leave(self) -> None:
        """Makes the notebook's own connection the current one again."""
        if self.is_current:
            self.is_current = False
            _manager().current = self._view

    def keep_ours(self) -> None:
        """After each cell: %load_ext sql replaces %sql and %%sql; puts ours back, and says so."""
        if self.adopt(self.ours.shell.find_cell_magic("sql")):
            print(
                "%sql and %%sql are still pg_llm's, in the notebook's database; "
                "with an option or a connection string they use the package sql."
            )

    def adopt(self, found: object) -> bool:
        """Registers ours in place of the magic found, if that is the package's."""
        magic: Any = getattr(found, "__self__", None)
        if not type(magic).__module__.startswith("sql."):
            return False
        magic.autopandas, magic.displaylimit = self.ours.autopandas, self.ours.displaylimit
        magic.feedback = magic.displaycon = False
        magic.short_errors = False  # an error fails the cell
        if not _is_jupysql() and not hasattr(prettytable, magic.style):
            magic.style = "_DEPRECATED_DEFAULT"  # the name in later prettytables
        self._magic, self._behind = magic, None
        self.ours.shell.register_magics(self.ours)
        return True

    def _load(self) -> None:
        if self._magic is None:
            try:
                self.ours.shell.extension_manager.load_extension("sql")
            except Exception as error:  # a mixture of the two packages fails in many ways
                raise KitError(f"other connections need a package that fails here: {advice(error)}") from None
            self.adopt(self.ours.shell.find_cell_magic("sql"))

    def _hand_over(self) -> None:
        """Gives the package the notebook's connection, for --persist and the like."""
        conn = session.current().conn
        if self.is_current or self._behind is conn:
            return
        if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            # SQLAlchemy would begin with a ROLLBACK.
            raise KitError("first end your transaction, with %sql COMMIT or %sql ROLLBACK")
        self._view, self._behind = _view(conn), conn
        _manager().current = self._view


def advice(error: Exception) -> str:
    """Why the package sql fails, and the way to a working one."""
    return (
        f"sql, of jupysql or ipython-sql ({type(error).__name__}: {error}); "
        "this installs it anew: pip install --force-reinstall --no-deps jupysql"
    )


def _is_jupysql() -> bool:
    from sql import connection

    return hasattr(connection, "ConnectionManager")


def _manager():
    """The class that holds the package's connections."""
    from sql import connection

    return connection.ConnectionManager if _is_jupysql() else connection.Connection


def _view(conn: psycopg.Connection):
    """A connection object of the package over the psycopg connection conn."""
    import sqlalchemy
    from sql import connection

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: conn,
        poolclass=sqlalchemy.StaticPool,
        isolation_level="AUTOCOMMIT",
        pool_reset_on_return=None,
    )
    if _is_jupysql():
        return connection.SQLAlchemyConnection(engine, alias=OURS)
    # ipython-sql's own constructor would make another engine, whose pool rolls back.
    view = connection.Connection.__new__(connection.Connection)
    view.url, view.dialect, view.name, view.connect_args = engine.url, engine.dialect, OURS, {}
    view.internal_connection = engine.connect()
    connection.Connection.connections[OURS] = view
    return view
