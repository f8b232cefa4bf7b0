"""%load_ext pg_llm: %%sql cells and Python on one connection, and %pg_llm.

A cell is sent as written; only a `:name` that is a Python variable is a parameter, and IN :name with a list
is = ANY(:name). ipython-sql and jupysql rewrite `{…}`, `:name` and `$word` inside SQL, and print errors
without raising them: elsewhere.py calls them for other connections only.
"""

from __future__ import annotations

import ast
import collections
import csv
import inspect
import io
import itertools
import keyword
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from IPython.core.error import UsageError
from IPython.core.magic import (
    Magics,
    cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)
from psycopg.types.json import set_json_loads
from traitlets import Bool, Int
from traitlets.config import Configurable

from pg_llm import catalog
from pg_llm.errors import KitError
from pg_llm.notebook import hints, parameters, pictures, render, session, sqltext, statement
from pg_llm.notebook.elsewhere import OURS, Elsewhere
from pg_llm.server import database as databases
from pg_llm.server import notebooks, rights

ROWS_SHOWN = 50
CUT = (
    "The result keeps the first {:,} of {:,} rows. All of them: pg_llm.sql(…), which needs memory for them, "
    "or %config SqlMagic.keeplimit = 0"
)
HELP = """\
%%sql                      the cell is SQL; several statements may follow one another, the last table is shown
%%sql rows <<              the result goes to the Python variable rows instead
… WHERE x = :name          the Python variable name as a parameter
%sql SELECT 1              one line of SQL; rows = %sql SELECT 1 works too
pg_llm.sql("SELECT …")     a DataFrame with tensors as numpy arrays
%pg_llm status             the database, its server and its models
%pg_llm train MODEL 400    400 steps in the background, with a monitor; options: every=50 prompt="It was"
%%check 04.2               the cell is the answer to an exercise; says whether it is right
%pg_llm progress           the exercises that you have tried, of all notebooks
%pg_llm reset              a clean database; keeps models named my_*
%pg_llm update             the newer functions after an update of pg_llm; keeps all tables and models
%pg_llm adopt NAME         takes another database along, for a notebook that was renamed
%pg_llm help               this text"""

_RESULT = re.compile(r"\s*([\w.]+)\s*<<")
# name=value or a word; a value may be quoted, or a dict
_ARGUMENT = re.compile(r"""(?:(\w+)=)?("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\{[^}]*\}|\S+)""")


class Result(list):
    """The rows of a query, drawn by pg_llm.notebook.render; read like a result set of ipython-sql.

    Rows are named tuples, the first of rowcount ones. Tensors are arrays; drawn they are the server's text, a
    summary if they have more than `most` elements (0: no limit).
    """

    def __init__(self, found: statement.Rows, config: SqlMagic, most: int = 0):
        super().__init__(map(_row_type(found.columns), found.rows))
        self.keys, self.rowcount = found.columns, found.count
        self.config, self._most = config, most

    def __getitem__(self, key):
        """The row at a position, or the only row whose first value is the text `key`."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        found = [row for row in self if row[0] == key]
        if len(found) != 1:
            raise KeyError(f"{len(found)} rows begin with {key!r}")
        return found[0]

    @property
    def field_names(self) -> list[str]:
        """The columns' names, made different from each other."""
        names: list[str] = []
        for name in self.keys:
            numbered = (f"{name}_{i}" for i in itertools.count(1))
            names.append(name if name not in names else next(n for n in numbered if n not in names))
        return names

    def dict(self) -> Mapping[str, tuple]:
        """Column name to the tuple of its values."""
        return dict(zip(self.field_names, zip(*self, strict=True), strict=False))

    def dicts(self) -> Iterator[Mapping[str, Any]]:
        """Yields each row as a dict."""
        return (dict(zip(self.field_names, row, strict=True)) for row in self)

    def DataFrame(self):
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self, columns=self.keys)

    def plot(self, **options):
        """The other columns over the first, drawn by pandas. options: those of DataFrame.plot."""
        import pandas as pd

        return self.DataFrame().set_index(self.keys[0]).apply(pd.to_numeric).plot(**options)

    def bar(self, **options):
        """A bar chart of the same."""
        return self.plot(kind="bar", **options)

    def pie(self, **options):
        """A pie chart of the same, one for each column."""
        return self.plot(kind="pie", subplots=True, **options)

    def csv(self, filename: str | None = None, **options) -> str | None:
        """The rows in CSV format: written to a file, or returned. options: those of csv.writer."""
        text = io.StringIO()
        rows = ([render.as_written(value) for value in row] for row in self)
        csv.writer(text, **options).writerows([self.field_names, *rows])
        if filename is None:
            return text.getvalue()
        Path(filename).write_text(text.getvalue(), encoding="utf-8", newline="")
        return None

    def _draw(self, table):
        shown = self.config.displaylimit or len(self)
        note = (
            f"{self.rowcount:,} rows, the first {min(shown, len(self))} shown"
            if self.rowcount > shown
            else ""
        )
        rows = [[render.as_written(v, self._most) for v in row] for row in list(self)[:shown]]
        return table(self.field_names, rows, note=note)

    def _repr_html_(self):
        return self._draw(render.html_table)

    def __repr__(self):
        return self._draw(render.text_table)

    __str__ = __repr__


