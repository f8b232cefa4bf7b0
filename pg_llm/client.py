"""Generation from Python over any psycopg 3 connection, autocommit or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import pq, sql
from psycopg.rows import class_row, tuple_row

from pg_llm.notebook import frames, session

_DEFAULT = object()  # an argument not given: the server's default holds (None is SQL's NULL)


@dataclass(frozen=True)
class Event:
    """One generated token: the piece that came and the whole text so far; is_complete marks the last one."""

    step: int
    token_id: int
    token: str
    text: str
    is_complete: bool


@dataclass(frozen=True)
class Beam:
    """One result of a beam search; score is its log-probability."""

    rank: int
    score: float
    text: str


class PGLLMClient:
    """Talks to a model over conn, or over the notebook's connection; model None is the database's default.

    >>> PGLLMClient(conn, model="my_gpt").generate("Hello", max_tokens=20, seed=1)  # doctest: +SKIP
    """

    def __init__(self, conn: psycopg.Connection | None = None, model: str | None = None):
        if conn is not None and not isinstance(conn, psycopg.Connection):
            raise TypeError(f"PGLLMClient takes a psycopg 3 Connection, not {type(conn).__name__}")
        self._conn = conn
        self.model = model

    def generate(
        self,
        prompt: str,
        max_tokens=_DEFAULT,
        temperature=_DEFAULT,
        topk=_DEFAULT,
        topp=_DEFAULT,
        model=_DEFAULT,
        eos=_DEFAULT,
        seed=_DEFAULT,
    ) -> str:
        """The prompt and its continuation. temperature 0 is greedy; eos None means no token ends the text."""
        arguments = self._arguments(locals())
        with self._cursor() as cursor:
            return cursor.execute(self._call("SELECT {}", "llm_generate", arguments), arguments).fetchone()[0]

    def stream(
        self,
        prompt: str,
        max_tokens=_DEFAULT,
        temperature=_DEFAULT,
        topk=_DEFAULT,
        topp=_DEFAULT,
        model=_DEFAULT,
        eos=_DEFAULT,
        seed=_DEFAULT,
    ) -> Iterator[Event]:
        """The same, token by token, each as soon as it is made. Closing the iterator cancels the rest."""
        arguments = self._arguments(locals())
        query = self._call(
            "SELECT step, token_id, token, text, is_complete FROM {}", "llm_generate_stream", arguments
        )
        return self._events(query, arguments)

    def beam_search(
        self, prompt: str, beam_width=_DEFAULT, max_tokens=_DEFAULT, model=_DEFAULT
    ) -> list[Beam]:
        """The most probable continuations that a beam of that width finds, best first."""
        arguments = self._arguments(locals())
        query = self._call("SELECT rank, score, text FROM {} ORDER BY rank", "llm_beam_search", arguments)
        with self._cursor(class_row(Beam)) as cursor:
            return cursor.execute(query, arguments).fetchall()

    def next_tokens(self, prompt: str, k: int | None = 10, model=_DEFAULT) -> frames.Frame:
        """The k most probable next tokens (None: all of them): rank, token_id, token, probability."""
        arguments = self._arguments(locals())
        return self._frame(self._call("SELECT * FROM {}", "llm_next_tokens", arguments), arguments)

    def graph(self, model: str | None = None) -> frames.Frame:
        """One row a node of the architecture: name, op, inputs, attrs, shape."""
        query = (
            "SELECT name, op, inputs, attrs, shape FROM {0}.llm_graph "
            "WHERE model = coalesce(%(model)s, {0}.llm_default_model()) ORDER BY id"
        )
        return frames.view(query, self._conn, model=model or self.model)

    def params(self, model: str | None = None) -> frames.Frame:
        """pg_llm.params of this client's model."""
        return frames.params(model or self.model, conn=self._conn)

    def train_log(self, model: str | None = None, run: int | None = None) -> frames.Frame:
        """pg_llm.train_log of this client's model."""
        return frames.train_log(model or self.model, run, conn=self._conn)

    def gradients(self, model: str | None = None, run: int | None = None) -> frames.Frame:
        """pg_llm.gradients of this client's model."""
        return frames.gradients(model or self.model, run, conn=self._conn)

    def tape(self, run: int | None = None) -> frames.Frame:
        """pg_llm.tape over this client's connection."""
        return frames.tape(run, conn=self._conn)

    def attention(
        self, run: int | None = None, layer: int | None = None, head: int | None = None
    ) -> frames.Frame:
        """pg_llm.attention over this client's connection."""
        return frames.attention(run, layer, head, conn=self._conn)

    def activations(self, run: int | None = None) -> frames.Frame:
        """pg_llm.activations over this client's connection."""
        return frames.activations(run, conn=self._conn)

    # -- the parts ----

    @contextlib.contextmanager
    def _cursor(self, row_factory=tuple_row):
        with session.connection(self._conn) as conn, conn.cursor(row_factory=row_factory) as cursor:
            yield cursor

    def _events(self, query: sql.Composed, arguments: dict) -> Iterator[Event]:
        with session.connection(self._conn) as conn, _undone_if_left(conn):
            session.streaming(conn, +1)
            try:
                with conn.cursor(row_factory=class_row(Event)) as cursor:
                    with contextlib.closing(cursor.stream(query, arguments)) as events:
                        yield from events
            finally:
                session.streaming(conn, -1)

    def _frame(self, query: sql.Composed, arguments: dict) -> frames.Frame:
        with (
            session.connection(self._conn) as conn,
            conn.cursor(binary=True, row_factory=tuple_row) as cursor,
        ):
            cursor.execute(query, arguments)
            return frames.frame(cursor)

    def _arguments(self, given: dict) -> dict:
        """What the caller gave, by SQL's names; this client's model where the caller gave none."""
        arguments = {k: v for k, v in given.items() if k != "self" and v is not _DEFAULT}
        arguments["model"] = arguments.get("model") or self.model
        return arguments if arguments["model"] else {k: v for k, v in arguments.items() if k != "model"}

    def _call(self, query: str, function: str, arguments: dict) -> sql.Composed:
        named = sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments
        )
        call = sql.SQL("{}.{}({})").format(self._schema(), sql.Identifier(function), named)
        return sql.SQL(query).format(call)

    def _schema(self) -> sql.Identifier:
        with session.connection(self._conn) as conn:
            return frames.schema(conn)


@contextlib.contextmanager
def _undone_if_left(conn: psycopg.Connection) -> Iterator[None]:
    """Leaving a stream early cancels its query; a savepoint keeps that from aborting an open transaction."""
    if conn.autocommit and conn.info.transaction_status == pq.TransactionStatus.IDLE:
        yield
    else:
        with conn.transaction():
            yield
