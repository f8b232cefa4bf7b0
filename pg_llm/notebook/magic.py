"""%load_ext pg_llm: %%sql cells (ipython-sql's magic) and Python on one connection, and %pg_llm.

ipython-sql rewrites `{…}`, `:name` and `$word` inside SQL, prints errors without raising them, refuses BEGIN.
NotebookSql, its subclass, sends a cell as written; only a `:name` that is a Python variable is a parameter.
"""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Callable

import prettytable
import psycopg
import sqlalchemy
from IPython.core.error import UsageError
from IPython.core.magic import (
    Magics,
    cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)
from psycopg import adapt
from sql.connection import Connection
from sql.magic import SqlMagic
from sql.run import FakeResultProxy, ResultSet

from pg_llm import catalog
from pg_llm.errors import KitError
from pg_llm.notebook import pictures, render, session, sqltext
from pg_llm.server import database as databases
from pg_llm.server import rights

ROWS_SHOWN = 50
OURS = "pg_llm"  # ipython-sql's name of the notebook's connection: %sql pg_llm switches back from another one
HELP = """\
%%sql                      the cell is SQL; several statements may follow one another, the last table is shown
%%sql rows <<              the result goes to the Python variable rows instead
… WHERE x = :name          the Python variable name as a parameter
%sql SELECT 1              one line of SQL; rows = %sql SELECT 1 works too
pg_llm.sql("SELECT …")     a DataFrame with tensors as numpy arrays
%pg_llm status             the database, its server and its models
%%check 04.2               the cell is the answer to an exercise; says whether it is right
%pg_llm progress           the exercises that you have tried, of all notebooks
%pg_llm reset              a clean database; keeps models named my_*
%pg_llm help               this text"""

_OPTION = re.compile(
    r"\s*(-[lxcspaf]\b|--(connections|close|creator|section|persist|append|connection_arg|file)\b)"
)
_RESULT = re.compile(r"\s*(\w+)\s*<<(?=\s)")


class NotebookConnection(Connection):
    """ipython-sql's view of the notebook's connection: it uses the same psycopg connection."""

    def __init__(self, conn: psycopg.Connection):
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=lambda: conn,
            poolclass=sqlalchemy.StaticPool,
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,
        )
        self.url = engine.url
        self.dialect = engine.dialect
        self.name = OURS
        self.internal_connection = engine.connect()
        self.connect_args: dict = {}
        Connection.connections[OURS] = Connection.current = self


class Result(ResultSet):
    """ipython-sql's result set, drawn by pg_llm.notebook.render."""

    def _draw(self, table):
        shown = self.config.displaylimit or len(self)
        note = f"{len(self):,} rows, the first {shown} shown" if len(self) > shown else ""
        return table(self.field_names, list(self)[:shown], note=note)

    def _repr_html_(self):
        return self._draw(render.html_table)

    def __repr__(self):
        return self._draw(render.text_table)

    __str__ = __repr__


def named_rows(cursor):
    """psycopg row factory: tuples whose values have the columns' names, where Python allows those."""
    names = [column.name for column in cursor.description or []]
    return collections.namedtuple("Row", names, rename=True)._make


class _AsWritten(adapt.Loader):
    """Keeps tensors in %%sql results as the server's text, a summary if they are large."""

    def load(self, data) -> str:
        return bytes(data).decode()


@magics_class
class NotebookSql(SqlMagic):
    """%sql and %%sql; see %pg_llm help."""

    @no_var_expand
    @needs_local_scope
    @line_magic("sql")
    @cell_magic("sql")  # type: ignore[arg-type]  # IPython's decorators declare no types
    def execute(self, line="", cell="", local_ns=None):
        """Runs SQL on the notebook's connection; ipython-sql's options and connection strings still work."""
        text = f"{line}\n{cell}"
        first = (text.split(None, 1) or [""])[0]
        if text.strip() == OURS:
            Connection.current = Connection.connections[OURS]
            return None
        elsewhere = not isinstance(Connection.current, NotebookConnection)
        if _OPTION.match(line) or "://" in first or elsewhere:
            return super().execute(line, cell, local_ns)
        target = _RESULT.match(text)
        if target is None:
            return self._run(text, local_ns or {})
        name, variables = target.group(1), {**self.shell.user_ns, **(local_ns or {})}
        # After an error there is no result: later cells must not read that of an earlier one.
        self.shell.user_ns.pop(name, None)
        self.shell.user_ns[name] = self._run(text[target.end() :], variables)
        return None

    execute.parser = SqlMagic.execute.parser
    execute.argcmd_name = "sql"  # type: ignore[assignment]

    def _run(self, text, local_ns):
        """Executes the statements in turn; the last one that returns rows is the cell's result."""
        variables = {**self.shell.user_ns, **local_ns}
        result = None
        with session.connection() as conn, conn.cursor(row_factory=named_rows) as cursor:
            tensor = conn.adapters.types.get("tensor")
            if tensor:
                cursor.adapters.register_loader(tensor.oid, _AsWritten)
            for statement in sqltext.split(text):
                query, used = sqltext.bind(statement, variables)
                cursor.execute(query, {name: variables[name] for name in used} or None)
                if cursor.description:
                    result = Result(FakeResultProxy(cursor, [c.name for c in cursor.description]), self)
        if result is not None:
            result.query = text
        return result


@magics_class
class KitMagics(Magics):
    """%pg_llm: commands for the notebook's database as a whole."""

    @line_magic
    def pg_llm(self, line=""):
        """%pg_llm status | progress | reset | help"""
        word = line.strip().lower() or "help"
        if word in COMMANDS:
            return COMMANDS[word]()
        raise UsageError(f"%pg_llm knows {', '.join(COMMANDS)}, not {word}")