def _row_type(names):
    """Makes tuples whose values have the columns' names, where Python allows those."""
    return collections.namedtuple("Row", names, rename=True)._make


@magics_class
class SqlMagic(Magics, Configurable):
    """%sql and %%sql; see %pg_llm help. Its name and traits are ipython-sql's, for %config SqlMagic."""

    displaylimit = Int(ROWS_SHOWN, min=0, config=True, allow_none=True, help="rows shown of a result; 0: all")
    keeplimit = Int(100_000, min=0, config=True, help="rows kept of a result; 0: all")
    autopandas = Bool(False, config=True, help="results are pandas DataFrames")

    def __init__(self, shell):
        Configurable.__init__(self, config=shell.config)
        Magics.__init__(self, shell=shell)
        shell.configurables.append(self)
        self.elsewhere = Elsewhere(self)

    @no_var_expand
    @needs_local_scope
    @line_magic("sql")
    @line_magic("SQL")
    @cell_magic("SQL")
    @cell_magic("sql")  # type: ignore[arg-type]  # IPython's decorators declare no types
    def execute(self, line="", cell="", local_ns=None):
        """Runs SQL on the notebook's connection; options and connection strings are for the package sql."""
        text = f"{line}\n{cell}"
        if text.strip() == OURS:
            return self.elsewhere.leave()
        if self.elsewhere.wants(line, cell):
            return self.elsewhere.execute(line, cell, local_ns)
        target = _RESULT.match(text)
        if target is None:
            return self._run(text, local_ns or {})
        if not target.group(1).isidentifier() or keyword.iskeyword(target.group(1)):
            raise UsageError(f"{target.group(1)} is not the name of a Python variable")
        name, variables = target.group(1), {**self.shell.user_ns, **(local_ns or {})}
        # After an error there is no result: later cells must not read that of an earlier one.
        self.shell.user_ns.pop(name, None)
        self.shell.user_ns[name] = self._run(text[target.end() :], variables, arrays=True)
        return None

    def _run(self, text, local_ns, arrays=False):
        """Executes the statements in turn; the last one that returns rows is the cell's result.

        arrays: tensors are read in full, not as the server's summaries.
        """
        variables = {**self.shell.user_ns, **local_ns}
        result, arrays = None, arrays or self.autopandas
        with session.connection() as conn:
            for written in sqltext.split(text):
                each = sqltext.any_of(written, parameters.lists(variables))
                query, used = sqltext.bind(each, variables)
                params = parameters.sent({name: variables[name] for name in used}) or None
                with hints.about(each, variables, conn):
                    found = statement.run(conn, query, params, keep=self.keeplimit, arrays=arrays)
                if found:
                    result = Result(found, self, session.DISPLAY_LIMIT if arrays else 0)
        if result is None:
            return None
        result.query = text
        if result.rowcount > len(result):
            print(CUT.format(len(result), result.rowcount))
        return result.DataFrame() if self.autopandas else result


@magics_class
class KitMagics(Magics):
    """%pg_llm: commands for the notebook's database as a whole."""

    @line_magic
    def pg_llm(self, line=""):
        """%pg_llm status | train MODEL STEPS [name=value …] | progress | reset [--force] | update [--force] |
        adopt DATABASE [--force] | help"""
        (_, word), *arguments = _ARGUMENT.findall(line) or [("", "help")]
        word = word.lower()
        if word in COMMANDS:
            named = {name: self._value(text) for name, text in arguments if name}
            words = [text for name, text in arguments if not name]
            force: dict[str, Any] = {"force": True} if "--force" in words else {}
            rest = [each for each in words if each != "--force"]
            takes = inspect.signature(COMMANDS[word])
            for option in (each for each in rest if each.startswith("-")):
                known = "only --force" if "force" in takes.parameters else "no option"
                raise UsageError(f"%pg_llm {word}: takes {known}, not {option}")
            try:
                takes.bind(*rest, **named, **force)
            except TypeError as error:
                raise UsageError(f"%pg_llm {word}: {error}") from None
            return COMMANDS[word](*rest, **named, **force)
        meant = hints.meant(hints.similar(word, COMMANDS, 0.6))
        raise UsageError(f"%pg_llm knows {', '.join(COMMANDS)}, not {word}{meant and '; ' + meant}")

    def _value(self, text: str) -> Any:
        """The value of name=text: a literal of Python, a variable as :name, or else the text itself."""
        if text.startswith(":") and text[1:].isidentifier():
            known: dict[str, Any] = self.shell.user_ns  # type: ignore[union-attr]
            if text[1:] not in known:
                raise UsageError(f"there is no Python variable {text[1:]}")
            return known[text[1:]]
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text


