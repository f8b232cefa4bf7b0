"""The connection of a notebook, shared by %%sql cells and Python.

Programs do not need this module: pg_llm.connect() returns a connection of their own.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import threading
import types
import weakref
from collections.abc import Callable, Iterator

import psycopg
from psycopg import pq, sql

from pg_llm import catalog
from pg_llm.errors import KitError
from pg_llm.notebook import parameters, values
from pg_llm.server import database as databases
from pg_llm.server import notebooks, template
from pg_llm.server.connect import maintenance

DISPLAY_LIMIT = 100  # elements of a tensor that %%sql shows in full
SETTINGS = f"-c pg_llm.display_limit={DISPLAY_LIMIT}"

LOST = (
    "What was committed is there; temporary tables, SET commands and an open transaction went with the old "
    "connection."
)
OPEN = "a transaction is open; end it first, with %sql COMMIT or %sql ROLLBACK"
REMADE = "The database was made anew meanwhile, by a reset or a drop: your tables went with the old one."

OID = "SELECT oid FROM pg_database WHERE datname = current_database()"

_current: Session | None = None
_streams: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Session:
    """A connection that is re-established, to the same database, after the server was restarted."""

    def __init__(self, database: str | None = None, fresh: bool = False, notebook: str | None = None):
        self.notebook = notebook
        self.schema: str | None = None
        self._oid: int | None = None
        self._listeners: list[Callable[[Session], object]] = []
        self._open(lambda: databases.connect_with(SETTINGS, database, fresh))
        self.database = self.conn.info.dbname

    def _open(self, connect: Callable[[], psycopg.Connection]) -> None:
        self.conn = connect()
        before, self._oid = self._oid, catalog.value(self.conn, OID)
        # What a new connection lacks.
        self.gone = LOST if before in (None, self._oid) else REMADE
        values.register(self.conn.adapters)
        parameters.register(self.conn.adapters)
        self.conn.add_notice_handler(show_notice)
        self.conn.add_notify_handler(show_notification)
        self.conn.execute(f"SET pg_llm.display_limit = {DISPLAY_LIMIT}")
        for listener in self._listeners:
            listener(self)

    def on_connect(self, listener: Callable[[Session], object]) -> None:
        """Calls listener now and after each reconnection."""
        self._listeners.append(listener)
        listener(self)

    def use_schema(self, notebook: str) -> bool:
        """Gives a notebook's tables a schema, where all notebooks share a database; False if it may not.

        The schema is named as the notebook's database would be, and comes first in search_path.
        """
        name = databases.database_for(notebook)
        try:
            self.conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))
        except psycopg.errors.InsufficientPrivilege:
            return False
        self.schema = name
        self.on_connect(lambda opened: opened._enter_schema(sql.Identifier(name)))
        return True

    def _enter_schema(self, name: sql.Identifier) -> None:
        self.conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
        path = "SELECT set_config('search_path', %s || ', ' || current_setting('search_path'), false)"
        self.conn.execute(path, [name.as_string(self.conn)])

    def reconnect(self) -> None:
        """Opens a new connection to the same database; the old one is closed."""
        if not self.conn.closed:
            self.conn.close()
        if self.notebook:
            notebooks.make_again(self.database, self.notebook)
        self._open(lambda: databases.connect_with(SETTINGS, self.database))

    def reset(self, force: bool = False) -> None:
        """A clean database under the same name; models named my_* and the learner's attempts are kept.

        Of a notebook that shares its database, the schema is emptied: its models stay.
        force: ends the sessions of others in it. Errors: KitError.
        """
        if self.schema:
            name = sql.Identifier(self.schema)
            with self.conn.transaction():
                self.conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))
                self.conn.execute(sql.SQL("CREATE SCHEMA {}").format(name))
            return
        if databases.build_of(self.database) is None:
            raise KitError(f"pg_llm did not make the database {self.database}, so it does not drop it either")
        if not force:
            with maintenance() as conn:
                me = self.conn.info.backend_pid
                databases.require_alone(conn, self.database, "%pg_llm reset --force", me)
        self.conn.close()
        databases.reset(self.database, force)
        self.reconnect()

    def update(self, force: bool = False) -> bool:
        """Brings the database to this build; False if it is of that. Errors: KitError, nothing has changed.

        force: ends the sessions of others in it.
        """
        from pg_llm.backup.update import update

        if self.conn.info.transaction_status != pq.TransactionStatus.IDLE:
            raise KitError(OPEN)
        with maintenance() as conn:
            if template.is_current(conn, template.read_note(conn, self.database)):
                return False
            if not force:
                me = self.conn.info.backend_pid
                databases.require_alone(conn, self.database, "%pg_llm update --force", me)
        self.conn.close()
        try:
            return update(self.database, force, say=lambda text: None)
        finally:
            self.reconnect()

    def adopt(self, database: str, force: bool = False) -> None:
        """Moves to another database, which belongs to this notebook from now on. Errors: KitError."""
        if self.notebook is None and databases.dsn() and not self.database.startswith(databases.FRESH):
            raise KitError(
                f"your role creates no databases here: all its notebooks share {self.database}, and "
                "none can be adopted; with CREATEDB each has its own"
            )
        if self.notebook is None:
            raise KitError("this kernel belongs to no notebook, so no database can belong to it")
        if self.conn.info.transaction_status != pq.TransactionStatus.IDLE:
            raise KitError(OPEN)
        self.database = notebooks.adopt(database, self.notebook, force)
        self.reconnect()

    def lost(self, error: psycopg.Error) -> KitError:
        """The error to raise after a statement found the connection broken; reconnects."""
        reason = (error.diag.message_primary or str(error)).strip().splitlines()[0]
        try:
            self.reconnect()
        except (KitError, psycopg.Error) as again:
            return KitError(f"the connection to the server is gone ({reason}), and a new one failed: {again}")
        return KitError(
            f"the connection to the server was lost: {reason}\n"
            f"A new one to the same database is open: run this cell again. {self.gone}"
        )


def current() -> Session:
    """The notebook's session; a program without one gets a session on the kit's own database."""
    global _current
    if _current is None:
        _current = Session()
    elif _current.conn.closed:
        _current.reconnect()
        print(f"The connection had been closed; a new one to the same database is open. {_current.gone}")
    _settle(_current.conn)
    return _current


def start(database: str | None, fresh: bool, notebook: str | None = None) -> Session:
    """Makes a session the current one; notebook: the path of the notebook that it belongs to."""
    global _current
    _current = Session(database, fresh, notebook)
    return _current


@contextlib.contextmanager
def connection(conn: psycopg.Connection | None = None) -> Iterator[psycopg.Connection]:
    """conn, or the notebook's connection, which is re-established if it breaks in the block: the error says
    so. A statement that the block leaves unfinished is ended."""
    session = None
    if conn is None:
        session = current()
        conn = session.conn
    else:
        catalog.require_characters(conn)
        _settle(conn)
    refuse_if_streaming(conn)
    try:
        yield conn
    except psycopg.Error as error:
        if session and conn.closed:
            raise session.lost(error) from None
        raise
    except KeyboardInterrupt as interrupt:
        # psycopg has cancelled the query; a notebook need not say more.
        show_instead(interrupt, "interrupted; the server stopped the statement")
        raise
    finally:
        _settle(conn)


def _settle(conn: psycopg.Connection) -> None:
    """Ends a statement that nobody reads any more, without which the connection accepts no other.

    Ending a COPY keeps an open transaction: what it sends is read, what it waits for is nothing.
    """
    if conn.closed or _streams.get(conn, 0) or not conn.lock.acquire(blocking=False):
        return  # a stream or another thread is at work
    try:
        pgconn = conn.pgconn
        if pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            return
        if pgconn.is_busy():
            conn.cancel_safe(timeout=5)
        while result := pgconn.get_result():
            if result.status == pq.ExecStatus.COPY_OUT:
                while pgconn.get_copy_data(0)[0] > 0:
                    pass
            elif result.status == pq.ExecStatus.COPY_IN:
                pgconn.put_copy_end()
    finally:
        conn.lock.release()


def show_instead(error: BaseException, text: str) -> None:
    """Makes IPython print text in place of the error's traceback."""
    vars(error)["_render_traceback_"] = lambda: [text]