def reset() -> None:
    """A clean database for this notebook."""
    session.current().reset()
    print("This notebook has a clean database now; models named my_* were kept.")


def status():
    """One row per fact about the session, as a DataFrame: columns item and value."""
    from pg_llm.notebook.frames import Frame

    conn = session.current().conn
    try:
        with conn.transaction():
            query = "SELECT DISTINCT model FROM {0}.llm_param ORDER BY model"
            rows = conn.execute(catalog.qualified(conn, query)).fetchall()
        models = ", ".join(row[0] for row in rows) or "none yet"
    except psycopg.errors.InsufficientPrivilege as error:
        models = error.diag.message_primary or "may not be read"
        print(f"HINT: {rights.hint(error)}")
    extension = catalog.value(conn, "SELECT extversion FROM pg_extension WHERE extname = 'pg_llm'")
    # A student's database loads the library, which knows the setting, with the first tensor.
    query = "SELECT current_setting('pg_llm.threads'), {0}.tensor '[0]'"
    threads = catalog.value(conn, catalog.qualified(conn, query))
    facts = {
        "database": conn.info.dbname,
        "server": f"PostgreSQL {conn.info.parameter_status('server_version')}"
        + (" of PG_LLM_DSN" if databases.dsn() else ", embedded"),
        "extension": f"pg_llm {extension}",
        "threads": threads.replace("0", "as many as there are"),
        "models with weights": models,
    }
    return Frame({"item": list(facts), "value": list(facts.values())})


# What %pg_llm does; pg_llm.course adds progress.
COMMANDS: dict[str, Callable[[], object]] = {
    "status": status,
    "reset": reset,
    "help": lambda: print(HELP),
}

# -- loading ----


def load_ipython_extension(shell) -> None:
    """Starts or finds the server, opens the notebook's database, and defines %%sql and %pg_llm."""
    shell.set_custom_exc((psycopg.Error, KitError), _show_error)
    try:
        _open(_notebook(shell))
    except (psycopg.Error, KitError) as error:
        # IPython prints an extension's exceptions with a long traceback; this prints only the reason.
        _brief(error)
        raise
    shell.register_magics(NotebookSql(shell))
    shell.register_magics(KitMagics)
    magic = shell.magics_manager.registry["NotebookSql"]
    # ipython-sql knows prettytable's styles by name; later prettytables renamed the plain one.
    magic.style = "DEFAULT" if hasattr(prettytable, "DEFAULT") else "_DEPRECATED_DEFAULT"
    magic.short_errors = magic.feedback = magic.displaycon = False
    magic.displaylimit = ROWS_SHOWN
    pictures.register(shell)
    # plot_* return Axes, whose text adds nothing to their figure.
    shown = shell.display_formatter.ipython_display_formatter
    shown.for_type_by_name("matplotlib.axes._axes", "Axes", lambda axes: None)


def _notebook(shell) -> str | None:
    """The file of this kernel's notebook, if Jupyter or VS Code reveals it."""
    return os.environ.get("JPY_SESSION_NAME") or shell.user_ns.get("__vsc_ipynb_file__")


def _open(notebook: str | None) -> None:
    try:
        opened = _database_of(notebook)
    except KitError:
        if not databases.dsn():
            raise
        # A role that may not create databases works in the one that the DSN names.
        opened = session.start(None, fresh=False)
        print(f"Your role creates no databases on this server: all its notebooks share {opened.database}.")
    opened.on_connect(lambda current: NotebookConnection(current.conn))


def _database_of(notebook: str | None) -> session.Session:
    """A session in the notebook's own database; a fresh database for a kernel without a notebook."""
    if notebook is None:
        return session.start(None, fresh=True)
    name = databases.database_for(notebook)
    known = databases.database_exists(name)
    opened = session.start(name, fresh=False)
    if known:
        print(f"The database of this notebook, {name}, is as you left it; %pg_llm reset gives a clean one.")
        if databases.build_of(name) not in (None, databases.current_build()):
            print("An older build of pg_llm made it: %pg_llm reset brings it up to date.")
    return opened


# -- errors ----


def describe(error: BaseException) -> str:
    """An error as PostgreSQL's own client shows it: message, place, detail, hint."""
    if not isinstance(error, psycopg.Error) or not error.diag.message_primary:
        return f"{type(error).__name__}: {error}"
    lines = [f"ERROR {error.sqlstate}: {error.diag.message_primary}"]
    # psycopg's own text contains the line of the query with a mark below it.
    lines += re.findall(r"^LINE \d+: .*\n.*\^", str(error), re.MULTILINE)
    lines += [f"DETAIL: {error.diag.message_detail}"] if error.diag.message_detail else []
    lines += [f"HINT: {error.diag.message_hint}"] if error.diag.message_hint else []
    lines += [f"HINT: {rights.hint(error)}"] if rights.hint(error) else []
    colon = re.search(r'at or near ":"', error.diag.message_primary)
    lines += ["HINT: is `:name` meant as a Python variable? There is none of that name."] if colon else []
    if error.sqlstate == "25P02":
        lines.append("HINT: an earlier statement of this transaction failed; leave it with %sql ROLLBACK")
    return "\n".join(lines)


def _brief(error: BaseException) -> str:
    text = f"\x1b[31m{describe(error)}\x1b[0m"
    session.show_instead(error, text)
    return text


def _show_error(shell, kind, error, traceback, tb_offset=None):
    lines = [_brief(error)]
    shell._showtraceback(kind, error, lines)
    return lines
