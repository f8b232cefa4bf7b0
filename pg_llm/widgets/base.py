"""What the widgets share: they work on the notebook's connection, between its cells, and change nothing.

Every event reads in a transaction that is rolled back, a savepoint where the learner has a transaction open.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anywidget
import psycopg
import traitlets
from psycopg import pq, sql
from psycopg.rows import tuple_row

from pg_llm import catalog
from pg_llm.errors import KitError, PgLlmError
from pg_llm.notebook import session
from pg_llm.notebook.saving import VIEW
from pg_llm.widgets.picture import Drawn, figure

HERE = Path(__file__).resolve().parent
CSS = (HERE / "widget.css").read_text("utf-8")


def script(name: str) -> str:
    """The ES module of a widget: what all share, and its own part. Nothing is loaded from elsewhere."""
    return f"{(HERE / 'shared.js').read_text('utf-8')}\n{(HERE / f'{name}.js').read_text('utf-8')}"


class Database:
    """Queries of one event; {0} in them stands for the extension's schema."""

    def __init__(self, conn: psycopg.Connection):
        self.conn, self._schema = conn, catalog.schema(conn)

    def rows(self, query: str, *, binary: bool = False, **params) -> list[tuple[Any, ...]]:
        """All rows of a query; binary: large tensors with all of their values."""
        with self.conn.cursor(row_factory=tuple_row, binary=binary) as cursor:
            cursor.execute(sql.SQL(query).format(self._schema), params or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str, **params) -> Any:
        """The first column of the first row; None if there is no row."""
        found = self.rows(query, **params)
        return found[0][0] if found else None


@contextlib.contextmanager
def undone(conn: psycopg.Connection | None = None) -> Iterator[Database]:
    """A transaction that is rolled back at the end of the block; inside an open transaction, a savepoint.

    conn: None is the notebook's connection, whose open transaction is seen and left as it was.
    Errors: KitError where the connection cannot be used, psycopg.Error.
    """
    with session.connection(conn) as chosen:
        status = chosen.info.transaction_status
        if status == pq.TransactionStatus.INERROR:
            raise KitError(
                "an earlier statement of your open transaction failed, and the server takes no other one "
                "until it is left: run %sql ROLLBACK, then use this again"
            )
        if status == pq.TransactionStatus.ACTIVE:
            raise KitError(
                "a statement is still running on this connection; use this again when it has ended"
            )
        with chosen.transaction(force_rollback=True):
            # What the widget reads is no part of a recording that the learner has switched on.
            chosen.execute("SET LOCAL pg_llm.autograd = off")
            yield Database(chosen)


def between_cells(work: Callable[[], object]) -> None:
    """Runs work in the kernel's main thread: at once, or after the cell that runs there now.

    JupyterLab delivers the events of widgets to a thread of its own, even while a cell is running.
    """
    if threading.current_thread() is threading.main_thread():
        work()
        return
    running = kernel()
    if running is None:
        raise KitError("a widget is used in the main thread only")
    running.io_loop.add_callback(work)


def kernel():
    """The Jupyter kernel of this process, or None."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return getattr(get_ipython(), "kernel", None)


def in_words(error: BaseException) -> str:
    """An error as a widget shows it."""
    from pg_llm.notebook.magic import describe

    text = str(error) if isinstance(error, PgLlmError) else describe(error)
    return text.replace("run this cell again", "try again")


class Shown(anywidget.AnyWidget):
    """A widget with a static picture, which a saved notebook keeps and a terminal shows in words."""

    view = traitlets.Dict().tag(sync=True)  # what the script draws; n counts the answers
    error = traitlets.Unicode("").tag(sync=True)

    # -- what each widget defines ----

    def draw(self) -> str:
        """The static picture of what is shown now, as SVG."""
        raise NotImplementedError

    def describe(self) -> str:
        """What is shown now in words: the alternative text of the picture."""
        raise NotImplementedError

    # -- in a notebook, saved or not, and in a terminal ----

    def picture(self) -> Drawn:
        """What is shown now as a static picture with its description: a result of a cell, or save(file)."""
        return Drawn(self.draw(), self.describe())

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:  # type: ignore[override]
        text = self.describe()
        data: dict[str, Any] = {"text/plain": text, "text/html": figure(self.draw(), text)}
        if kernel() is not None:
            data[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return data, {}

    def __repr__(self) -> str:
        return self.describe()


class Widget(Shown):
    """A widget that shows what `look` reads from the database, and anew after each change of a control."""

    controls: tuple[str, ...] = ()  # traits whose change asks the database again

    def __init__(self, conn: psycopg.Connection | None = None, **traits):
        self._conn, self._answers, self._asked = conn, 0, False
        # Without a kernel, anywidget's channel to the page has no end; the picture needs none.
        super().__init__(**traits)
        self._answer()
        self.observe(self._changed, names=list(self.controls))
        self.on_msg(self._message)

    # -- what each widget defines ----

    def look(self, db: Database) -> dict:
        """What the script shows, from the database: runs in a transaction that is rolled back."""
        raise NotImplementedError

    # -- events ----

    def _answer(self) -> None:
        with undone(self._conn) as db:
            seen = self.look(db)
        self._answers += 1
        self.view = {**seen, "n": self._answers}

    def refresh(self) -> None:
        """Asks the database again; an error is shown in the widget."""
        self._asked = False
        try:
            self._answer()
            self.error = ""
        except (psycopg.Error, PgLlmError) as error:
            self.error = in_words(error)
            self._answers += 1
            self.view = {**self.view, "n": self._answers}

    def _ask(self) -> None:
        if not self._asked:  # several changes while a cell runs need one answer
            self._asked = True
            between_cells(self.refresh)

    def _changed(self, change: object) -> None:
        self._ask()

    def _message(self, widget: object, content: dict, buffers: object) -> None:
        if content.get("kind") == "again":
            self._ask()
        else:
            between_cells(lambda: self.told(content))

    def told(self, content: dict) -> None:
        """A message of the script, in the main thread."""