def reset(*, force: bool = False) -> None:
    """A clean database for this notebook; force: ends the sessions of others in it."""
    opened = session.current()
    opened.reset(force)
    if opened.schema:
        print("The tables of this notebook are gone; the models, which all your notebooks share, were kept.")
    else:
        print("This notebook has a clean database now; models named my_* were kept.")


def update(*, force: bool = False) -> None:
    """This build's functions in the notebook's database, which keeps its tables and models."""
    if session.current().update(force):
        print("The database of this notebook is of this build now; its tables and models are as they were.")
    else:
        print("The database of this notebook is of this build already.")


def adopt(database: str, *, force: bool = False) -> None:
    """Makes another database this notebook's; force: also if that one's notebook still exists."""
    opened = session.current()
    before = opened.database
    opened.adopt(database, force)
    print(f"The database of this notebook is {opened.database} now.")
    if before != opened.database:
        print(f"The one before, {before}, is still there; `pg-llm databases drop {before}` removes it.")


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


# What %pg_llm does; pg_llm.course adds progress, pg_llm.widgets train.
COMMANDS: dict[str, Callable[..., object]] = {
    "status": status,
    "reset": reset,
    "update": update,
    "adopt": adopt,
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
    before = shell.find_cell_magic("sql")
    sql = SqlMagic(shell)
    session.current().on_connect(lambda opened: set_json_loads(render.read_json, opened.conn))
    shell.register_magics(sql, KitMagics)
    sql.elsewhere.adopt(before)
    shell.events.register("post_execute", sql.elsewhere.keep_ours)
    shell.events.register("post_run_cell", _show_hint)
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
        if notebook and opened.use_schema(notebook):
            print(f"The tables of this one are in the schema {opened.schema}; the models are everywhere.")


def _database_of(notebook: str | None) -> session.Session:
    """A session in the notebook's own database; a fresh database for a kernel without a notebook."""
    if notebook is None:
        return session.start(None, fresh=True)
    # What others who are connected to a database see of this kernel, and psql that is started from it.
    os.environ.setdefault("PGAPPNAME", notebooks.application_name(notebook))
    claim = notebooks.claim(notebook)
    name = claim.database
    opened = session.start(name, fresh=False, notebook=notebook)
    if claim.other:
        print(f"The database of this notebook is {name}: the one of its name {claim.other}.")
    for lost in claim.lost[:3]:
        print(f"Was this notebook {lost.notebook}? %pg_llm adopt {lost.database} takes its database along.")
    if claim.known:
        print(f"The database of this notebook, {name}, is as you left it; %pg_llm reset gives a clean one.")
        print("Python's variables are not: Run > Run All Above Selected Cell, in Jupyter, sets them again.")
        if not databases.is_current(name):
            print(
                "An older build of pg_llm made it: %pg_llm update brings it up to date and keeps its tables."
            )
    return opened


# -- errors ----


def describe(error: BaseException, guess: bool = True) -> str:
    """An error as PostgreSQL's own client shows it: message, place, detail, hint.

    guess: then what may have been meant.
    """
    if not isinstance(error, psycopg.Error):
        return f"{type(error).__name__}: {error}"
    diag, written = error.diag, hints.written(error)
    if diag.message_primary:
        lines = [f"ERROR {error.sqlstate}: {diag.message_primary}", hints.line(error)]
        lines += [f"DETAIL: {diag.message_detail}"] if diag.message_detail else []
        lines += [f"HINT: {diag.message_hint}"] if diag.message_hint else []
        lines += [f"HINT: {grant}"] if (grant := rights.hint(error)) else []
    else:
        lines = [f"{type(error).__name__}: {error}"]
    lines += [f"HINT: {hint}" for hint in hints.hints(error)] if guess else []
    if error.sqlstate == "25P02":
        lines.append("HINT: an earlier statement of this transaction failed; leave it with %sql ROLLBACK")
    text = "\n".join(filter(None, lines))
    return written.named(text) if written else text


def _show_hint(result) -> None:
    """After a cell that failed in Python: says how it would be SQL."""
    hint = hints.of_cell(result.info.raw_cell or "", result.error_before_exec or result.error_in_exec)
    if hint:
        print(f"\x1b[31mHINT: {hint}\x1b[0m")


def _brief(error: BaseException) -> str:
    text = f"\x1b[31m{describe(error)}\x1b[0m"
    session.show_instead(error, text)
    return text


def _show_error(shell, kind, error, traceback, tb_offset=None):
    lines = [_brief(error)]
    shell._showtraceback(kind, error, lines)
    return lines