def show_notice(diagnostic: psycopg.errors.Diagnostic) -> None:
    """Prints a NOTICE or WARNING of the server in the cell's output."""
    message = diagnostic.message_primary or ""
    if message.endswith(", skipping"):
        return  # for DROP … IF EXISTS and CREATE … IF NOT EXISTS, the user knows
    lines = [f"{diagnostic.severity_nonlocalized or diagnostic.severity}: {message}"]
    lines += [f"DETAIL: {diagnostic.message_detail}"] if diagnostic.message_detail else []
    lines += [f"HINT: {diagnostic.message_hint}"] if diagnostic.message_hint else []
    print("\n".join(lines))


def show_notification(notification: psycopg.Notify) -> None:
    """Prints what NOTIFY sent to a channel that the session listens to."""
    print(f"NOTIFY {notification.channel}: {notification.payload}")


# -- a streaming connection can do nothing else ----


def _half_read(conn: psycopg.Connection) -> bool:
    """True if a generator of psycopg's waits with the connection's lock, for somebody to read on."""
    code = psycopg.Cursor.stream.__code__
    return any(
        each.gi_code is code
        and inspect.getgeneratorstate(each) == inspect.GEN_SUSPENDED
        and inspect.getgeneratorlocals(each)["self"].connection is conn
        for each in gc.get_objects()
        if isinstance(each, types.GeneratorType)
    )


def streaming(conn: psycopg.Connection, change: int) -> None:
    """Counts the open streams of a connection."""
    _streams[conn] = _streams.get(conn, 0) + change


def refuse_if_streaming(conn: psycopg.Connection) -> None:
    """Rejects another statement on a streaming connection, which would wait forever for this thread's own
    lock."""
    if threading.current_thread() is not threading.main_thread():
        return
    if _streams.get(conn, 0):
        raise KitError(
            "a stream is still open on this connection; read it to its end, call its .close(), "
            "or use another connection: pg_llm.connect()"
        )
    if conn.lock.locked() and _half_read(conn):
        raise KitError(
            "the rows of a cursor.stream() on this connection are read half; read them to the end, call "
            "their .close(), or use another connection: pg_llm.connect()"
        )
